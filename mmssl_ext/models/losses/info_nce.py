"""Cross-entropy over a queue: InfoNCE (MoCo, arXiv 1911.05722), and soft targets."""

import torch
from torch import Tensor

from mmssl_ext.errors import UserValueError

from .queue_attention import Labels, queue_logsumexp


def info_nce(
    q: Tensor,
    k: Tensor,
    queue: Tensor,
    temperature: float,
    negatives: Tensor | None = None,
    labels: Labels | None = None,
) -> Tensor:
    """InfoNCE of every query: its key against the key and all of the queue.

    ``loss_n = -log(exp(q.k/T) / (exp(q.k/T) + sum_j exp(q.n_j/T)))``, computed as
    ``logaddexp(lse_n, s_n) - s_n`` with ``s = q.k/T`` and the queue's log-sum-exp.
    Negatives of a row's own enter like ``s``, by another ``logaddexp``.

    Args:
        q: Queries, N x D, unit rows; or B x N x D for B queues at once.
        k: Positive keys, like ``q``.
        queue: Negative keys, K x D or B x K x D, unit rows, constant.
        temperature: T > 0.
        negatives: More negatives for each query: one, like ``q``, or S of them, N x S x
            D or B x N x S x D. The caller detaches them where they are constant.
        labels: Labels of the queries, N, and of the queue's slots, K, long: slots of a
            query's own label are false negatives and left out. A negative label is
            unknown and equals none.

    Returns:
        One loss per query, shape N or B x N, fp32 or wider; average it for the usual
        loss. It is 0 for a query whose negatives are all left out.

    Raises:
        ValueError: Sizes do not fit.
    """
    lse = _log_partition(q, queue, temperature, negatives, labels)  # N
    s = _logits(q, k, temperature, lse.dtype)  # N
    return torch.logaddexp(lse, s) - s


def soft_nce(
    q: Tensor,
    mean: Tensor,
    queue: Tensor,
    temperature: float,
    negatives: Tensor | None = None,
    *,
    positives: Tensor | None = None,
    labels: Labels | None = None,
) -> Tensor:
    """Cross-entropy of soft targets with the softmax over a queue, by their mean.

    For target probabilities p over candidates c_j with the mean ``mu = sum_j p_j c_j``

        loss_n = CE(p_n, softmax_j(q_n . c_j / T)) = z_n - q_n . mu_n / T

    where z is the log-sum-exp of all logits: the N x K probabilities are not needed.
    ``attend(k, queue, 1 / T')`` gives the mean of ``p = softmax(k queue^T / T')``, the
    target of ReSSL (arXiv 2107.09282); with ``mean = positives = k`` this is InfoNCE.

    Args:
        q: Queries, N x D, unit rows; or B x N x D for B queues at once.
        mean: Mean candidate under each query's target, like ``q``, constant. The target
            must sum to 1 and be 0 for candidates that are left out.
        queue: Candidates of all queries, K x D or B x K x D, constant.
        temperature: T > 0.
        negatives: Candidates of a query's own that its target gives 0, as in
            :func:`info_nce`.
        positives: One more candidate for each query, like ``q``, usually its key. The
            caller detaches it where it is constant.
        labels: Labels of queries and slots as in :func:`info_nce`.

    Returns:
        One cross-entropy per query in nats, shape N or B x N, fp32 or wider; 0 for a
        query that has no candidate left.

    Raises:
        ValueError: Sizes do not fit, or ``mean`` requires a gradient (detach it).
    """
    if mean.requires_grad:
        raise UserValueError(
            "The targets of soft_nce get no gradient; pass mean.detach()."
        )
    z = _log_partition(q, queue, temperature, negatives, labels)
    if positives is not None:
        z = torch.logaddexp(z, _logits(q, positives, temperature, z.dtype))
    loss = z - _logits(q, mean, temperature, z.dtype)
    return loss if labels is None else torch.where(z.isneginf(), 0.0, loss)


def _log_partition(
    q: Tensor,
    queue: Tensor,
    temperature: float,
    negatives: Tensor | None,
    labels: Labels | None,
) -> Tensor:
    """Log-sum-exp of the logits of the queue and of a row's own negatives, N."""
    lse = queue_logsumexp(q, queue, temperature, labels)
    if negatives is None:
        return lse
    if negatives.shape == q.shape:
        own = _logits(q, negatives, temperature, lse.dtype)
        return torch.logaddexp(lse, own)
    if negatives.shape[:-2] != q.shape[:-1] or negatives.shape[-1] != q.shape[-1]:
        raise UserValueError(
            f"The negatives are {tuple(negatives.shape)} and the queries "
            f"{tuple(q.shape)}: give every query one, N x D, or S of its own, "
            "N x S x D."
        )
    if not negatives.shape[-2]:
        return lse
    with torch.autocast(q.device.type, enabled=False):  # it would round the logits
        columns = q.to(lse.dtype).unsqueeze(-1)  # N x D x 1
        own = (negatives.to(lse.dtype) @ columns).squeeze(-1) / temperature  # N x S
    return torch.logaddexp(lse, own.logsumexp(-1))


def _logits(q: Tensor, k: Tensor, temperature: float, dtype: torch.dtype) -> Tensor:
    return (q.to(dtype) * k.to(dtype)).sum(-1) / temperature
