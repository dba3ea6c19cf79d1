"""ASCL: adaptive soft contrastive learning.

Paper: arXiv 2207.11163 (ICPR 2022), on MoCo v2.

Instance discrimination calls every other image equally wrong. ASCL lets the nearest
keys of the queue share in the label, as far as the key is certain which they are: a
profile of the queue that is nearly flat says nothing, and leaves MoCo's label alone.

    p   = softmax_j(k.n_j / T2)                       N x K, no gradient
    c   = 1 - H(p) / log K                            N, confidence in [0, 1]
    y_j = min(1, n c p_j)                             N x K, n: number of neighbours
    t   = [1, y] / (1 + sum_j y_j)                    N x (1 + K), first the own key
    L   = mean CE(t, softmax([q.k, q.n_1 .. q.n_K] / T1))

Since CE(t, softmax) = logsumexp - q.mu / T1 with the mean key mu under t, no N x K
matrix is needed. ``hard`` counts the n nearest keys alike: y_j = c, or 1 where it is
not ``adaptive`` (the official ``ahcl`` and ``hard``). y = min(1, n p_j), soft and not
adaptive, is the fourth of the two switches. n = 0 is MoCo. The key sees a weak view,
crop and flip alone, which is the pipeline's business: the second view.

Its form on BYOL is the term :class:`~mmssl_ext.models.terms.Neighbours`.

Differs from the official code: nothing known in the loss. Read were the code and the
equations in a public note, not the tables of the paper.
"""

from typing import Any

from mmssl_ext.registry import MODELS

from ..comparisons import NeighbourSoftmax
from .moco import MoCo, require_head


@MODELS.register_module()
class ASCL(MoCo):
    """MoCo with neighbours of the key in the label.

    Args:
        head: Config of the comparison, ``NeighbourSoftmax``: ``temperature`` is T1,
            ``target_temperature`` T2, ``num_neighbours`` n.
        **kwargs: As for :class:`MoCo`.

    Raises:
        ValueError: ``head`` is another comparison.
    """

    def __init__(self, head: dict, **kwargs: Any) -> None:
        super().__init__({"type": "NeighbourSoftmax", **head}, **kwargs)
        require_head(self, NeighbourSoftmax)
