"""Consistency of two similarity profiles over a queue (CO2, arXiv 2010.02217)."""

from typing import Any

import torch
from torch import Tensor

from .queue_attention import attend, softmax_jacobian


def queue_consistency(
    q: Tensor, k: Tensor, queue: Tensor, temperature: float
) -> Tensor:
    """Symmetric KL between what a query and its key see in the queue.

    With Q = softmax(q queue^T / T) and P = softmax(k queue^T / T), both over the K
    negatives only (the positive is no entry),

        loss_n = KL(P_n || Q_n) / 2 + KL(Q_n || P_n) / 2
               = (q_n - k_n) . (o_q - o_k) / (2 T)

    where o_q = Q queue and o_k = P queue: the normalisers cancel. The gradient
    ``[(o_q - o_k) + J (q - k)] / (2 T)``, J = d o_q / d q, is computed in the forward
    pass, so the queue may be overwritten as soon as this returns.

    Args:
        q: Queries, N x D, unit rows; the only input that receives a gradient.
        k: Positive keys, N x D, unit rows, constant.
        queue: Negative keys, K x D, unit rows, constant.
        temperature: T > 0 (tau_con in the paper).

    Returns:
        One divergence per query, shape N, in nats, >= 0 up to rounding and at most
        2 / T for unit rows; fp32 or wider.

    Raises:
        ValueError: ``k`` requires a gradient (detach it: P is a target).
    """
    if k.requires_grad:
        raise ValueError(
            "The keys of queue_consistency are a target and get no gradient; pass "
            "k.detach()."
        )
    return _QueueConsistency.apply(q, k, queue, temperature)


class _QueueConsistency(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, queue: Tensor, temperature: float
    ) -> Tensor:
        scale = 1 / temperature
        mean_key, lse = attend(torch.cat([q, k]), queue, scale)  # 2N x D, 2N
        o_q, o_k = mean_key.chunk(2)
        gap = q.to(o_q.dtype) - k.to(o_q.dtype)  # N x D
        if ctx.needs_input_grad[0]:
            pull = softmax_jacobian(q, queue, scale, o_q, lse[: len(q)], gap)
            ctx.save_for_backward(scale / 2 * (o_q - o_k + pull))
            ctx.dtype = q.dtype
        return scale / 2 * (gap * (o_q - o_k)).sum(1)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        (slope,) = ctx.saved_tensors
        return (grad[:, None] * slope).to(ctx.dtype), None, None, None
