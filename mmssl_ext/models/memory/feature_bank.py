"""One feature per training image (InterCLR, arXiv 2008.11702; NPID, 1805.01978)."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from mmengine.dist import all_gather, get_world_size
from torch import Tensor, nn
from torch.nn.functional import normalize

from mmssl_ext.errors import UserValueError

_BLOCK_ROWS = 65536
_DTYPES = {
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
}


def dtype_named(name: str) -> torch.dtype:
    """The dtype of what is kept, ``float32``, ``float16`` or ``bfloat16``.

    Raises:
        ValueError: It is another one.
    """
    if name not in _DTYPES:
        raise UserValueError(
            f"bank_dtype={name!r} must be one of {', '.join(_DTYPES)}."
        )
    return _DTYPES[name]


class Change(NamedTuple):
    """What one step wrote, the same on every rank.

    Attributes:
        rows: Written rows of the bank, R; an image that stands several times in the
            batch has several entries, all with the feature that won.
        old: Features before, R x D fp32.
        new: Features now, as stored, R x D fp32.
        counts: True for one entry of every image, R.
        last: The entry that counts for each one's image, R.
    """

    rows: Tensor
    old: Tensor
    new: Tensor
    counts: Tensor
    last: Tensor


class FeatureBank(nn.Module):
    """The last embedding of every image of the training set.

    Every rank holds the whole bank and applies the same update, for which only the
    rows of the step are gathered. It is empty until :meth:`fill` or a checkpoint gives
    it its size. In fp32 it takes 4 n D bytes (656 MB for ImageNet and D = 128), in half
    precision half of that; what is read from it is fp32.

    Args:
        dim: Feature size D.
        momentum: Share of the old feature that an update keeps; 0 replaces it.
        dtype: ``float32``, ``float16`` or ``bfloat16``. fp16 has the finer steps for
            unit vectors; bf16 is the one that CPUs multiply fast.

    Attributes:
        features: n x D unit rows, by position in the dataset.
        fingerprint: Of the dataset that the rows belong to, shape 1.

    Raises:
        ValueError: ``momentum`` is outside [0, 1) or ``dtype`` is unknown.
    """

    features: Tensor
    fingerprint: Tensor
    may_start_anew = True  # where a checkpoint to start from has other sizes

    def __init__(self, dim: int, momentum: float = 0.0, dtype: str = "float32") -> None:
        super().__init__()
        if not 0 <= momentum < 1:
            raise UserValueError(
                f"bank_momentum={momentum} is the share of the old feature that an "
                "update keeps and must lie in [0, 1); 0 replaces it, as the released "
                "code does (there it is the share of the new one, 1)."
            )
        self.momentum = momentum
        self.register_buffer("features", torch.empty(0, dim, dtype=dtype_named(dtype)))
        self.register_buffer("fingerprint", torch.zeros(1, dtype=torch.long))

    def __len__(self) -> int:
        return len(self.features)

    @torch.no_grad()
    def fill(self, features: Tensor, fingerprint: int = 0) -> None:
        """Set all rows, n x D, and with them the size; they are normalised."""
        self.features = normalize(features.float(), dim=1).to(self.features)
        self.fingerprint.fill_(fingerprint)

    @torch.no_grad()
    def reserve(self, length: int, fingerprint: int = 0) -> None:
        """Make room for so many images; rows that nothing was written to are 0."""
        self.features = self.features.new_zeros(length, self.features.shape[1])
        self.fingerprint.fill_(fingerprint)

    def check(self, fingerprint: int) -> None:
        """Refuse another data set than that of the rows.

        Raises:
            ValueError: The fingerprints differ.
        """
        if int(self.fingerprint) != fingerprint:
            raise UserValueError(
                f"The checkpoint's feature bank belongs to {len(self)} other images "
                "than the training set has now, or in another order: its rows would be "
                "mixed up. Resume with the same data, or start a new run from the "
                "weights alone (load_from)."
            )

    def clear(self) -> None:
        """Be empty again."""
        self.reserve(0)

    def read(self, rows: Tensor) -> Tensor:
        """Rows as fp32, R x D."""
        return self.features.index_select(0, rows).float()

    def blocks(self) -> Iterator[Tensor]:
        """All rows as fp32 in consecutive blocks."""
        for block in self.features.split(_BLOCK_ROWS):
            yield block.float()

    @torch.no_grad()
    def similarity(self, q: Tensor) -> Tensor:
        """Inner products of N x D queries with all rows, N x n like ``q``; constant."""
        out = q.new_empty(len(q), len(self))
        start = 0
        for block in self.blocks():
            torch.mm(q, block.T.to(q), out=out[:, start : start + len(block)])
            start += len(block)
        return out

    @torch.no_grad()
    def update(self, rows: Tensor, features: Tensor) -> Change:
        """Write the features of all ranks; of one image the last one counts.

        Args:
            rows: Positions of this rank's images in the dataset, N.
            features: Unit rows, N x D; N is the same on every rank.
        """
        if get_world_size() > 1:
            rows = torch.cat(all_gather(rows.contiguous()))
            features = torch.cat(all_gather(features.contiguous()))
        # Equal rows get equal features, so that the order of writing does not matter.
        same = rows[:, None] == rows  # R x R
        last = len(rows) - 1 - same.flip(1).int().argmax(1)
        old = self.read(rows)
        mixed = self.momentum * old + (1 - self.momentum) * features[last].float()
        self.features.index_copy_(0, rows, normalize(mixed, dim=1).to(self.features))
        counts = last == torch.arange(len(rows), device=rows.device)
        return Change(rows, old, self.read(rows), counts, last)

    def adopt_sizes(self, state_dict: dict[str, Tensor], prefix: str) -> None:
        """Take the number of images from a state to be loaded, in place of ours."""
        saved = state_dict.get(prefix + "features")
        if saved is not None and len(saved) != len(self):
            self.features = self.features.new_empty(len(saved), self.features.shape[1])

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *args: Any
    ) -> None:
        self.adopt_sizes(state_dict, prefix)
        super()._load_from_state_dict(state_dict, prefix, *args)

    def extra_repr(self) -> str:
        """Sizes for ``print(model)``."""
        images, dim = self.features.shape
        return f"images={images}, dim={dim}, dtype={self.features.dtype}"
