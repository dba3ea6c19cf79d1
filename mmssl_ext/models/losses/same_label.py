"""The slots of a queue that have a row's own label, block by block."""

import torch
from torch import Tensor

from .queue_attention import Labels, queue_blocks


@torch.no_grad()
def same_label_sums(queue: Tensor, labels: Labels) -> tuple[Tensor, Tensor]:
    """Sum and number of the keys with each row's label.

    Args:
        queue: Keys, K x D.
        labels: Labels of the rows, N, and of the slots, K, long. A negative label is
            unknown and equals none.

    Returns:
        Sums, N x D, fp32 (fp64 of fp64), and numbers, N, of the same dtype.
    """
    rows, slots = labels
    known = rows >= 0  # N
    dtype = torch.promote_types(queue.dtype, torch.float)
    sums = queue.new_zeros(len(rows), queue.shape[1], dtype=dtype)
    counts = queue.new_zeros(len(rows), dtype=dtype)
    with torch.autocast(queue.device.type, enabled=False):
        blocks = zip(queue_blocks(sums, queue), queue_blocks(sums, slots), strict=True)
        for keys, names in blocks:  # b x D, b
            same = ((rows[:, None] == names) & known[:, None]).to(dtype)  # N x b
            sums.addmm_(same, keys.to(dtype))
            counts += same.sum(1)
    return sums, counts
