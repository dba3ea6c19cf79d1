"""The queue of negative keys (MoCo, arXiv 1911.05722, section 3.2)."""

import torch
from mmengine.dist import all_gather, get_world_size
from torch import Tensor, nn

from mmssl_ext.errors import UserValueError

from .feature_bank import dtype_named


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
        dtype: Of the keys, ``float32`` or, in half of the memory, ``float16`` or
            ``bfloat16``; see :class:`FeatureBank`.
        labels: Keep a label of every slot.
        index: Keep the position in the dataset of every slot's image.

    Attributes:
        keys: K x D or G x K x D, unit rows; starts as normalised Gaussian noise.
        ptr: Shape 1, position of the next write.
        labels: K long, -1 where unknown, as at the start; None where none are kept.
        index: The same of the images.

    Raises:
        ValueError: ``length`` or ``dim`` is not positive.
    """

    keys: Tensor
    ptr: Tensor
    labels: Tensor | None
    index: Tensor | None
    may_start_anew = True  # where a checkpoint to start from has other sizes

    def __init__(
        self,
        length: int,
        dim: int,
        groups: int | None = None,
        *,
        dtype: str = "float32",
        labels: bool = False,
        index: bool = False,
    ) -> None:
        super().__init__()
        whole = all(type(size) is int for size in (length, dim))
        if not whole or length < 1 or dim < 1:
            raise UserValueError(
                f"A queue of {length!r} keys of size {dim!r} cannot hold anything; set "
                "queue_len and feat_dim to positive whole numbers."
            )
        shape = (length, dim) if groups is None else (groups, length, dim)
        noise = nn.functional.normalize(torch.randn(shape), dim=-1)
        self.register_buffer("keys", noise.to(dtype_named(dtype)))
        self.register_buffer("ptr", torch.zeros(1, dtype=torch.long))
        for name, kept in (("labels", labels), ("index", index)):
            unknown = torch.full((length,), -1) if kept else None
            self.register_buffer(name, unknown)

    @torch.no_grad()
    def enqueue_some(self, keys: Tensor, valid: Tensor) -> None:
        """As :meth:`enqueue` of the valid keys, whose number may differ by rank.

        No device is waited for, so all K slots are looked at.

        Args:
            keys: This rank's keys, N x D; N is the same on every rank.
            valid: Which of them count, N bool.
        """
        if get_world_size() > 1:
            keys = torch.cat(all_gather(keys.contiguous()))
            valid = torch.cat(all_gather(valid.contiguous()))
        if not len(keys):
            return
        rows = keys[(~valid).long().argsort(stable=True)].to(self.keys.dtype)
        count, length = valid.sum(), len(self.keys)
        slots = torch.arange(length, device=keys.device)
        first = (slots - self.ptr) % length  # the first row that falls on each slot
        last = first + (count - 1 - first).div(length, rounding_mode="floor") * length
        new = rows[last.clamp(0, len(rows) - 1)]
        self.keys.copy_(torch.where((first < count)[:, None], new, self.keys))
        self.ptr.add_(count).remainder_(length)

    @torch.no_grad()
    def enqueue(
        self, keys: Tensor, labels: Tensor | None = None, index: Tensor | None = None
    ) -> None:
        """Replace the oldest keys by those of all ranks, in rank order.

        Args:
            keys: This rank's keys, N x D or N x G x D; N is the same on every rank.
            labels: Their labels, N long, in a queue that keeps labels; None: unknown.
            index: Positions of their images in the dataset, alike.

        Raises:
            ValueError: The queue does not keep what is given, or its number is not N.
        """
        kept = {
            name: _known(name, getattr(self, name), given, keys)
            for name, given in (("labels", labels), ("index", index))
        }
        written = {name: value for name, value in kept.items() if value is not None}
        if get_world_size() > 1:
            keys = torch.cat(all_gather(keys.contiguous()))
            written = {n: torch.cat(all_gather(v)) for n, v in written.items()}
        length = self.keys.shape[-2]
        new = keys[-length:]
        # Position of each new key, as if those that do not fit had been written too.
        first = self.ptr + (len(keys) - len(new))
        where = (first + torch.arange(len(new), device=first.device)) % length
        self.keys.index_copy_(-2, where, new.movedim(0, -2).to(self.keys.dtype))
        for name, value in written.items():
            getattr(self, name).index_copy_(0, where, value[-length:])
        self.ptr.add_(len(keys)).remainder_(length)

    def forget_images(self) -> None:
        """Labels and images of all slots are unknown from now on."""
        for kept in (self.labels, self.index):
            if kept is not None:
                kept.fill_(-1)

    def extra_repr(self) -> str:
        """Length and size for ``print(model)``."""
        *groups, length, dim = self.keys.shape
        parts = [f"length={length}, dim={dim}", *(f"groups={g}" for g in groups)]
        parts += [
            f"{n}=True" for n in ("labels", "index") if getattr(self, n) is not None
        ]
        return ", ".join(parts)


def _known(
    name: str, kept: Tensor | None, given: Tensor | None, keys: Tensor
) -> Tensor | None:
    """What is written beside the keys, N long, or None where nothing is kept."""
    if kept is None:
        if given is not None:
            raise UserValueError(
                f"This queue keeps no {name}: build it by "
                f"KeyQueue(..., {name}=True), or enqueue the keys alone."
            )
        return None
    if given is None:
        return kept.new_full((len(keys),), -1)
    if given.shape != keys.shape[:1]:
        raise UserValueError(
            f"{len(keys)} keys come with {name} of shape {tuple(given.shape)}: give "
            "one to every key, -1 where it is unknown."
        )
    return given.to(kept)
