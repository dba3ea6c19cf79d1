"""IFND: incremental false negative detection, inspired by the paper.

Paper: arXiv 2106.03719 (ICLR 2022), on MoCo v2.

Among the keys that a query is told apart from are images of its own class: false
negatives. Clusters tell which they may be. Early clusters mean little, so that only the
most confident labels count at first, and more of them from epoch to epoch.

    e_i = normalise(g_k(f_k(image i)))                n x D, eval mode, un-augmented
    y_i = k-means over all e,  c: its centroids       at each of L levels
    conf_i = softmax_j(e_i.c_j / T_c)[y_i]            the surest share r of n counts
    F(n) = { j : slot j's image has the label of query n's image }
    eliminate: L = -log exp(q.k/T) / (exp(q.k/T) + sum_{j not in F} exp(q.n_j/T))
    attract:   L = logsumexp(all logits) - (q.k + sum_{j in F} q.n_j) / (T (1 + |F|))
    the mean over the levels; r = 0 is MoCo

Labels are looked up by the image of a slot, so that none is out of date.

Of the paper the abstract, the introduction and reviews were read: pseudo-labels of
clusters at several granularities, confident ones first, elimination or attraction. The
formulas are reconstructed: the clustering from PCL (arXiv 2005.04966) and its code, the
two losses from FNC (arXiv 2011.11765) and its code. Confidence, its schedule, levels
and intervals are ours.

Differs from those: k-means is spherical and goes on from the centroids before, so that
the clusters are those of InterCLR's ``OfflineLabels``.
"""

from collections.abc import Mapping
from typing import Any

from mmssl_ext.registry import MODELS

from .moco import MoCo


@MODELS.register_module()
class IFND(MoCo):
    """MoCo whose false negatives leave the denominator.

    Args:
        head: Config of MoCo's comparison; its ``temperature`` is T.
        false_negatives: Options of
            :class:`~mmssl_ext.models.comparisons.FalseNegativeSoftmax`: ``levels``,
            ``action``, ``rate``, ``warmup``, ``interval``.
        images: How the images are read that are clustered; see
            :class:`~mmssl_ext.models.terms.InterImage`.
        **kwargs: As for :class:`MoCo`.
    """

    def __init__(
        self,
        head: Mapping[str, Any],
        false_negatives: Mapping[str, Any] | None = None,
        images: dict | None = None,
        **kwargs: Any,
    ) -> None:
        own = {"type": "FalseNegativeSoftmax", "images": images}
        super().__init__(head={**head, **(false_negatives or {}), **own}, **kwargs)
