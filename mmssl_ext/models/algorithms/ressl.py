"""ReSSL: relational self-supervised learning.

Paper: arXiv 2107.09282 (NeurIPS 2021).

Two views of an image should resemble other images alike; that alone is learned, and no
image is told apart from any other. The key sees a weak view, crop and flip, so that its
relations can be trusted, and its profile of the queue is the sharper one.

    P_n = softmax(k_n . queue / T_k)                  K entries, no gradient
    Q_n = softmax(q_n . queue / T_q)                  T_k < T_q
    L   = mean_n CE(P_n, Q_n)

The own key is no candidate. CE(P, Q) = logsumexp_j(q.n_j / T_q) - q.mu / T_q with the
mean key mu = sum_j P_j n_j, so that no N x K matrix is needed. ASCL is MoCo with such a
label in part, CO2 is MoCo with the symmetric divergence besides.

Differs from the official code: nothing known in the loss. Of the paper only the
abstract was read, of the code all.
"""

from typing import Any

from mmssl_ext.registry import MODELS

from ..comparisons import RelationSoftmax
from .moco import MoCo, require_head


@MODELS.register_module()
class ReSSL(MoCo):
    """A momentum target whose relations to a queue are the label.

    Args:
        head: Config of the comparison, ``RelationSoftmax``: ``temperature`` is T_q,
            ``target_temperature`` T_k.
        **kwargs: As for :class:`MoCo`.

    Raises:
        ValueError: ``head`` is another comparison.
    """

    def __init__(self, head: dict, **kwargs: Any) -> None:
        super().__init__({"type": "RelationSoftmax", **head}, **kwargs)
        require_head(self, RelationSoftmax)
