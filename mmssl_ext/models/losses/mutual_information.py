"""Codes of most mutual information with the images (MIRA, arXiv 2211.02284)."""

import torch
from mmengine.dist import all_reduce
from torch import Tensor

from ..layers import logsumexp_of_all


@torch.no_grad()
def informative_codes(
    scores: Tensor, temperature: float, beta: float, num_iters: int = 30
) -> Tensor:
    """Codes that stay near the softmax of the scores and tell much of the images.

    They minimise ``mean_n KL(W_n || P'_n) - beta (H(mean W) - mean H(W))`` with ``P' =
    softmax(scores / temperature)`` over the images of all ranks, which is so where ::

        W_nm ~ P_nm v_m^e,  v = mean_n W_n,  P = P'^(1 / (1 - beta)),  e = -beta / (1 -
        beta)

    v is found by ``v <- (mean_n P_n / (P_n . v^e))^(1 - beta)``, whose error falls by a
    factor of about beta each time. In logarithms, where nothing over- or underflows.

    Args:
        scores: Cosines of images and prototypes, N x M, or B x N x M for B sets.
        temperature: Of the softmax, before it is sharpened.
        beta: Weight of the mutual information, from 0 (the softmax) to below 1.
        num_iters: Of the iteration for v.

    Returns:
        Codes like ``scores``, fp32 or wider, constant; the code of an image sums to 1.
    """
    with torch.autocast(scores.device.type, enabled=False):
        dtype = torch.promote_types(scores.dtype, torch.float)
        logs = (scores.to(dtype) / (temperature * (1 - beta))).log_softmax(-1)
        count = logs.new_full((), logs.shape[-2])
        all_reduce(count)  # images of all ranks
        power = -beta / (1 - beta)
        v = (1 - beta) * (logsumexp_of_all(logs, -2) - count.log())  # log v, 1 x M
        for _ in range(num_iters):
            rows = logs - (power * v + logs).logsumexp(-1, keepdim=True)
            v = (1 - beta) * (logsumexp_of_all(rows, -2) - count.log())
        return (power * v + logs).softmax(-1)
