"""InfoNCE with a margin, against negatives of each query's own (InterCLR)."""

from typing import Any

import torch
from torch import Tensor


def margin_info_nce(
    q: Tensor,
    positives: Tensor,
    negatives: Tensor,
    similarity: Tensor,
    mask: Tensor,
    temperature: float,
    margin: float,
) -> Tensor:
    """InfoNCE of every query, with a margin on the positive's cosine.

    ``loss_n = -log(exp((q.p - m)/T) / (exp((q.p - m)/T) + sum_j exp(q.n_j/T)))``
    (arXiv 2008.11702). A negative margin makes the decision boundary less strict.

    Args:
        q: Queries, N x D, unit rows; they alone get a gradient.
        positives: N x D, unit rows.
        negatives: Candidates that the queries share, L x D, unit rows.
        similarity: ``q @ negatives.T``, N x L, which the caller has from choosing.
        mask: Which candidates are negatives of a query, N x L. One without any has no
            loss.
        temperature: T > 0.
        margin: m.

    Returns:
        One loss per query, N.
    """
    arguments = q, negatives, similarity, mask, temperature
    lse = _MaskedLogSumExp.apply(*arguments)  # N
    s = ((q * positives).sum(1) - margin) / temperature
    return torch.logaddexp(lse, s) - s


class _MaskedLogSumExp(torch.autograd.Function):
    """Log-sum-exp of the masked similarities; the gradient is final in forward."""

    @staticmethod
    def forward(
        ctx: Any,
        q: Tensor,
        negatives: Tensor,
        similarity: Tensor,
        mask: Tensor,
        temperature: float,
    ) -> Tensor:
        with torch.autocast(q.device.type, enabled=False):
            # Any finite filler will do, and exp is three times as fast as of -inf.
            weights = torch.where(mask, similarity, similarity.amin()).to(q.dtype)
            top = weights.amax(1, keepdim=True)
            weights.sub_(top).div_(temperature).exp_().mul_(mask)  # N x L
            total = weights.sum(1, keepdim=True)  # at least 1, or 0 without negatives
            mean = (weights @ negatives.to(q.dtype)) / total.clamp(min=1)
        ctx.save_for_backward(mean)  # N x D
        ctx.temperature = temperature
        return (total.log() + top / temperature)[:, 0]

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None, None]:
        (mean,) = ctx.saved_tensors
        return grad[:, None] * mean / ctx.temperature, None, None, None, None
