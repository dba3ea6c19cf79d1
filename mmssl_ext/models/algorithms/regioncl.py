"""RegionCL: contrast between swapped regions, on MoCo v2, DenseCL or SimSiam.

Paper: arXiv 2111.12309 (ECCV 2022).

Swap one rectangle between the images of a batch. A mixed image then shows two images:
the canvas around the rectangle, and the pasted content in it. Each part, pooled from
the one feature map, must find the key of the image that it came from, and the other
part of the same mixed image is one more negative.

    xm[i] = x_q[i], with x_q[perm(i)] inside the rectangle R
    c[i]  = normalise(mlp(mean of f(xm[i]) over the cells outside R))      N x D
    pm[i] = normalise(mlp(mean of f(xm[i]) over the cells inside R))       N x D
    p[i]  = pm[inv(i)]                          the paste whose content is image i
    L_canvas = InfoNCE(c[i], k[i], queue and sg(pm[i]))
    L_paste  = InfoNCE(p[i], k[i], queue and sg(c[inv(i)]))
    L = L_base + (L_canvas + L_paste) / 2

Only the query view is mixed, in a forward pass and with batch statistics of its own;
the queue never sees a region. Mean rather than sum of the two region losses is the
released code's way (what the paper writes is unverified).

Differs from the reference code:
* the rectangle is drawn in cells and reaches every border; there, pixels and pooled
  cells are one cell apart in 87 % of the draws;
* every place of the rectangle is equally likely; there, 64 % lie at the right border,
  and as many at the lower, where they are moved if they would leave the image;
* the pairing is undone by the inverse permutation, and no image of an odd batch is
  pasted into itself;
* one head serves whole images and regions (the second of the reference never exists).

RegionCL-D: its official code was not read; L_base is DenseCL's loss with lambda = 0.5,
as an independent implementation has it. RegionCL-S: no source was found. SimSiam knows
no negatives, so here each region of the mixed first view predicts the second view's
projection of its own image (our reading, unverified).
"""

from collections.abc import Sequence
from typing import Any

from mmssl_ext.registry import MODELS

from ..schedules import schedule
from .densecl import DenseCL
from .method import Method
from .moco import MoCo
from .simsiam import SimSiam


class RegionContrast(Method):
    """Mix-in: adds the region term.

    Args:
        region: ``cells`` and ``stride`` of :class:`~mmssl_ext.models.terms.Regions`.
        region_weight: Weight of the region loss, a number or a schedule; 0 switches it
            off.
        terms: More terms.
        **kwargs: As for the method that it is mixed into.
    """

    def __init__(
        self,
        region: dict,
        region_weight: Any = 1.0,
        terms: Sequence[dict] = (),
        **kwargs: Any,
    ) -> None:
        weight = schedule(region_weight, "region_weight")
        own = {"type": "Regions", "weight": weight, **region}
        super().__init__(terms=[own, *terms], **kwargs)


@MODELS.register_module()
class RegionCLM(RegionContrast, MoCo):
    """RegionCL-M, on MoCo v2."""


@MODELS.register_module()
class RegionCLD(RegionContrast, DenseCL):
    """RegionCL-D, on DenseCL; regions use the global head and queue."""


@MODELS.register_module()
class RegionCLS(RegionContrast, SimSiam):
    """RegionCL-S, on SimSiam."""
