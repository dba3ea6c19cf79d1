"""What a crop shows is searched in the teacher's maps (SCFS, arXiv 2212.06486)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from mmssl_ext.errors import UserValueError
from mmssl_ext.fit import map_widths
from mmssl_ext.registry import MODELS

from ..comparisons.centred import read_sharpness
from ..layers import unit
from ..layers.stage_head import StageHead
from ..memory import Centre
from ..part import Features, check_positive, is_count
from .base import Term

if TYPE_CHECKING:
    from ..algorithms.method import Method, Step


@MODELS.register_module()
class FeatureSearch(Term):
    """At every stage views must agree with the target, crops with what it has of them.

    Each of the backbone's maps has a head to D-dimensional unit rows, and the target a
    copy. The loss is the sum over the stages of ``(Lg + Ll) / 2``:

    * Lg: target views against each other, ``CE(softmax((t_i - c) / T'),
      softmax(s_j / T))``, with a centre c for every stage;
    * Ll: every other query view j against the first target view, whose map F' is
      weighted by its cells' likeness to the view, ``A_j = cos(GAP(F_j), F')``:
      ``CE(softmax(g'(A_j F') / T'), softmax(s_j / T))``, without a centre.

    Neither A nor the targets have a gradient. Without other query views Ll is 0.

    Args:
        out_channels: D.
        mid_channels: Of the bottleneck of each head.
        hid_channels: Hidden width of its MLP.
        temperature: T.
        target_temperature: T', below T: a number, or a
            :class:`~mmssl_ext.models.schedules.Schedule`.
        centre_momentum: Share of the old centres that each step keeps.
        weight: See :class:`Term`.
        init_cfg: As for every mmengine module.

    Raises:
        ValueError: A value is out of its range.
    """

    name = "stages"
    always = True
    needs_features = True
    heads: nn.ModuleList

    def __init__(
        self,
        out_channels: int = 256,
        mid_channels: int = 256,
        hid_channels: int = 2048,
        temperature: float = 0.1,
        target_temperature: Any = 0.04,
        centre_momentum: float = 0.9,
        weight: Any = None,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(weight, init_cfg)
        widths = {"mid_channels": mid_channels, "hid_channels": hid_channels}
        for key, width in {**widths, "out_channels": out_channels}.items():
            if not is_count(width):
                raise UserValueError(
                    f"{key}={width!r} of FeatureSearch must be a whole number above 0."
                )
        self.widths = mid_channels, hid_channels, out_channels
        self.temperature = check_positive("temperature", temperature)
        self.sharpness = read_sharpness(target_temperature, temperature)
        self.schedules = (self.sharpness,)
        self.centre_momentum = centre_momentum

    def attach(self, method: Method) -> None:
        """Make the heads.

        Raises:
            ValueError: There is no target network, or there are no maps.
        """
        self.check_views(method)
        if not method.target.encodes:
            raise UserValueError(
                "FeatureSearch searches the maps of a target network, which "
                f"{type(method.target).__name__} is not; take a base with a "
                "MomentumTarget, such as DINO or BYOL."
            )
        channels = map_widths(method.backbone)
        self.heads = nn.ModuleList(StageHead(c, *self.widths) for c in channels)
        self.centres = Centre(
            len(channels), self.widths[-1], momentum=self.centre_momentum
        )

    def parts(self) -> dict[str, nn.Module]:
        """The heads."""
        return {"stage_heads": self.heads}

    def features(self, encoder: Any, maps: Any, outputs: Any) -> Features:
        """``stage0``, ... of every map: N x D; and what is searched, and where.

        That is ``pooled0``, ..., N x C, of the online network, and ``map0``, ...,
        N x C x h x w, of the target.
        """
        if len(maps) != len(self.heads) or any(x.ndim != 4 for x in maps):
            raise UserValueError(
                f"FeatureSearch has {len(self.heads)} heads for maps, but "
                f"{type(encoder.backbone).__name__} returns outputs of the shapes "
                f"{[tuple(x.shape) for x in maps]}; let it return the maps that "
                "backbone.out_indices names."
            )
        heads = getattr(encoder, "stage_heads", None)
        searched = heads is not None
        found: Features = {}
        for i, x in enumerate(maps):
            found[f"stage{i}"] = (self.heads if heads is None else heads)[i](x)
            if searched:
                found[f"map{i}"] = x.detach()
            else:
                found[f"pooled{i}"] = x.detach().flatten(2).mean(2)
        return found

    def forward(self, method: Method, step: Step) -> Tensor:
        """Sum over the stages, a scalar."""
        sharpness = self.sharpness(method.clock)
        losses = []
        for i in range(len(self.heads)):
            whole = self.among_targets(method, step, i, sharpness)
            parts = self.of_crops(method, step, i, sharpness)
            losses.append((whole + parts) / 2)
        return torch.stack(losses).sum()

    def among_targets(
        self, method: Method, step: Step, stage: int, sharpness: float
    ) -> Tensor:
        """Lg of a stage."""
        centre, name = self.centres.value[stage], f"stage{stage}"
        targets, queries = method.target_views, method.query_views
        losses = [
            self.compare(step.target[b][name] - centre, step.online[a][name], sharpness)
            for a in targets
            for b in targets
            if a != b and a in queries
        ]
        if not losses:
            return step.target[targets[0]][name].new_zeros(())
        return torch.stack(losses).mean()

    def of_crops(
        self, method: Method, step: Step, stage: int, sharpness: float
    ) -> Tensor:
        """Ll of a stage; all crops are searched at once, crop after crop."""
        first, name = method.target_views[0], f"stage{stage}"
        crops = [v for v in method.query_views if v not in method.target_views]
        if not crops:
            return step.target[first][name].new_zeros(())
        seen = torch.stack([step.online[v][f"pooled{stage}"] for v in crops])
        maps = step.target[first][f"map{stage}"]
        heads: Any = method.target.stage_heads
        with torch.no_grad():
            found = heads[stage](maps, likeness(seen, maps))
        own = torch.cat([step.online[v][name] for v in crops])
        return self.compare(found, own, sharpness)

    def compare(self, t: Tensor, s: Tensor, sharpness: float) -> Tensor:
        """Mean cross-entropy of targets and predictions, M x D each, a scalar."""
        with torch.autocast(t.device.type, enabled=False):
            label = (t.detach() / sharpness).softmax(1)
            return -(label * (s / self.temperature).log_softmax(1)).sum(1).mean()

    def collect(self, method: Method, step: Step) -> Features:
        """Sum of the target views' rows, 1 x stages x D, and their number, 1."""
        names = [f"stage{i}" for i in range(len(self.heads))]
        rows = torch.stack([method.targets(step, name) for name in names])  # L x N x D
        count = rows.new_full((1,), rows.shape[1])
        return {"total": rows.sum(1)[None], "count": count}

    def remember(self, found: Features) -> None:
        """Move the centres."""
        self.centres.follow(found["total"].sum(0), found["count"].sum())


@torch.no_grad()
def likeness(pooled: Tensor, maps: Tensor) -> Tensor:
    """Cosines of pooled crops, M x N x C, with cells of maps, N x C x h x w.

    Returns:
        M x N x h x w.
    """
    with torch.autocast(maps.device.type, enabled=False):
        return torch.einsum("mnc,nchw->mnhw", unit(pooled), unit(maps, 1))
