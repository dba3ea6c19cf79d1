"""DINO: self-distillation with no labels.

Paper: arXiv 2104.14294 (ICCV 2021).

A student learns to say of every crop of an image, small ones too, what its teacher says
of the two large ones: which of K prototypes it is like, and by how much. The teacher is
a slow copy of the student. Nothing else keeps them from saying the same of all images
than that the teacher's scores are centred, so that no prototype is liked by all, and
sharpened, so that they are not all liked alike.

    x_v = normalise(g(f(crop_v))),  s_v = x_v W^T     N x K, gradient; v = 0 .. V - 1
    t_i = normalise(g'(f'(crop_i))) W'^T              N x K, no gradient; i = 0, 1
    P_i = softmax((t_i - c) / T')                     c: 1 x K, the centre
    L   = 1 / (2 (V - 1)) sum_i sum_{v != i} mean_n CE(P_i, softmax(s_v / T))
    c   <- 0.9 c + 0.1 mean t                         of all ranks, after the loss
    theta' <- m theta' + (1 - m) theta                m: 0.996 to 1 along a cosine

Rows of W have length one (weight normalisation with a gain of 1) and rest for an epoch.
Crops of one size go through the network together. The teacher keeps BatchNorm
statistics of its own, of large crops alone: it is what evaluation and transfer take
(``encoder="key"``).

Differs from the official code:
* T' rises iteration by iteration, there epoch by epoch, and runs shorter than its rise
  end before it is done, where the code breaks;
* the N x K scores exist in blocks alone: CE(P, .) needs P's mean of the prototypes;
* the centre counts rows, so that ranks may have batches of different sizes;
* m and the teacher's move belong to the beginning of the next step: the same sequence;
* a ViT's positions are fixed (MoCo v3's), there learned.

Of the paper the body was not read; the recipe is that of the official code.
"""

from typing import Any

from mmssl_ext.registry import MODELS

from ..part import choices
from .method import Method


@MODELS.register_module()
class DINO(Method):
    """Self-distillation: a momentum target, compared by centred prototypes.

    Args:
        num_prototypes: K; 65,536 for a million images, 1,024 for some ten thousand.
        temperature: T.
        target_temperature: T', a number or a schedule; above 0.07 it is unstable.
        centre_momentum: Share of the old centre that each step keeps.
        frozen_epochs: Epochs in which W rests.
        momentum: m; None is the paper's cosine from 0.996 up to 1.
        pairs: Both directions; see :class:`Method`.
        grouping: Crops of one size go through the network together.
        **kwargs: As for :class:`Method`.
    """

    def __init__(
        self,
        num_prototypes: int = 65536,
        temperature: float = 0.1,
        target_temperature: Any = 0.04,
        centre_momentum: float = 0.9,
        frozen_epochs: float = 1,
        momentum: Any = None,
        pairs: Any = ((0, 1), (1, 0)),
        grouping: str = "size",
        **kwargs: Any,
    ) -> None:
        if momentum is None:
            momentum = {"kind": "cosine", "start": 0.996, "end": 1.0}
        compare = {
            "type": "CentredSoftmax",
            "num_prototypes": num_prototypes,
            "temperature": temperature,
            "target_temperature": target_temperature,
            "centre_momentum": centre_momentum,
            "frozen_epochs": frozen_epochs,
        }
        target = {"type": "MomentumTarget", "momentum": momentum}
        own = choices(type(self).__name__, kwargs, target=target, compare=compare)
        super().__init__(pairs=pairs, grouping=grouping, **own)
