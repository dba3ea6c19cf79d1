"""A label for every image of the training set, for what is looked up by image."""

from typing import Any

import torch
from torch import Tensor, nn

from mmssl_ext.errors import UserValueError


class LabelTable(nn.Module):
    """Labels by position in the dataset, -1 where one is unknown.

    Slots of a queue that knows its images (``KeyQueue(..., index=True)``) find theirs
    here at every step, so that none is out of date when the labels change.

    Attributes:
        labels: n int32; empty until :meth:`write` or a checkpoint.
        fingerprint: Of the dataset, shape 1.
    """

    labels: Tensor
    fingerprint: Tensor
    may_start_anew = True  # where a checkpoint to start from has other sizes

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("labels", torch.empty(0, dtype=torch.int32))
        self.register_buffer("fingerprint", torch.zeros(1, dtype=torch.long))

    def __len__(self) -> int:
        return len(self.labels)

    @torch.no_grad()
    def write(self, labels: Tensor, fingerprint: int = 0) -> None:
        """Take these labels, n, in place of all before."""
        self.labels = labels.to(self.labels)
        self.fingerprint.fill_(fingerprint)

    def clear(self) -> None:
        """Be empty again."""
        self.write(self.labels[:0])

    def check(self, fingerprint: int) -> None:
        """Refuse another data set than that of the labels.

        Raises:
            ValueError: The fingerprints differ.
        """
        if int(self.fingerprint) != fingerprint:
            raise UserValueError(
                f"The checkpoint's labels belong to {len(self)} other images than the "
                "training set has now, or in another order: they would be mixed up. "
                "Resume with the same data, or start a new run from the weights alone "
                "(load_from)."
            )

    def of(self, index: Tensor) -> Tensor:
        """Labels of images by their positions, any shape, long; -1 of position -1."""
        found = self.labels[index.clamp(min=0)].long()
        return found.masked_fill(index < 0, -1)

    def adopt_sizes(self, state_dict: dict[str, Tensor], prefix: str) -> None:
        """Take the number of images from a state to be loaded, in place of ours."""
        saved = state_dict.get(prefix + "labels")
        if saved is not None:
            self.labels = self.labels.new_empty(len(saved))

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *args: Any
    ) -> None:
        self.adopt_sizes(state_dict, prefix)
        super()._load_from_state_dict(state_dict, prefix, *args)

    def extra_repr(self) -> str:
        """Number of images for ``print(model)``."""
        return f"images={len(self)}"
