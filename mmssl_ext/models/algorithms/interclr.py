"""InterCLR: inter-image invariance with pseudo-labels.

Paper: arXiv 2008.11702 (IJCV 2022), on MoCo v2.

Two crops of one image are a weak notion of sameness. A bank keeps the last embedding of
every training image, clustered; a query's second positive is another image of its
cluster, and its negatives are images of other clusters, not too hard ones.

    V: n x D bank, y: n labels, M: C x D centroids, i: the query's image
    v+   = V[a random member of cluster y_i]                N x D
    v-_j = drawn from those of the P entries most similar to q that have y != y_i
    L_inter = mean_n CE([q.v+ - m, q.v-_1 .. q.v-_J] / tau, 0)
    L = (1 - lambda) L_MoCo + lambda L_inter,  lambda = 0.25, m = -0.5
    V_i <- k, y_i <- argmax_c M_c . V_i,  M_c <- mean of its members     after the loss

The three parts that the paper studies are modules of their own: how labels are kept
(``OnlineLabels``, ``OfflineLabels``), which negatives (``SemiHardNegatives``,
``HardNegatives``, ``RandomNegatives``, ``EasyNegatives``), which boundary
(``margin`` of the branch).

Differs from the reference code:
* bank, labels and centroids are buffers in the checkpoint, on the model's device; all
  ranks apply the same gathered update, where the reference sends the whole bank around
  at every step;
* negatives are never drawn twice, and where too few images suit a query it has fewer;
  the reference then draws for ever. All queries of a step try one random order;
* small clusters are dissolved with the centroids every 10 steps, not at every step, and
  all centroids are refreshed then, not those of the two halves alone;
* while the weight is 0, in a warm-up, there is no bank; the reference fills and
  follows it;
* the first clustering is spherical k-means; the reference's is Euclidean.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from mmssl_ext.registry import MODELS

from ..part import shares
from ..schedules import schedule
from .moco import MoCo


@MODELS.register_module()
class InterCLR(MoCo):
    """MoCo plus an inter-image branch.

    Args:
        pseudo_labels: Config of the labels, e.g. ``OnlineLabels``.
        negatives: Config of the negatives, e.g. ``SemiHardNegatives``.
        inter_head: ``temperature`` and ``margin`` of the branch.
        images: How the images are read that fill the bank; see
            :class:`~mmssl_ext.models.terms.InterImage`.
        loss_lambda: Weight of the inter-image loss; MoCo's has 1 - lambda. A number, or
            a schedule for a warm-up:
            ``dict(kind="step", start=0, end=0.25, until=10, unit="epoch")``.
        bank_momentum: Share of the old feature that an update of the bank keeps.
        bank_dtype: See :class:`~mmssl_ext.models.memory.FeatureBank`.
        terms: More terms.
        weights: Of more terms.
        **kwargs: As for :class:`MoCo`.

    Raises:
        ValueError: ``loss_lambda`` is outside [0, 1].
    """

    def __init__(
        self,
        pseudo_labels: dict,
        negatives: dict,
        inter_head: dict | None = None,
        images: dict | None = None,
        loss_lambda: Any = 0.25,
        bank_momentum: float = 0.0,
        bank_dtype: str = "float32",
        terms: Sequence[dict] = (),
        weights: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        share = schedule(loss_lambda, "loss_lambda", 0, 1)
        branch = {
            **{k: v for k, v in (inter_head or {}).items() if k != "type"},
            "type": "InterImage",
            "labels": pseudo_labels,
            "negatives": negatives,
            "images": images,
            "momentum": bank_momentum,
            "dtype": bank_dtype,
        }
        super().__init__(
            terms=[branch, *terms],
            weights=shares(type(self).__name__, weights, "inter", share),
            **kwargs,
        )
