"""Figures that tell whether embeddings are collapsing."""

from __future__ import annotations

import torch
from torch import Tensor


@torch.no_grad()
def embedding_health(
    query: Tensor, key: Tensor | None = None, queue: Tensor | None = None
) -> dict[str, Tensor]:
    """Spread of a batch of unit embeddings, as scalars on their device.

    * ``std_ratio``: mean standard deviation per channel times sqrt(D): 1 for a uniform
      spread over the sphere, 0 for one constant embedding (SimSiam, arXiv 2011.10566,
      section 4.1).
    * ``effective_rank``: exp of the entropy of the normalised singular values (RankMe,
      arXiv 2210.02885, equation 2), uncentred as there: a constant embedding has
      exactly 1, the maximum is min(N, D).
    * ``uniformity``: log of the mean of ``exp(-2 |q_i - q_j|^2)`` over pairs, and
      ``alignment``: mean of ``|q - k|^2`` (arXiv 2005.10242, section 4.1); low is good.
    * ``pos_neg_gap``: mean of q.k minus mean of q.n over the queue.

    Args:
        query: N x D unit rows, N >= 2.
        key: N x D unit rows of the other view; without it no ``alignment``.
        queue: K x D unit rows; without it no ``pos_neg_gap``.
    """
    q = query.float()
    singular = torch.linalg.svdvals(torch.nan_to_num(q))
    share = singular / singular.sum().clamp_min(1e-12)
    different = ~torch.eye(len(q), dtype=torch.bool, device=q.device)
    distances = (2 - 2 * q @ q.T)[different]
    health = {
        "std_ratio": q.std(dim=0, correction=0).mean() * q.shape[1] ** 0.5,
        "effective_rank": torch.special.entr(share).sum().exp(),
        "uniformity": (-2 * distances).exp().mean().log(),
    }
    if key is not None:
        positive = (q * key.float()).sum(1).mean()
        health["alignment"] = 2 - 2 * positive
        if queue is not None:
            # mean over the queue first: q . mean(n) is the mean of q . n
            negative = (q @ queue.mean(0, dtype=torch.float32)).mean()
            health["pos_neg_gap"] = positive - negative
    return health
