"""Softmax over a long queue, computed as attention.

Attention with query ``q`` (N x D) and keys = values = ``queue`` (K x D) at scale
``1/T`` returns, for p = softmax(q queue^T / T),

    o   = p @ queue                              N x D
    lse = logsumexp(q queue^T / T)               N

and d lse / d q = o / T. So a contrastive loss *and* its gradient come from one pass,
and nothing of size N x K is ever stored. The pass is a streaming softmax over blocks of
the queue, in public ops. Two other forms may take its place where they are available
and agree with it: torch's fused attention, and the same pass with products by oneDNN,
which on AMD's CPUs with AVX-512 are twice as fast as those of ``@`` and fused attention
(by MKL). :mod:`.queue_forms` chooses. All accumulate in at least fp32.

Slots that carry a row's own label can be left out of its softmax; that is done block by
block in the streaming pass, as fused attention would want an N x K mask.
"""

import math
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from mmengine.logging import print_log
from torch import Tensor

from mmssl_ext import compat
from mmssl_ext.errors import UserValueError

from . import queue_forms

# Elements of one N x chunk block of logits: 1 MiB in fp32 stays in a CPU's L2 cache; a
# GPU wants larger matrix products.
_BLOCK_ELEMENTS = {"cpu": 2**18, "cuda": 2**24}
_BLOCK_ROWS = 512

Labels = tuple[Tensor, Tensor]
Product = Callable[[Tensor, Tensor], Tensor]  # of a and b: a @ b.T

_use_fused = True


def use_fused(allowed: bool | str) -> None:
    """Choose how this process computes the softmax over a queue.

    Args:
        allowed: True, the default: by the fastest form; False: by public ops alone;
            ``"trial"``: by the form that a short trial finds fastest, on every device.
    """
    global _use_fused
    _use_fused = bool(allowed)
    queue_forms.try_always(allowed == "trial")


def queue_logsumexp(
    q: Tensor, queue: Tensor, temperature: float, labels: Labels | None = None
) -> Tensor:
    """Log-sum-exp of the similarities to a queue, differentiable in ``q`` only.

    Args:
        q: Query features, N x D (usually unit rows), or B x N x D.
        queue: Negative keys, K x D, or B x K x D, one queue for each of the B; never
            receives a gradient and may be overwritten as soon as this returns.
        temperature: Softmax temperature T > 0.
        labels: Labels of the rows, N (or B x N), and of the slots, K (or B x K), long.
            Slots of a row's own label are left out of its sum. A negative label is an
            unknown one and equals none.

    Returns:
        ``logsumexp_j(q_n . queue_j / T)``, shape N or B x N, fp32 (fp64 for fp64
        input); ``-inf``, with a gradient of zero, for a row whose slots are all left
        out.
    """
    return _QueueLogSumExp.apply(q, queue, temperature, labels)


class _QueueLogSumExp(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, q: Tensor, queue: Tensor, temperature: float, labels: Labels | None
    ) -> Tensor:
        mean_key, lse = attend(q, queue, 1 / temperature, labels)
        ctx.save_for_backward(mean_key)
        ctx.scale, ctx.dtype = 1 / temperature, q.dtype
        return lse

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        (mean_key,) = ctx.saved_tensors
        slope = (grad[..., None] * mean_key * ctx.scale).to(ctx.dtype)
        return slope, None, None, None


@torch.no_grad()
def attend(
    q: Tensor, queue: Tensor, scale: float, labels: Labels | None = None
) -> tuple[Tensor, Tensor]:
    """Softmax-weighted mean key and log-sum-exp of every row of ``q``.

    Args:
        q: N x D, or B x N x D.
        queue: K x D, or B x K x D.
        scale: Factor on the similarities (1 / temperature).
        labels: Labels of rows and slots as in :func:`queue_logsumexp`.

    Returns:
        ``o`` (like q) and ``lse`` (without D), fp32 (fp64 where both inputs are fp64);
        0 and ``-inf`` for a row whose slots are all left out.

    Raises:
        ValueError: The feature sizes differ, the queue is empty, or the labels do not
            fit.
    """
    q, queue = to_compute_dtype(q, queue)
    shape = q.shape
    if not q.numel():  # fused attention on a CPU divides by the number of rows
        return torch.zeros_like(q), q.new_zeros(shape[:-1])
    if labels is not None:
        labels = fit_labels(labels, q, queue)
    q, queue = as_groups(q), as_groups(queue)
    with torch.autocast(q.device.type, enabled=False):
        form = form_of(q, queue)
        if labels is None:
            o, lse = _FORMS[form](q, queue, scale)
        else:
            o, lse = _attend_chunked(q, queue, scale, product_of(form), labels)
    return o.view(shape), lse.view(shape[:-1])


