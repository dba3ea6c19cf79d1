"""InfoNCE against a queue of negatives (MoCo, arXiv 1911.05722, equation 1)."""

import torch
from torch import Tensor

from .queue_attention import queue_logsumexp


def info_nce(q: Tensor, k: Tensor, queue: Tensor, temperature: float) -> Tensor:
    """InfoNCE of every query: its key against the key and all of the queue.

    ``loss_n = -log(exp(q.k/T) / (exp(q.k/T) + sum_j exp(q.n_j/T)))``, computed as
    ``logaddexp(lse_n, s_n) - s_n`` with ``s = q.k/T`` and the queue's log-sum-exp. More
    positives or per-row negatives enter like ``s``, by another ``logaddexp``.

    Args:
        q: Queries, N x D, unit rows.
        k: Positive keys, N x D, unit rows.
        queue: Negative keys, K x D, unit rows, constant.
        temperature: T > 0.

    Returns:
        One loss per query, shape N, fp32 or wider; average it for the usual loss.
    """
    lse = queue_logsumexp(q, queue, temperature)  # N
    s = (q.to(lse.dtype) * k.to(lse.dtype)).sum(1) / temperature  # N
    return torch.logaddexp(lse, s) - s
