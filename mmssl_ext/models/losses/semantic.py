"""Contrast of classes of cells in a batch, as in DSC."""

import torch
from torch import Tensor


def class_contrast(
    r: Tensor, t: Tensor, same: Tensor, others: Tensor, temperature: float
) -> tuple[Tensor, Tensor]:
    """Cells must be nearer to those of their class than to all others.

    ``L_a = logsumexp_o(r_a . t_o / T) - mean_p(r_a . t_p / T)`` over the others o of a
    and those p among them that are of its class.

    Args:
        r: Cells, M x D, unit rows.
        t: Candidates, B x D, unit rows, constant.
        same: Which are of one class, M x B bool.
        others: Which count at all, M x B bool: not the cell itself.
        temperature: T > 0.

    Returns:
        Losses, M, fp32 or wider, 0 where a cell has no candidate of its class; and
        whether it has one, M bool.
    """
    dtype = torch.promote_types(r.dtype, torch.float)
    with torch.autocast(r.device.type, enabled=False):
        logits = r.to(dtype) @ t.to(dtype).T / temperature  # M x B
    positive = same & others
    number = positive.sum(1)
    near = torch.where(positive, logits, 0.0).sum(1) / number.clamp(min=1)
    # A finite value, or a row without others would have a gradient that is no number.
    whole = logits.masked_fill(~others, torch.finfo(dtype).min / 2).logsumexp(1)
    found = number > 0
    return torch.where(found, whole - near, 0.0), found
