"""Cross-entropy of two softmaxes over many trained prototypes, block by block.

For P = softmax((t W'^T - c) / T') of a target and rows W of the online prototypes

    CE(P, softmax(x W^T / T)) = logsumexp_k(x . w_k / T) - x . mu / T
    mu = sum_k P_k w_k

so that a target is summed up by one row of D numbers, and of the N x K logits only
blocks exist. The gradient of the prototypes computes the blocks once more.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .queue_attention import attend, queue_blocks


def prototype_logsumexp(x: Tensor, prototypes: Tensor, temperature: float) -> Tensor:
    """Log-sum-exp of the similarities to prototypes, differentiable in both.

    Args:
        x: N x D.
        prototypes: K x D.
        temperature: T > 0.

    Returns:
        ``logsumexp_k(x_n . w_k / T)``, N, fp32 or wider.
    """
    return _LogSumExp.apply(x, prototypes, temperature)


class Aims(NamedTuple):
    """What N targets make of K prototypes, of which P are their softmaxes."""

    mean: Tensor  # of the prototypes under each P, N x D, differentiable in them
    entropy: Tensor  # of each P, N
    first: Tensor  # the prototype with the largest entry of each P, N, long
    mass: Tensor  # sum of all P, K


def prototype_aims(
    t: Tensor,
    teacher: Tensor,
    centre: Tensor,
    prototypes: Tensor,
    temperature: float,
) -> Aims:
    """What targets want of prototypes: ``P_n = softmax((t_n . w'_k - c_k) / T')``.

    Args:
        t: Targets, N x D; no gradient.
        teacher: Prototypes w' that they are compared with, K x D; no gradient.
        centre: c, taken off the similarities, K; no gradient.
        prototypes: Those whose mean is wanted, K x D, differentiable.
        temperature: T' > 0.

    Returns:
        :class:`Aims`, fp32 or wider.
    """
    return Aims(*_Aims.apply(prototypes, t, teacher, centre, temperature))


class _LogSumExp(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, prototypes: Tensor, temperature: float) -> Tensor:
        mean, lse = attend(x, prototypes, 1 / temperature)
        ctx.save_for_backward(x, prototypes, mean, lse)
        ctx.scale = 1 / temperature
        return lse

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor | None, None]:
        x, prototypes, mean, lse = ctx.saved_tensors
        slope = grad[:, None] * ctx.scale  # N x 1
        found = None
        if ctx.needs_input_grad[1]:
            with torch.autocast(x.device.type, enabled=False):
                rows = x.to(mean.dtype)
                weighted = slope * rows  # N x D
                found = torch.cat(
                    [
                        (logits - lse[:, None]).exp_().T @ weighted
                        for logits in _logits(rows, prototypes, None, ctx.scale)
                    ]
                ).to(prototypes.dtype)
        return (slope * mean).to(x.dtype), found, None


class _Aims(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        prototypes: Tensor,
        t: Tensor,
        teacher: Tensor,
        centre: Tensor,
        temperature: float,
    ) -> tuple[Tensor, ...]:
        dtype = torch.promote_types(t.dtype, torch.float)
        t, scale = t.to(dtype), 1 / temperature
        centre = centre.to(dtype, copy=True)  # which moves before the backward pass
        lse, peak = t.new_full((2, len(t)), -torch.inf)
        first = torch.zeros_like(lse, dtype=torch.long)
        mean, inside, mass = torch.zeros_like(t), torch.zeros_like(lse), []
        with torch.autocast(t.device.type, enabled=False):
            start = 0
            for logits in _logits(t, teacher, centre, scale):
                lse = torch.logaddexp(lse, logits.logsumexp(1))
                most, place = logits.max(1)
                first = torch.where(most > peak, place + start, first)
                peak = torch.maximum(peak, most)
                start += logits.shape[1]
            blocks = queue_blocks(t, prototypes)
            again = _logits(t, teacher, centre, scale)
            for block, logits in zip(blocks, again, strict=True):
                share = (logits - lse[:, None]).exp_()  # N x b
                mean.addmm_(share, block.to(dtype))
                inside += (share * logits).sum(1)
                mass.append(share.sum(0))
        ctx.save_for_backward(t, teacher, centre, lse)
        ctx.scale, ctx.dtype = scale, prototypes.dtype
        constant = lse - inside, first, torch.cat(mass)
        ctx.mark_non_differentiable(*constant)
        return mean, *constant

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
        t, teacher, centre, lse = ctx.saved_tensors
        found = None
        if ctx.needs_input_grad[0]:
            with torch.autocast(t.device.type, enabled=False):
                found = torch.cat(
                    [
                        (logits - lse[:, None]).exp_().T @ grad
                        for logits in _logits(t, teacher, centre, ctx.scale)
                    ]
                ).to(ctx.dtype)
        return found, None, None, None, None


def _logits(
    rows: Tensor, prototypes: Tensor, centre: Tensor | None, scale: float
) -> Iterator[Tensor]:
    """Blocks N x b of ``(rows . w_k - c_k) * scale``."""
    blocks = queue_blocks(rows, prototypes)
    centres = [None] * len(blocks) if centre is None else queue_blocks(rows, centre)
    for block, offset in zip(blocks, centres, strict=True):
        logits = rows @ block.to(rows.dtype).T
        if offset is not None:
            logits -= offset.to(rows.dtype)
        yield logits.mul_(scale)