def to_compute_dtype(q: Tensor, queue: Tensor) -> tuple[Tensor, Tensor]:
    """Check N x D and K x D features and bring them to one dtype, fp32 or wider."""
    *groups, length, dim = queue.shape
    if q.shape[-1] != dim or list(q.shape[:-2]) != groups or not length:
        raise UserValueError(
            f"The queries are {tuple(q.shape)} (N x D) and the queue is "
            f"{tuple(queue.shape)} (K x D): D must be equal and K positive. Set "
            "feat_dim of the algorithm to the output size of its neck."
        )
    dtype = torch.promote_types(torch.promote_types(q.dtype, queue.dtype), torch.float)
    return q.to(dtype), queue.to(dtype)


def as_groups(features: Tensor) -> Tensor:
    """N x D or B x N x D features as B x N x D, in order in memory.

    An expanded tensor, as of equal keys, would be a thousand times as slow in oneDNN.
    """
    *groups, length, dim = features.shape
    return features.reshape(math.prod(groups), length, dim).contiguous()


def fit_labels(labels: Labels, q: Tensor, queue: Tensor) -> Labels:
    """Labels of rows and slots as B x N and B x K, so that only equal known ones match.

    Raises:
        ValueError: They do not fit N x D queries and K x D keys.
    """
    rows, slots = labels
    wanted = q.shape[:-1], queue.shape[:-1]
    try:
        rows, slots = rows.expand(wanted[0]), slots.expand(wanted[1])
    except RuntimeError:
        raise UserValueError(
            f"There are labels {tuple(rows.shape)} and {tuple(slots.shape)} for "
            f"queries {tuple(wanted[0])} and slots {tuple(wanted[1])}: give every "
            "query and every slot of the queue one, -1 where it is unknown."
        ) from None
    # A row of unknown label gets one that no slot has.
    rows = rows.masked_fill(rows < 0, torch.iinfo(rows.dtype).min)
    return as_groups(rows[..., None])[..., 0], as_groups(slots[..., None])[..., 0]


