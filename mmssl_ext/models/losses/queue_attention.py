"""Softmax over a long queue, computed as attention.

Attention with query ``q`` (N x D) and keys = values = ``queue`` (K x D) at scale
``1/T`` returns, for p = softmax(q queue^T / T),

    o   = p @ queue                              N x D
    lse = logsumexp(q queue^T / T)               N

and d lse / d q = o / T. So a contrastive loss *and* its gradient come from one pass,
and nothing of size N x K is ever stored. The pass is a streaming softmax over blocks of
the queue, in public ops. Where they are available and agree with it, faster ops take
its place: torch's fused attention, and for many rows on a CPU products by oneDNN, which
on AMD's CPUs are twice as fast as those of ``@`` and fused attention (by MKL). All
accumulate in at least fp32.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from mmengine.logging import print_log
from torch import Tensor

# Elements of one N x chunk block of logits: 1 MiB in fp32 stays in a CPU's L2 cache; a
# GPU wants larger matrix products.
_BLOCK_ELEMENTS = {"cpu": 2**18, "cuda": 2**24}
_BLOCK_ROWS = 512

_use_fused = True


def use_fused(allowed: bool) -> None:
    """Allow the faster ops, the default, or keep to public ones in this process."""
    global _use_fused
    _use_fused = allowed


def queue_logsumexp(q: Tensor, queue: Tensor, temperature: float) -> Tensor:
    """Log-sum-exp of the similarities to a queue, differentiable in ``q`` only.

    Args:
        q: Query features, N x D (usually unit rows), or B x N x D.
        queue: Negative keys, K x D, or B x K x D, one queue for each of the B; never
            receives a gradient and may be overwritten as soon as this returns.
        temperature: Softmax temperature T > 0.

    Returns:
        ``logsumexp_j(q_n . queue_j / T)``, shape N or B x N, fp32 (fp64 for fp64
        input).
    """
    return _QueueLogSumExp.apply(q, queue, temperature)


class _QueueLogSumExp(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, queue: Tensor, temperature: float) -> Tensor:
        mean_key, lse = attend(q, queue, 1 / temperature)
        ctx.save_for_backward(mean_key)
        ctx.scale, ctx.dtype = 1 / temperature, q.dtype
        return lse

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (mean_key,) = ctx.saved_tensors
        return (grad[..., None] * mean_key * ctx.scale).to(ctx.dtype), None, None


@torch.no_grad()
def attend(q: Tensor, queue: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """Softmax-weighted mean key and log-sum-exp of every row of ``q``.

    Args:
        q: N x D, or B x N x D.
        queue: K x D, or B x K x D.
        scale: Factor on the similarities (1 / temperature).

    Returns:
        ``o`` (like q) and ``lse`` (without D), fp32 (fp64 where both inputs are fp64).

    Raises:
        ValueError: The feature sizes differ or the queue is empty.
    """
    q, queue = to_compute_dtype(q, queue)
    shape = q.shape
    q, queue = q.reshape(-1, *shape[-2:]), queue.reshape(-1, *queue.shape[-2:])
    with torch.autocast(q.device.type, enabled=False):
        if _use_fused and _fast_path_agrees(q.device.type, q.dtype, shape[-1]):
            o, lse = _attend_fused(q, queue, scale)
        else:
            o, lse = _attend_chunked(q, queue, scale)
    return o.view(shape), lse.view(shape[:-1])


def to_compute_dtype(q: Tensor, queue: Tensor) -> tuple[Tensor, Tensor]:
    """Check N x D and K x D features and bring them to one dtype, fp32 or wider."""
    *groups, length, dim = queue.shape
    if q.shape[-1] != dim or list(q.shape[:-2]) != groups or not length:
        raise ValueError(
            f"The queries are {tuple(q.shape)} (N x D) and the queue is "
            f"{tuple(queue.shape)} (K x D): D must be equal and K positive. Set "
            "feat_dim of the algorithm to the output size of its neck."
        )
    dtype = torch.promote_types(torch.promote_types(q.dtype, queue.dtype), torch.float)
    return q.to(dtype), queue.to(dtype)


def queue_blocks(q: Tensor, queue: Tensor) -> tuple[Tensor, ...]:
    """Split the queue (K x D) so that the logits of N x D rows stay in the cache."""
    elements = _BLOCK_ELEMENTS.get(q.device.type, _BLOCK_ELEMENTS["cpu"])
    return queue.split(max(128, elements // max(1, len(q))))


def _transposed_product(a: Tensor, b: Tensor) -> Tensor:
    return a @ b.T


def _onednn_product(a: Tensor, b: Tensor) -> Tensor:
    """The same in fp32 by oneDNN, which has AVX-512 on every CPU that has it."""
    return torch.ops.mkldnn._linear_pointwise(a, b, None, "none", [], "")


def _attend_chunked(
    q: Tensor,
    queue: Tensor,
    scale: float,
    product: Callable[[Tensor, Tensor], Tensor] = _transposed_product,
) -> tuple[Tensor, Tensor]:
    """Streaming softmax in blocks of rows and keys; one queue at a time."""
    parts = [
        _stream(rows, keys, scale, product)
        for group, keys in zip(q, queue, strict=True)
        for rows in group.split(_BLOCK_ROWS)
    ]
    means, lses = zip(*parts, strict=True)
    return torch.cat(means).view_as(q), torch.cat(lses).view(q.shape[:-1])


def _stream(
    q: Tensor,
    queue: Tensor,
    scale: float,
    product: Callable[[Tensor, Tensor], Tensor],
) -> tuple[Tensor, Tensor]:
    """One block of rows, with a running maximum; ``product(a, b)`` is a @ b.T."""
    peak = q.new_full((len(q), 1), -torch.inf)  # N x 1
    total = q.new_zeros(len(q), 1)  # N x 1
    weighted = torch.zeros_like(q)  # N x D
    for block in queue_blocks(q, queue):  # b x D
        logits = product(q, block).mul_(scale)  # N x b
        new_peak = torch.maximum(peak, logits.amax(1, keepdim=True))
        weights = logits.sub_(new_peak).exp_()
        decay = (peak - new_peak).exp_()
        total = total * decay + weights.sum(1, keepdim=True)
        weighted = weighted.mul_(decay).add_(product(weights, block.T))
        peak = new_peak
    return weighted / total, (peak + total.log()).squeeze(1)


def _attend_fused(q: Tensor, queue: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """The fast path: see the head of this file.

    Fused attention runs over segments of the queue, merged by log-sum-exp.
    """
    if _onednn_pays(q):
        return _attend_chunked(q, queue, scale, _onednn_product)
    batch, num_rows, dim = q.shape
    segments = _segments(batch, num_rows, queue.shape[1], q.is_cuda)
    rows = q[:, None].expand(batch, segments, num_rows, dim)
    keys = queue.contiguous().view(batch, segments, -1, dim)  # B x S x K/S x D
    if q.is_cuda:
        op = torch.ops.aten._scaled_dot_product_efficient_attention
        o, lse = op(rows, keys, keys, None, True, scale=scale)[:2]
    else:
        op = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
        o, lse = op(rows, keys, keys, scale=scale)
    lse = lse[:, :, :num_rows]  # B x S x N, padded by the CUDA op
    if segments == 1:
        return o[:, 0], lse[:, 0]
    total = lse.logsumexp(1)  # B x N
    weights = (lse - total[:, None]).exp()
    return (weights[..., None] * o).sum(1), total


def _onednn_pays(q: Tensor) -> bool:
    """Measured: from 128 rows on; below, its many small calls wait for the threads."""
    return (
        q.device.type == "cpu"
        and q.dtype == torch.float
        and q.shape[-2] >= 128
        and torch.backends.mkldnn.is_available()
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    )


def _segments(batch: int, num_rows: int, queue_len: int, on_gpu: bool) -> int:
    """Power of two that divides the queue and gives every core enough blocks of rows.

    A GPU wants a few hundred blocks of 64 rows. On a CPU many rows make few, large
    blocks, which spread badly over the threads; few rows are best left alone.
    """
    if not on_gpu:
        return 4 if num_rows >= 256 and queue_len % 4 == 0 else 1
    segments, blocks = 1, batch * -(-num_rows // 64)
    while segments * blocks < 256 and queue_len % (segments * 256) == 0:
        segments *= 2
    return segments


@cache
def _fast_path_agrees(device: str, dtype: torch.dtype, dim: int) -> bool:
    """Whether the fused op runs here and equals the chunked form on a small case.

    The op is private to torch, so its presence, signature and result are checked once
    for every device, dtype and feature size instead of being trusted.
    """
    if device not in ("cpu", "cuda"):
        return False
    # Twice 16 or 128 rows, which a CPU treats differently, against 256 keys: on a GPU
    # those are several segments.
    angles = torch.arange(768 * dim, dtype=torch.float64).view(768, dim)
    rows = torch.nn.functional.normalize(torch.sin(angles * angles), dim=1)
    rows = rows.to(device, dtype)
    q, queue = rows[:256].view(2, 128, dim), rows[256:].view(2, 256, dim)
    try:
        agrees = all(
            torch.allclose(fast, slow, rtol=1e-3, atol=1e-4)
            for few in (q[:, :16], q)
            for fast, slow in zip(
                _attend_fused(few, queue, 5.0),
                _attend_chunked(few, queue, 5.0),
                strict=True,
            )
        )
        why = "its result differs from the reference"
    except (AttributeError, RuntimeError, TypeError, ValueError) as error:
        agrees, why = False, str(error).split("\n")[0]
    if not agrees:
        print_log(
            f"Fused attention is not used for the queue softmax on {device} with "
            f"{dtype}, D={dim} ({why}); the chunked form takes its place.",
            logger="current",
        )
    return agrees
