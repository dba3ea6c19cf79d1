"""MoCo v1 and v2: momentum contrast with a queue of negatives.

Papers: arXiv 1911.05722 (v1) and arXiv 2003.04297 (v2: MLP head, blur, cosine).

A query must pick the other view of its own image out of a long queue of other images.
Keys come from an encoder that follows the query encoder slowly, so that keys of many
steps ago are still comparable and the queue can be far longer than a batch.

    q = normalise(g_q(f_q(x_q)))                      N x D, gradient
    k = normalise(g_k(f_k(x_k)))                      N x D, no gradient
    L = -log exp(q.k/T) / (exp(q.k/T) + sum_j exp(q.n_j/T)),  n: K x D, the queue
    theta_k <- m theta_k + (1 - m) theta_q            before the keys are encoded

v1 and v2 are one class: a linear or an MLP neck, T = 0.07 or 0.2, and the view recipe.

Differs from the reference code:
* the queue takes any batch size (ring buffer) and lies K x D; the loss is exact but
  never holds N x K logits;
* one device is protected against the BatchNorm leak by SplitBatchNorm, where the
  reference's shuffle has no effect;
* the permutation follows from the step, so ranks need no broadcast and a resumed run
  continues exactly;
* key images change ranks as uint8, each to the one rank that encodes it;
* the first momentum update is an exact copy, whatever set the query's weights;
* with accumulated gradients the key encoder moves once per step of the optimizer.
"""

from typing import Any

from mmssl_ext.errors import UserValueError
from mmssl_ext.registry import MODELS

from ..part import choices
from .method import Method


@MODELS.register_module()
class MoCo(Method):
    """Momentum contrast: a momentum target, compared over a queue.

    Args:
        head: Config of the comparison, ``QueueSoftmax``; its ``temperature`` is T.
        queue_len: Number of negative keys K; well below the size of the dataset.
        momentum: Share of the target network that each step keeps.
        bn_splits: See :class:`Method`.
        **kwargs: As for :class:`Method`: ``backbone``, ``neck``, ``terms`` ...
    """

    def __init__(
        self,
        head: dict,
        queue_len: int = 65536,
        momentum: Any = 0.999,
        bn_splits: int | None = 8,
        **kwargs: Any,
    ) -> None:
        target = {"type": "MomentumTarget", "momentum": momentum}
        compare = {"type": "QueueSoftmax", "length": queue_len, **head}
        name = type(self).__name__
        own = choices(name, kwargs, target=target, compare=compare)
        super().__init__(bn_splits=bn_splits, **own)


def require_head(method: MoCo, comparison: type) -> None:
    """Refuse a ``head`` of another method, such as one that a base config leaves.

    Raises:
        ValueError: The method compares otherwise.
    """
    if not isinstance(method.compare, comparison):
        raise UserValueError(
            f"{type(method).__name__} compares by {comparison.__name__}, not by "
            f"{type(method.compare).__name__}; set model.head.type or leave it out."
        )
