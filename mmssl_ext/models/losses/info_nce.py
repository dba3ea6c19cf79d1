"""InfoNCE against a queue of negatives (MoCo, arXiv 1911.05722, equation 1)."""

import torch
from torch import Tensor

from .queue_attention import queue_logsumexp


def info_nce(
    q: Tensor,
    k: Tensor,
    queue: Tensor,
    temperature: float,
    negatives: Tensor | None = None,
) -> Tensor:
    """InfoNCE of every query: its key against the key and all of the queue.

    ``loss_n = -log(exp(q.k/T) / (exp(q.k/T) + sum_j exp(q.n_j/T)))``, computed as
    ``logaddexp(lse_n, s_n) - s_n`` with ``s = q.k/T`` and the queue's log-sum-exp. A
    negative of a row's own enters like ``s``, by another ``logaddexp``.

    Args:
        q: Queries, N x D, unit rows; or B x N x D for B queues at once.
        k: Positive keys, like ``q``.
        queue: Negative keys, K x D or B x K x D, unit rows, constant.
        temperature: T > 0.
        negatives: One more negative for each query, like ``q``. The caller detaches
            them where they are constant.

    Returns:
        One loss per query, shape N or B x N, fp32 or wider; average it for the usual
        loss.
    """
    lse = queue_logsumexp(q, queue, temperature)  # N
    if negatives is not None:
        lse = torch.logaddexp(lse, _logits(q, negatives, temperature, lse.dtype))
    s = _logits(q, k, temperature, lse.dtype)  # N
    return torch.logaddexp(lse, s) - s


def _logits(q: Tensor, k: Tensor, temperature: float, dtype: torch.dtype) -> Tensor:
    return (q.to(dtype) * k.to(dtype)).sum(-1) / temperature
