"""MoCHi: mixing of contrastive hard negatives.

Paper: arXiv 2010.01028 (NeurIPS 2020), on MoCo v2.

After some epochs most keys of the queue are no longer hard to tell from a query. MoCHi
makes harder ones for each query, by mixing the keys that resemble it most with each
other and with the query itself. They are candidates besides the whole queue.

    N(q)  = the N keys n_j with the largest q.n_j                         per query
    h_s   = normalise(a n_i + (1 - a) n_j),  a ~ U(0, 1)                  s of them
    h'_s  = normalise(b q + (1 - b) n_j),    b ~ U(0, 0.5)                s' of them
    L     = mean CE(own key, softmax([q.k, q.n_1..K, q.h_1..s, q.h'_1..s'] / T))

i, j, a and b are drawn anew for every mixture, with replacement; h and h' are constant
and are not remembered. In h' the negative always dominates. Mixtures begin after a
warm-up (``head.mixing``); before it, and with s = s' = 0, this is MoCo to the bit.

The N largest are found block by block, and h, h' enter the softmax by another
log-sum-exp: nothing has N x K elements.

Differs from the paper: nothing known, but its authors published no code. Read were the
abstract, the introduction and three ports; where these differ, the formulas above, on
which two agree, decide. The settings and the length of the warm-up are remembered.
"""

from typing import Any

from mmssl_ext.registry import MODELS

from ..comparisons import MixedNegativesSoftmax
from .moco import MoCo, require_head


@MODELS.register_module()
class MoCHi(MoCo):
    """MoCo with mixtures of the hardest negatives.

    Args:
        head: Config of the comparison, ``MixedNegativesSoftmax``: ``num_hardest`` is N,
            ``num_mixed`` s, ``num_with_query`` s'.
        **kwargs: As for :class:`MoCo`.

    Raises:
        ValueError: ``head`` is another comparison.
    """

    def __init__(self, head: dict, **kwargs: Any) -> None:
        super().__init__({"type": "MixedNegativesSoftmax", **head}, **kwargs)
        require_head(self, MixedNegativesSoftmax)
