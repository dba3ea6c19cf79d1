"""CCOP: contrast of objects, whose boxes grow noisier in the course of the training.

Paper: arXiv 2111.13651 (curricular contrastive object-level pre-training), on MoCo v2.

Scenes hold several objects, so that two crops of one image need not show the same. CCOP
contrasts boxes of object proposals beside whole images, pooled from a feature pyramid
(FPN), which is pretrained with the backbone. An object that has learned to find its box
is given worse ones.

    q_n, k_n = normalise(h_img(mean f(x)))            N x D, of whole images
    o_i      = normalise(h_roi(RoIAlign(FPN(x_q), box_i^q)))          M x D, gradient
    K_ij     = normalise(h_roi(RoIAlign(FPN'(x_k), box_ij)))          M x (J + 1) x D,
               J copies of box_i^k, moved and scaled at random, and box_i^k itself
    c(i)     = argmin_j o_i . K_ij  over copies with IoU(box_ij, box_i^k) >= bound
    L_img    = mean_n InfoNCE(q_n, k_n, queue)
    L_roi    = mean_i InfoNCE(o_i, K_ic(i), queue of K_ic(i))
    L_intra  = mean over objects i, j of an image with IoU < 0.05 of
               max(0, s_ij - s_jj + 0.4),  s_ij = o_i . K_j(J+1)
    L        = L_img + L_roi + L_intra
    curriculum, t from 0 to 1 over the training: offsets within +-(0.075 + 0.225 t) of
    the sides, factors within e^+-(0.175 + 0.525 t), bound 0.8 - 0.4 t

Differs from the official code:
* proposals come from tools/make_proposals.py. The released config points at COCO's
  annotated boxes, and says itself that the method then is no longer unsupervised;
* the curriculum follows the loop's progress, there a constructor's number of steps;
* means are over the objects of all ranks, there over those of a rank; without any, or
  without a pair, a loss is 0, there NaN;
* views end at their edges, there at the last pixel less one; each level of the pyramid
  is chosen by the size of the box in the view, there as well, but one that is larger
  than 224 pixels falls to the finest level there;
* the queue of objects is a ring, there keys that do not fit are dropped at its end;
* there is no dropout in the target's heads;
* a view is as often query as key by the draw of the views alone: there they also
  change places by chance, which with equal recipes changes nothing.
No published number was readable (unverified numbers are left out).
"""

from collections.abc import Sequence
from typing import Any

from mmssl_ext.registry import MODELS

from .moco import MoCo


@MODELS.register_module()
class CCOP(MoCo):
    """MoCo plus the contrast of objects, between images and within an image.

    Args:
        objects: Options of :class:`~mmssl_ext.models.terms.ObjectContrast`; its ``fpn``
            takes the maps that ``backbone.out_indices`` names.
        intra: Options of :class:`~mmssl_ext.models.terms.IntraImage`.
        terms: More terms.
        **kwargs: As for :class:`MoCo`.
    """

    def __init__(
        self,
        objects: dict,
        intra: dict | None = None,
        terms: Sequence[dict] = (),
        **kwargs: Any,
    ) -> None:
        own = [
            {"type": "ObjectContrast", **objects},
            {"type": "IntraImage", **(intra or {})},
        ]
        super().__init__(terms=[*own, *terms], **kwargs)
