"""SimCLR: a simple framework for contrastive learning of visual representations.

Paper: arXiv 2002.05709 (ICML 2020).

Every view must find the other view of its image among all views of the batch. There is
neither a second network nor a queue; the negatives are as many as the batch is large.

    z_i = normalise(g(f(x_i)))                2N x D, two views of N images, gradient
    L   = mean_i -log exp(z_i . z_pair(i) / T) / sum_{j != i} exp(z_i . z_j / T)

i runs over the views of this rank, j over those of all ranks; the gradient comes back
from all of them. Both views go through the network as one batch.

Differs from the official code: it returns the sum of the two views' means, twice this
value; mmpretrain and solo-learn return the mean over the 2N rows, as here. mmpretrain's
gradient is 1 / W of the true one on W ranks (its gather returns the local share alone).
"""

from typing import Any

from mmssl_ext.registry import MODELS

from ..part import choices
from .method import Method


@MODELS.register_module()
class SimCLR(Method):
    """Contrast within the batch: the network is its own target, with gradient.

    Args:
        temperature: T; 0.1 on ImageNet, 0.5 on CIFAR-10.
        pairs: See :class:`Method`.
        grouping: See :class:`Method`.
        **kwargs: As for :class:`Method`.
    """

    def __init__(
        self,
        temperature: float = 0.1,
        pairs: Any = ((0, 1), (1, 0)),
        grouping: str = "size",
        **kwargs: Any,
    ) -> None:
        own = choices(
            type(self).__name__,
            kwargs,
            target={"type": "OwnTarget"},
            compare={"type": "BatchSoftmax", "temperature": temperature},
        )
        super().__init__(pairs=pairs, grouping=grouping, **own)
