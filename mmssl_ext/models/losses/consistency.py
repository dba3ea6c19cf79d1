"""Consistency of two similarity profiles over a queue (CO2, arXiv 2010.02217)."""

from typing import Any

import torch
from torch import Tensor

from mmssl_ext.errors import UserValueError

from .queue_attention import queue_blocks, to_compute_dtype


def queue_consistency(
    q: Tensor, k: Tensor, queue: Tensor, temperature: float
) -> Tensor:
    """Symmetric KL between what a query and its key see in the queue.

    With Q = softmax(q queue^T / T) and P = softmax(k queue^T / T), both over the K
    negatives only (the positive is no entry),

        loss_n = KL(P_n || Q_n) / 2 + KL(Q_n || P_n) / 2
               = (q_n - k_n) . (o_q - o_k) / (2 T)

    where o_q = Q queue and o_k = P queue: the normalisers cancel. The gradient is
    ``[(o_q - o_k) + J (q - k)] / (2 T)`` with J = d o_q / d q, that is

        J v = (sum_j Q_j n_j (n_j . v) - o_q (o_q . v)) / T

    Since n_j . (q - k) is a difference of logits, one pass over the queue gives all of
    it, in the forward pass; the queue may be overwritten as soon as this returns.

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
        raise UserValueError(
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
        with torch.autocast(q.device.type, enabled=False):
            o_q, o_k, second = _moments(q, k, queue, scale)
        gap = q.to(o_q.dtype) - k.to(o_q.dtype)  # N x D
        if ctx.needs_input_grad[0]:
            pull = second - scale * (gap * o_q).sum(1, keepdim=True) * o_q
            ctx.save_for_backward(scale / 2 * (o_q - o_k + pull))
            ctx.dtype = q.dtype
        return scale / 2 * (gap * (o_q - o_k)).sum(1)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        (slope,) = ctx.saved_tensors
        return (grad[:, None] * slope).to(ctx.dtype), None, None, None


def _moments(q: Tensor, k: Tensor, queue: Tensor, scale: float) -> tuple[Tensor, ...]:
    """o_q, o_k and sum_j Q_j n_j (n_j . (q - k)) / T, each N x D, in one pass."""
    rows, queue = to_compute_dtype(torch.cat([q, k]), queue)  # 2N x D
    n = len(q)
    peak = rows.new_full((2 * n, 1), -torch.inf)  # running maximum of the logits
    total = rows.new_zeros(2 * n, 1)
    sums = rows.new_zeros(3 * n, rows.shape[1])
    for block in queue_blocks(rows, queue):  # B x D
        logits = (rows @ block.T).mul_(scale)  # 2N x B
        new_peak = torch.maximum(peak, logits.amax(1, keepdim=True))
        weights = rows.new_empty(3 * n, len(block))
        torch.sub(logits[:n], logits[n:], out=weights[2 * n :])  # n_j . (q - k) / T
        torch.sub(logits, new_peak, out=weights[: 2 * n]).exp_()
        weights[2 * n :] *= weights[:n]
        decay = (peak - new_peak).exp_()
        total = total * decay + weights[: 2 * n].sum(1, keepdim=True)
        sums = (sums * torch.cat([decay, decay[:n]])).addmm_(weights, block)
        peak = new_peak
    return (sums / torch.cat([total, total[:n]])).chunk(3)
