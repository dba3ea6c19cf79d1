"""DenseSiam: dense siamese learning.

Paper: arXiv 2203.11075 (ECCV 2022), on SimSiam. The released code has the authors'
unsupervised segmentation alone; of their pretraining only results are known. What
follows is a reconstruction, inspired by both.

SimSiam says where the embedding of an image should point, not that of a place in it.
Here common places of two views, known from their crops, must agree too, one by one and
as soft regions. There are no negatives but the regions of the same image, and no second
network.

    F_i = f(x_i)                                     N x C x h x w
    z_i = g_d(F_i),  p_i = h_d(z_i)                  N x C' x h x w, 1 x 1 convolutions
    s: S x S points of the overlap, where maps are read bilinearly
    L_pix = -mean_n,s [ cos(p_1, sg z_2) + cos(p_2, sg z_1) ] / 2
    m_i = softmax_k(g_m(F_i)),  R_i = sum_s m_i F_i  N x K x C, regions
    u_i = norm(g_r(R_i)),  q_i = norm(h_r(g_r(R_i))) N x K x D
    L_reg = mean_n,a [ CE(q_1 u_2^T / T, a) + CE(q_2 u_1^T / T, a) ] / 2
    L = L_SimSiam + L_pix + w L_reg,    w = 0.1, T = 0.1, K = 128, S = 7

No gradient is stopped in L_reg, as in the authors' code. Images whose views do not
overlap count 0 in both, and their regions take part in BatchNorm's statistics.

Differs from the authors' segmentation code:
* pixels are compared by the cosine, on a lattice in the overlap of two crops; there by
  cross-entropy of K channels (``pixel=dict(form="softmax")``), of one crop drawn twice;
* regions are the softmax of a layer of their own, there of the pixel projector;
* pseudo-labels, their loss and the auxiliary head, which cluster, are left out;
* SimSiam's loss of whole images is kept (``weights=dict(instance=0)`` leaves it out).

Published (ResNet-50, ImageNet): mask AP 36.8 of Mask R-CNN 1x on COCO; second-hand, box
AP 40.8, Cityscapes 77.0 mIoU, VOC07 82.9 AP50.
"""

from collections.abc import Sequence
from typing import Any

from mmssl_ext.registry import MODELS

from .simsiam import SimSiam


@MODELS.register_module()
class DenseSiam(SimSiam):
    """SimSiam plus a pixel and a region term; a reconstruction.

    Args:
        pixel: Options of :class:`~mmssl_ext.models.terms.PixelSimilarity`.
        region: Options of :class:`~mmssl_ext.models.terms.RegionSimilarity`; its
            ``weight`` is w, 0.1, or a schedule that lets regions wait until the masks
            mean something.
        terms: More terms.
        **kwargs: As for :class:`SimSiam`.
    """

    def __init__(
        self,
        pixel: dict | None = None,
        region: dict | None = None,
        terms: Sequence[dict] = (),
        **kwargs: Any,
    ) -> None:
        own = [
            {"type": "PixelSimilarity", **(pixel or {})},
            {"type": "RegionSimilarity", "weight": 0.1, **(region or {})},
        ]
        super().__init__(terms=[*own, *terms], **kwargs)
