"""The pixel and the region term of DenseSiam (arXiv 2203.11075)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from mmssl_ext.errors import UserValueError
from mmssl_ext.registry import MODELS

from ..layers import overlap_grid, require_boxes, sample, unit
from ..layers.cell_mlp import cell_mlp
from ..losses import pixel_similarity, region_contrast, region_vectors
from ..part import Features, check_positive, is_count, one_of
from .base import Term

if TYPE_CHECKING:
    from ..algorithms.method import Method, Step


class _Overlap(Term):
    """A term that compares common points of two views, S x S in their overlap.

    A mean over all images of the batch, of which those whose views do not overlap add
    0, as in PixPro.
    """

    always = True
    needs_features = True
    needs_boxes = True

    def __init__(
        self, num_points: int, weight: Any, init_cfg: dict | None, **sizes: Any
    ) -> None:
        super().__init__(weight, init_cfg)
        self.num_points = num_points
        for key, size in {"num_points": num_points, **sizes}.items():
            if size is not None and not is_count(size):
                raise UserValueError(
                    f"{key}={size!r} of the term {type(self).__name__} must be a whole "
                    "number above 0."
                )

    def channels(self, method: Method) -> int:
        """Of the map that the heads take."""
        self.check_views(method)
        if method.channels is None:
            raise UserValueError(
                f"The term {type(self).__name__} has to know the channels of the "
                "feature map; set feat_dim of the backbone, or take one that says them."
            )
        return method.channels

    def last_map(self, encoder: Any, maps: Any) -> Tensor:
        """The backbone's last map, N x C x h x w."""
        if maps[-1].ndim != 4:
            raise UserValueError(
                f"The term {type(self).__name__} compares the cells of feature maps, "
                f"but {type(encoder.backbone).__name__} returns "
                f"{tuple(maps[-1].shape)}; let it return its maps."
            )
        return maps[-1]

    def grids(self, step: Step, a: int, b: int) -> tuple[Tensor, Tensor, Tensor]:
        """Common points of two views, N x S x S x 2 each, and where there are any.

        Raises:
            ValueError: The batch does not say where its views were cut.
        """
        if step.boxes is None:
            require_boxes(None, type(self).__name__, ())
        assert step.boxes is not None
        return overlap_grid(step.boxes[:, a], step.boxes[:, b], self.num_points)


def _mean(losses: Tensor, valid: Tensor) -> Tensor:
    """Mean over all images of a batch, of which the invalid ones count 0."""
    return torch.where(valid, losses, 0.0).mean()


