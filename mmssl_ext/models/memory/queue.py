"""The queue of negative keys (MoCo, arXiv 1911.05722, section 3.2)."""

import torch
from mmengine.dist import all_gather, get_world_size
from torch import Tensor, nn


class KeyQueue(nn.Module):
    """Ring buffer of the last K keys of all ranks.

    Any batch size on any number of ranks fits: writing wraps around, and of a batch
    larger than the queue only its last K keys stay. Keys and pointer are buffers on the
    model's device, so a checkpoint holds them and no step waits for the device.

    Args:
        length: Number of keys K.
        dim: Feature size D.
        groups: Number G of queues that are written together, for methods with several
            keys per image; None is one queue without that dimension.

    Attributes:
        keys: K x D or G x K x D, unit rows; starts as normalised Gaussian noise.
        ptr: Shape 1, position of the next write.

    Raises:
        ValueError: ``length`` or ``dim`` is not positive.
    """

    keys: Tensor
    ptr: Tensor
    may_start_anew = True  # where a checkpoint to start from has other sizes

    def __init__(self, length: int, dim: int, groups: int | None = None) -> None:
        super().__init__()
        whole = all(type(size) is int for size in (length, dim))
        if not whole or length < 1 or dim < 1:
            raise ValueError(
                f"A queue of {length!r} keys of size {dim!r} cannot hold anything; set "
                "queue_len and feat_dim to positive whole numbers."
            )
        shape = (length, dim) if groups is None else (groups, length, dim)
        noise = nn.functional.normalize(torch.randn(shape), dim=-1)
        self.register_buffer("keys", noise)
        self.register_buffer("ptr", torch.zeros(1, dtype=torch.long))

    @torch.no_grad()
    def enqueue(self, keys: Tensor) -> None:
        """Replace the oldest keys by those of all ranks, in rank order.

        Args:
            keys: This rank's keys, N x D or N x G x D; N is the same on every rank.
        """
        if get_world_size() > 1:
            keys = torch.cat(all_gather(keys.contiguous()))
        length = self.keys.shape[-2]
        new = keys[-length:]
        # Position of each new key, as if those that do not fit had been written too.
        first = self.ptr + (len(keys) - len(new))
        where = (first + torch.arange(len(new), device=first.device)) % length
        self.keys.index_copy_(-2, where, new.movedim(0, -2).to(self.keys.dtype))
        self.ptr.add_(len(keys)).remainder_(length)

    def extra_repr(self) -> str:
        """Length and size for ``print(model)``."""
        *groups, length, dim = self.keys.shape
        return f"length={length}, dim={dim}" + "".join(f", groups={g}" for g in groups)
