"""Balanced codes by Sinkhorn's iterations (SwAV, arXiv 2006.09882, section 3.1)."""

import torch
from torch import Tensor

from ..layers import logsumexp_of_all


@torch.no_grad()
def sinkhorn(scores: Tensor, epsilon: float, num_iters: int = 3) -> Tensor:
    """Share out images among prototypes so that each gets about as much of them.

        Q = exp(scores / epsilon);  num_iters times:
            Q[:, m] /= sum over the images of ALL ranks of Q[:, m]
            Q[n, :] /= sum over the prototypes of Q[n, :]

    In logarithms, so that no epsilon overflows or underflows. The sum of the images is
    the only quantity that ranks exchange, M numbers a round; they may have different
    numbers of images.

    Args:
        scores: Of images and prototypes, N x M, or B x N x M for B sets at once.
        epsilon: The smaller, the nearer to one prototype for each image.
        num_iters: Of both normalisations.

    Returns:
        Codes like ``scores``, fp32 or wider, constant; the code of an image sums to 1.
    """
    with torch.autocast(scores.device.type, enabled=False):
        dtype = torch.promote_types(scores.dtype, torch.float)
        logs = scores.to(dtype) / epsilon
        for _ in range(num_iters):
            logs = logs - logsumexp_of_all(logs, -2)
            logs = logs.log_softmax(-1)
        return logs.softmax(-1)