@MODELS.register_module()
class PixelSimilarity(_Overlap):
    """Each point's embedding, predicted, must be that of the point in the other view.

        z = g_d(F),  p = h_d(z)                  N x C' x h x w
        L = mean_n,s -cos(p_1[n, s], sg(z_2[n, s])),  s: S x S points of the overlap

    Args:
        embed_channels: C' of the dense projector; None is the size of the base's.
        predictor_channels: Hidden width of the predictor; None is a quarter of C'.
        num_layers: Of the projector.
        num_points: S.
        form: ``cosine``, or ``softmax``: cross-entropy of the softmax over the C'
            channels, as in the authors' segmentation.
        weight: See :class:`Term`.
        init_cfg: As for every mmengine module.

    Raises:
        ValueError: A size is no whole number, or the form is none of these.
    """

    name = "pixel_similarity"

    def __init__(
        self,
        embed_channels: int | None = None,
        predictor_channels: int | None = None,
        num_layers: int = 3,
        num_points: int = 7,
        form: str = "cosine",
        weight: Any = None,
        init_cfg: dict | None = None,
    ) -> None:
        widths = embed_channels, predictor_channels
        sizes = dict(zip(("embed_channels", "predictor_channels"), widths, strict=True))
        super().__init__(num_points, weight, init_cfg, num_layers=num_layers, **sizes)
        self.widths, self.num_layers = widths, num_layers
        self.form = one_of("form", form, ("cosine", "softmax"))

    def attach(self, method: Method) -> None:
        """Make projector and predictor."""
        channels = self.channels(method)
        embed = self.widths[0] or method.dim
        hidden = self.widths[1] or max(1, embed // 4)
        widths = [embed] * self.num_layers
        self.projector = cell_mlp(channels, *widths, last_norm=True)
        self.predictor = cell_mlp(embed, hidden, embed)

    def parts(self) -> dict[str, nn.Module]:
        """The projector."""
        return {"pixel_projector": self.projector}

    def features(self, encoder: Any, maps: Any, outputs: Any) -> Features:
        """``pixels``, the map of z: N x C' x h x w."""
        projector = getattr(encoder, "pixel_projector", self.projector)
        return {"pixels": projector(self.last_map(encoder, maps))}

    def forward(self, method: Method, step: Step) -> Tensor:
        """Mean over the pairs, the images and the points."""
        views = method.query_views
        predicted = {a: self.predictor(step.online[a]["pixels"]) for a in views}
        losses = []
        for a, b in method.pairs:
            here, there, valid = self.grids(step, a, b)
            p = sample(predicted[a], here)
            z = sample(step.target[b]["pixels"].detach(), there)
            losses.append(_mean(pixel_similarity(p, z, self.form == "softmax"), valid))
        return method.over_pairs(losses)


@MODELS.register_module()
class RegionSimilarity(_Overlap):
    """Each soft region must find itself among the regions of the other view.

        m = softmax_k(g_m(F))                         N x K x S x S, in the overlap
        R_nk = sum_s m_nks F_ns                       N x K x C
        u = normalise(g_r(R)),  q = normalise(h_r(g_r(R)))
        L = mean_n,k CE(q_1[n, k] . u_2[n, :] / T, k)

    Regions of other images are not compared. Where the network is its own target, u has
    a gradient, as in the authors' code: the softmax over the regions keeps them apart.

    Args:
        num_regions: K.
        hid_channels: Width of the region projector and predictor.
        num_points: S.
        temperature: T.
        stop_gradient: Let u be constant, too, which is another method.
        weight: See :class:`Term`.
        init_cfg: As for every mmengine module.

    Raises:
        ValueError: ``temperature`` is not positive, or a size no whole number.
    """

    name = "region_similarity"

    def __init__(
        self,
        num_regions: int = 128,
        hid_channels: int = 256,
        num_points: int = 7,
        temperature: float = 0.1,
        stop_gradient: bool = False,
        weight: Any = None,
        init_cfg: dict | None = None,
    ) -> None:
        sizes = {"num_regions": num_regions, "hid_channels": hid_channels}
        super().__init__(num_points, weight, init_cfg, **sizes)
        self.num_regions, self.hid_channels = num_regions, hid_channels
        self.temperature = check_positive("temperature", temperature)
        self.stop_gradient = stop_gradient

    def attach(self, method: Method) -> None:
        """Make the layer of the masks, and projector and predictor of the regions."""
        channels, width = self.channels(method), self.hid_channels
        self.masks = cell_mlp(channels, self.num_regions, last_norm=True)
        self.projector = cell_mlp(channels, width, width, width, last_norm=True)
        self.predictor = cell_mlp(width, width, width)

    def parts(self) -> dict[str, nn.Module]:
        """The layer of the masks and the projector."""
        return {"region_masks": self.masks, "region_projector": self.projector}

    def features(self, encoder: Any, maps: Any, outputs: Any) -> Features:
        """``region_logits``, N x K x h x w, and ``region_maps``, N x C x h x w."""
        last = self.last_map(encoder, maps)
        masks = getattr(encoder, "region_masks", self.masks)
        return {"region_logits": masks(last), "region_maps": last}

    @torch.no_grad()
    def inspect(self, method: Method, inputs: list[Tensor]) -> dict[str, Any]:
        """Regions of the cells of the first pair of views.

        Returns:
            ``assigned``, the number of the largest region of each cell in both views,
            N x h x w each, and ``num_regions``.
        """
        encoders = method, method.target_encoder
        logits = [
            method.encode(encoder, inputs[view])["region_logits"]
            for encoder, view in zip(encoders, method.pairs[0], strict=True)
        ]
        largest = tuple(x.argmax(1).cpu().numpy() for x in logits)
        return {"assigned": largest, "num_regions": self.num_regions}

    def forward(self, method: Method, step: Step) -> Tensor:
        """Mean over the pairs, the images and the regions."""
        losses = []
        own = not method.target.encodes
        sides = {*method.pairs} | ({(b, a) for a, b in method.pairs} if own else set())
        # View and the one that it overlaps with: both directions share them.
        online = {
            (a, b): self.project(step.online[a], self.grids(step, a, b)[0])
            for a, b in sorted(sides)
        }
        for a, b in method.pairs:
            _, there, valid = self.grids(step, a, b)
            if own:
                z = online[b, a]
            else:
                head = method.target.region_projector
                with torch.no_grad():
                    z = self.project(step.target[b], there, head)
            q, u = _rows(self.predictor(online[a, b])), _rows(z)
            u = u.detach() if self.stop_gradient else u
            losses.append(_mean(region_contrast(q, u, self.temperature), valid))
        return method.over_pairs(losses)

    def project(
        self, features: Features, grid: Tensor, projector: Any = None
    ) -> Tensor:
        """Regions of a view in the overlap, projected: N x D x K x 1."""
        logits = sample(features["region_logits"], grid)
        vectors = region_vectors(logits, sample(features["region_maps"], grid))
        rows = vectors.transpose(1, 2)[..., None]  # N x C x K x 1
        return (projector or self.projector)(rows)


def _rows(projected: Tensor) -> Tensor:
    """N x D x K x 1 as unit rows N x K x D."""
    return unit(projected[..., 0].transpose(1, 2))
