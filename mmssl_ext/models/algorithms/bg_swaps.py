"""BG_Swaps: positives share the subject only, one negative the background only.

Inspired by arXiv 2103.12719 ("Characterizing and Improving the Robustness of
Self-Supervised Learning through Background Augmentations"), on MoCo v2. BG_RM and
BG_Random of the same paper are transforms for any method: ``RandomBackground``.

A network may know an image by its background. Here that is of no use: the key shows the
query's subject A before another background, and one more negative shows the query's
background X behind another subject.

    q  = f(A on X)        k+ = f'(A on Y)        k- = f'(another subject on X)
    L  = -log exp(q.k+/T) / (exp(q.k+/T) + sum_j exp(q.n_j/T) + exp(q.k-/T))

n: K x D, the queue; q, k+, k-: N x D. k- is constant and is not enqueued, since the
queue is to hold ordinary negatives. Both kinds of keys go through the target network as
one batch of 2N, so that BatchNorm does not tell them apart. Without the last column
this is MoCo.

Differs: no code was found, and of the paper the abstracts were read and one summary,
by which q and k- share the background. A reconstruction: that the views come from
crops of their own, that the query is never changed and the key with probability 0.2,
that a negative is built for every query, and how (``SwapSubject``).
"""

from typing import Any

from mmssl_ext.registry import MODELS

from ..comparisons import ExtraNegativeSoftmax
from .moco import MoCo, require_head


@MODELS.register_module()
class BGSwaps(MoCo):
    """MoCo with one more negative for each query, of its own background.

    Args:
        head: Config of the comparison, ``ExtraNegativeSoftmax``.
        **kwargs: As for :class:`MoCo`. Views: query, key, negative.

    Raises:
        ValueError: ``head`` is another comparison.
    """

    def __init__(self, head: dict, grouping: str = "size", **kwargs: Any) -> None:
        head = {"type": "ExtraNegativeSoftmax", **head}
        super().__init__(head, grouping=grouping, **kwargs)
        require_head(self, ExtraNegativeSoftmax)
