"""What a student lacks of its teacher (SimReg, arXiv 2201.05131, and lightly-train)."""

import torch
from mmengine.dist import all_reduce, get_world_size
from torch import Tensor

from ..layers import unit
from .info_nce import soft_nce
from .queue_attention import attend


def queue_distillation(
    s: Tensor, t: Tensor, queue: Tensor, temperature: float
) -> Tensor:
    """KL between what a teacher and its student see in a queue of the teacher's.

    With p = softmax(queue t / T) and its mean ``mu = sum_j p_j queue_j``

        loss_n = KL(p_n || softmax(queue s_n / T)) = CE(p_n, .) - H(p_n)
               = [lse(s_n) - s_n . mu_n / T] - [lse(t_n) - t_n . mu_n / T]

    so that nothing of size N x K is stored.

    Args:
        s: Student's features, N x D unit rows; the only input that receives a gradient.
        t: Teacher's features, N x D unit rows, constant.
        queue: Earlier features of the teacher, K x D unit rows, constant.
        temperature: T > 0.

    Returns:
        One divergence per image in nats, N, >= 0 up to rounding; fp32 or wider.

    Raises:
        ValueError: Sizes do not fit.
    """
    t = t.detach()
    mean, lse = attend(t, queue, 1 / temperature)  # N x D, N
    entropy = lse - (t.to(lse.dtype) * mean).sum(-1) / temperature
    return soft_nce(s, mean, queue, temperature) - entropy


def map_distillation(s: Tensor, t: Tensor, normalise: bool = True) -> Tensor:
    """Distance of a student's cells from those of its teacher.

    Args:
        s: Student's map, N x D x h x w; brought bilinearly to the teacher's cells.
        t: Teacher's map, N x D x H x W, constant.
        normalise: ``2 - 2 cos`` of each cell, as SimReg compares whole images; else the
            mean squared error over all elements (lightly-train's distillation v2),
            which depends on the scale of the teacher's features.

    Returns:
        Mean over the cells, or over all elements, a scalar; fp32 or wider.
    """
    s, t = _on_cells_of(s, t.detach())
    if not normalise:
        return torch.nn.functional.mse_loss(s, t)
    return (2 - 2 * (unit(s, 1) * unit(t, 1)).sum(1)).mean()


@torch.no_grad()
def standardised(t: Tensor) -> Tensor:
    """A map whose channels have mean 0 and variance 1 in the batch of all ranks.

    Args:
        t: N x D x H x W, of as many cells on every rank.

    Returns:
        N x D x H x W, constant; fp32 or wider.
    """
    t = t.to(torch.promote_types(t.dtype, torch.float))
    t = t - _over_ranks(t.mean((0, 2, 3), keepdim=True))
    variance = _over_ranks(t.square().mean((0, 2, 3), keepdim=True))
    return t * torch.rsqrt(variance + 1e-5)


def _over_ranks(mean: Tensor) -> Tensor:
    if get_world_size() > 1:
        all_reduce(mean, op="mean")
    return mean


def similarity_distillation(s: Tensor, t: Tensor, temperature: float) -> Tensor:
    """KL between the similarities of a teacher's cells to each other and a student's.

    Within each image, each cell's softmax over all its cells, itself included.

    Args:
        s: Student's map, N x D x h x w; brought bilinearly to the teacher's cells.
        t: Teacher's map, N x D' x H x W, constant.
        temperature: T > 0.

    Returns:
        Mean over the N H W cells in nats, a scalar; fp32 or wider.
    """
    with torch.autocast(s.device.type, enabled=False):
        ours, wanted = (
            unit(x.flatten(2).transpose(1, 2))  # N x HW x D
            for x in _on_cells_of(s, t.detach())
        )
        log_q = (ours @ ours.transpose(1, 2) / temperature).log_softmax(-1)
        log_p = (wanted @ wanted.transpose(1, 2) / temperature).log_softmax(-1)
    return (log_p.exp() * (log_p - log_q)).sum(-1).mean()


def _on_cells_of(s: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """Both maps, the first on the cells of the second; fp32 or wider."""
    dtype = torch.promote_types(s.dtype, torch.float)
    s, t = s.to(dtype), t.to(dtype)
    if s.shape[2:] != t.shape[2:]:
        s = torch.nn.functional.interpolate(
            s, t.shape[2:], mode="bilinear", align_corners=False
        )
    return s, t
