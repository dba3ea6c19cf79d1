"""SwAV: swapping assignments between views.

Paper: arXiv 2006.09882 (NeurIPS 2020).

Each view of an image is assigned to prototypes, which are trained along. The other
views must predict that assignment, its code. So that not all images get the same one, a
code is not the image's own softmax: the images of all ranks are shared out evenly among
the prototypes. No negatives, no second network.

    C[m] <- C[m] / |C[m]|                             M x D, before every step
    z_v = normalise(g(f(x_v))),  s_v = z_v C^T        N x D, N x M, gradient
    q_t = sinkhorn(s_t / eps), t in {0, 1}            N x M, no gradient; sums to 1
    L = mean over (v, t), v != t, of mean_n  - sum_m q_t[n,m] log_softmax(s_v / T)[n,m]

Sinkhorn's iterations divide by the sum of each prototype over the images, then by the
sum of each image. Where a step has few images for M prototypes, a queue of the target
views' embeddings of earlier steps takes part in them. In the first epoch the prototypes
are not trained.

Differs from the official code:
* in logarithms, where no eps overflows; the same numbers otherwise;
* the queue is filled from the first step on, there from the epoch that first uses it;
  it is in the checkpoint, and the same on all ranks;
* mmpretrain's LARS, which leaves BatchNorm and biases alone; there LARC, on all.
Differs from mmpretrain: its Sinkhorn balances the images of each GPU alone.

Of the paper the body was not read; the recipe is that of the official code.
"""

from typing import Any

from mmssl_ext.registry import MODELS

from ..part import choices
from .method import Method


@MODELS.register_module()
class SwAV(Method):
    """Swapped prediction of balanced assignments to prototypes.

    Args:
        num_prototypes: M; about ten times the number of kinds of images.
        temperature: T of the predictions.
        epsilon: eps; the smaller, the harder the codes.
        num_iters: Of Sinkhorn's.
        queue_len: Embeddings of earlier steps that are balanced, too; 0: none.
        queue_start: Epoch from which they are.
        frozen_epochs: Epochs in which the prototypes are not trained, at first.
        pairs: Which view predicts which view's code.
        grouping: Of the views, as the official code has it.
        **kwargs: As for :class:`Method`.
    """

    def __init__(
        self,
        num_prototypes: int = 3000,
        temperature: float = 0.1,
        epsilon: float = 0.05,
        num_iters: int = 3,
        queue_len: int = 0,
        queue_start: float = 15,
        frozen_epochs: float = 1,
        pairs: Any = ((0, 1), (1, 0)),
        grouping: str = "joint",
        **kwargs: Any,
    ) -> None:
        compare = {
            "type": "BalancedPrototypes",
            "num_prototypes": num_prototypes,
            "temperature": temperature,
            "epsilon": epsilon,
            "num_iters": num_iters,
            "queue_len": queue_len,
            "queue_start": queue_start,
            "frozen_epochs": frozen_epochs,
        }
        own = choices("SwAV", kwargs, target={"type": "StoppedTarget"}, compare=compare)
        super().__init__(pairs=pairs, grouping=grouping, **own)
