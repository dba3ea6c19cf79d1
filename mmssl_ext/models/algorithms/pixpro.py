"""PixPro and PixContrast: pretext tasks for pixels, by their place in the image.

Paper: arXiv 2011.10043 (CVPR 2021). BYOL's network and target, on maps.

Where two crops of an image overlap, it is known which of their pixels, the cells of the
last map, show the same place. A cell of one view, smoothed over the cells of its view
that look alike, must point where a slow copy of the network sees the cells close to it
in the other view. The smoothing, which the copy lacks, takes the predictor's part.

    x  = g(f(im)),  x' = g'(f'(im))              N x C x P, P = 7 x 7 cells
    a_ij = max(cos(x_i, x_j), 0)^gamma           N x P x P, cells of one view, gamma 2
    y_i  = sum_j a_ij normalise(v(x_j))          N x C x P, v: convolution of 1 x 1
    A_ij = |place_i - place_j| < 0.7 diagonals of the larger cell
    L_pix = -2 mean_n [sum A_ij cos(y_i, x'_j) / sum A_ij], plus the same the other way
    L = L_pix + alpha L_inst                     L_pix in [-4, 4]

The optional instance branch, ``PooledRegression``, has heads of its own; the released
recipe has alpha 0. An image whose views have no pair adds 0 and counts in the mean.

PixContrast has neither smoothing nor v: a cell tells its pairs x'_j from all other
cells of the other view of its image, by a softmax of temperature 0.3.

Differs from the official code:
* places are edges in units of the image, there indices of pixels over W - 1 and H - 1;
* the momentum's schedule goes on when training is resumed, there it starts anew;
* the first momentum update is an exact copy.
PixContrast is not in the official code: it follows the equation as others quote it, and
its temperature is an unofficial code's. That alpha is 1 in the paper is unverified.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from mmssl_ext.errors import UserValueError
from mmssl_ext.registry import MODELS

from ..part import choices, is_number
from .method import Method


@MODELS.register_module()
class PixPro(Method):
    """Pixel-to-propagation consistency.

    Args:
        neck: Config of g, a ``ConvProjector``.
        pixel: Options of the term
            :class:`~mmssl_ext.models.terms.PixelConsistency`, such as ``gamma``.
        instance: Options of the instance branch,
            :class:`~mmssl_ext.models.terms.PooledRegression`, such as
            ``hid_channels``.
        instance_weight: alpha; with 0 there is no instance branch.
        momentum: Share of the target that each step keeps; the paper's is a cosine
            schedule from 0.99 to 1.
        pairs: Both directions.
        reduce: The pairs' losses are summed.
        terms: More terms.
        weights: Of more terms.
        **kwargs: As for :class:`Method`.

    Raises:
        ValueError: ``instance_weight`` is negative, or there are options of a branch
            that it leaves out.
    """

    pixel_term = "PixelConsistency"

    def __init__(
        self,
        neck: dict,
        pixel: Mapping[str, Any] | None = None,
        instance: Mapping[str, Any] | None = None,
        instance_weight: float = 0.0,
        momentum: Any = None,
        pairs: Any = ((0, 1), (1, 0)),
        reduce: str = "sum",
        terms: Sequence[dict] = (),
        **kwargs: Any,
    ) -> None:
        name = type(self).__name__
        if not is_number(instance_weight) or instance_weight < 0:
            raise UserValueError(f"instance_weight={instance_weight!r} must be >= 0.")
        if instance and not instance_weight:
            raise UserValueError(
                f"{name} has no instance branch, since instance_weight is 0; give it a "
                "weight, or leave instance out."
            )
        if momentum is None:
            momentum = {"kind": "cosine", "start": 0.99, "end": 1.0}
        own = [{"type": self.pixel_term, **(pixel or {})}]
        if instance_weight:
            branch = {"type": "PooledRegression", **(instance or {})}
            own.append(branch | {"weight": instance_weight})
        made = choices(
            name,
            kwargs,
            target={"type": "MomentumTarget", "momentum": momentum},
            compare={"type": "NoComparison"},
        )
        super().__init__(
            neck=neck, pairs=pairs, reduce=reduce, terms=[*own, *terms], **made
        )


@MODELS.register_module()
class PixContrast(PixPro):
    """A softmax over the cells of the other view, in place of PixPro's smoothing."""

    pixel_term = "PixelContrast"
