"""Correspondence between the cells of two feature maps (DenseCL, arXiv 2011.09157)."""

import torch
from torch import Tensor


@torch.no_grad()
def match_cells(query: Tensor, key: Tensor) -> Tensor:
    """The most similar key cell of every query cell (section 3.3).

    One-directional: several query cells may match the same key cell.

    Args:
        query: Backbone features of the query view, N x A x C, unit rows.
        key: Those of the key view, N x B x C, unit rows.

    Returns:
        Index in [0, B), N x A; of equal similarities, the first.
    """
    with torch.autocast(query.device.type, enabled=False):  # rounding makes ties
        return (query @ key.transpose(1, 2)).argmax(2)


def take_cells(cells: Tensor, index: Tensor) -> Tensor:
    """Pick cells N x B x D by an index N x A from :func:`match_cells`: N x A x D."""
    return cells.gather(1, index[:, :, None].expand(-1, -1, cells.shape[2]))