def queue_blocks(q: Tensor, queue: Tensor) -> tuple[Tensor, ...]:
    """Split the queue (K x D) so that the logits of N x D rows stay in the cache.

    What belongs to the slots (K) is split alike.
    """
    elements = _BLOCK_ELEMENTS.get(q.device.type, _BLOCK_ELEMENTS["cpu"])
    return queue.split(max(128, elements // max(1, len(q))))


def _transposed_product(a: Tensor, b: Tensor) -> Tensor:
    return a @ b.T


def _onednn_product(a: Tensor, b: Tensor) -> Tensor:
    """The same in fp32 by oneDNN, which has AVX-512 on every CPU that has it."""
    return compat.onednn_linear(a, b)


def product_of(form: str) -> Product:
    """The product ``a @ b.T`` of a form, for passes that are no plain attention."""
    return _onednn_product if form == "onednn" else _transposed_product


def _attend_chunked(
    q: Tensor,
    queue: Tensor,
    scale: float,
    product: Product = _transposed_product,
    labels: Labels | None = None,
) -> tuple[Tensor, Tensor]:
    """Streaming softmax in blocks of rows and keys; one queue at a time."""
    parts = []
    for group, keys in enumerate(queue):
        rows = q[group].split(_BLOCK_ROWS)
        if labels is None:
            parts += [_stream(block, keys, scale, product) for block in rows]
            continue
        own = labels[0][group].split(_BLOCK_ROWS)
        slots = labels[1][group]
        parts += [
            _stream(block, keys, scale, product, (names, slots))
            for block, names in zip(rows, own, strict=True)
        ]
    means, lses = zip(*parts, strict=True)
    return torch.cat(means).view_as(q), torch.cat(lses).view(q.shape[:-1])


def _stream(
    q: Tensor,
    queue: Tensor,
    scale: float,
    product: Product,
    labels: Labels | None = None,
) -> tuple[Tensor, Tensor]:
    """One block of rows, with a running maximum."""
    # Finite, since -inf - -inf is no number: a slot that is left out lies so far below
    # the lowest peak that its weight is 0.
    lowest = torch.finfo(q.dtype).min
    peak = q.new_full((len(q), 1), lowest / 2)  # N x 1
    total = q.new_zeros(len(q), 1)  # N x 1
    weighted = torch.zeros_like(q)  # N x D
    blocks = queue_blocks(q, queue)
    slots = None if labels is None else queue_blocks(q, labels[1])
    for number, block in enumerate(blocks):  # b x D
        logits = product(q, block).mul_(scale)  # N x b
        if labels is not None and slots is not None:
            logits.masked_fill_(labels[0][:, None] == slots[number], lowest)
        new_peak = torch.maximum(peak, logits.amax(1, keepdim=True))
        weights = logits.sub_(new_peak).exp_()
        decay = (peak - new_peak).exp_()
        total = total * decay + weights.sum(1, keepdim=True)
        weighted = weighted.mul_(decay).add_(product(weights, block.T))
        peak = new_peak
    # The peak's own weight is 1, so a total is below 1 only where nothing is left in.
    return weighted / total.clamp(min=1), (peak + total.log()).squeeze(1)


def _attend_onednn(q: Tensor, queue: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    return _attend_chunked(q, queue, scale, _onednn_product)


def _attend_fused(q: Tensor, queue: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """Fused attention over segments of the queue, merged by log-sum-exp."""
    batch, num_rows, dim = q.shape
    segments = _segments(batch, num_rows, queue.shape[1], q.is_cuda)
    rows = q[:, None].expand(batch, segments, num_rows, dim)
    keys = queue.view(batch, segments, -1, dim)  # B x S x K/S x D
    o, lse = compat.attention(rows, keys, scale)
    lse = lse[:, :, :num_rows]  # B x S x N, padded by the CUDA op
    if segments == 1:
        return o[:, 0], lse[:, 0]
    total = lse.logsumexp(1)  # B x N
    weights = (lse - total[:, None]).exp()
    return (weights[..., None] * o).sum(1), total


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


_FORMS: dict[str, queue_forms.Form] = {
    "chunked": _attend_chunked,
    "fused": _attend_fused,
    "onednn": _attend_onednn,
}


def form_of(q: Tensor, queue: Tensor) -> str:
    """Name the form for B x N x D rows against B x K x D keys."""
    kind = q.device.type, q.dtype, q.shape[-1]
    if not _use_fused:
        return "chunked"
    fast = [name for name in ("fused", "onednn") if _agrees(name, *kind)]
    forms = {name: _FORMS[name] for name in ("chunked", *fast)}
    return queue_forms.choose(forms, q, queue)


@cache
def _agrees(form: str, device: str, dtype: torch.dtype, dim: int) -> bool:
    """Whether a form runs here and equals the chunked one on a small case.

    Its op is private to torch, so presence, signature and result are checked once for
    every device, dtype and feature size instead of being trusted.
    """
    if device not in ("cpu", "cuda"):
        return False
    if form == "onednn" and not (
        device == "cpu"
        and dtype == torch.float
        and torch.backends.mkldnn.is_available()
    ):
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
                _FORMS[form](few, queue, 5.0),
                _attend_chunked(few, queue, 5.0),
                strict=True,
            )
        )
        why = "its result differs from the reference"
    except (AttributeError, RuntimeError, TypeError, ValueError) as error:
        agrees, why = False, str(error).split("\n")[0]
    if not agrees:
        print_log(
            f"{queue_forms.NAMES[form]} is not used for the queue softmax on {device} "
            f"with {dtype}, D={dim} ({why}).",
            logger="current",
        )
    return agrees
