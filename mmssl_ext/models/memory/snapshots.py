"""An encoder as it was at earlier times."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

import torch
from mmengine.dist import all_reduce_params
from torch import Tensor, nn

from mmssl_ext.errors import UserValueError

from .clock import Clock


class Snapshots(nn.Module):
    """A ring of copies of an encoder, in eval mode, never trained, in the checkpoint.

    All places exist from the start, so that a checkpoint always has the same tensors;
    they hold nothing of use before :meth:`take`.

    Args:
        parts: The modules of the encoder by name, ``backbone`` and ``neck``.
        length: Number of copies h.
        interval: Epochs, or iterations, between two copies.
        by_epoch: Which of them.

    Attributes:
        born: Iteration that each copy was taken in, h long, -1 where none was yet.
        taken: The same for Python, so that no step waits for the device.
    """

    born: Tensor
    may_start_anew = True  # where a checkpoint to start from has none, or others

    def __init__(
        self,
        parts: Mapping[str, nn.Module],
        length: int,
        interval: int,
        by_epoch: bool = True,
    ) -> None:
        super().__init__()
        self.interval, self.by_epoch = interval, by_epoch
        self.networks: Any = nn.ModuleList(
            nn.ModuleDict({name: deepcopy(part) for name, part in parts.items()})
            for _ in range(length)
        )
        self.requires_grad_(False)
        self.register_buffer("born", torch.full((length,), -1))
        self.taken = [-1] * length
        self.train(False)

    def __len__(self) -> int:
        """Copies that were taken; they have the first places."""
        return sum(born >= 0 for born in self.taken)

    def intervals(self, clock: Clock) -> float:
        """How many have passed.

        Raises:
            ValueError: Nobody has told the length of an epoch.
        """
        if self.by_epoch and clock.epoch_length is None:
            raise UserValueError(
                "Snapshots are taken by epochs, whose length is not known; train by "
                "mmssl_ext.SSLRunner, or set by_epoch=False and interval in iterations."
            )
        unit = clock.epoch_length if self.by_epoch else 1
        assert unit is not None
        return clock.num_steps / (self.interval * unit)

    def is_due(self, clock: Clock) -> bool:
        """Whether a copy is to be taken in this iteration."""
        passed = self.intervals(clock)
        return passed >= 1 and passed == int(passed)

    def start(self, training: Any) -> None:
        """Begin without copies, or check that the checkpoint had those of its time.

        Raises:
            ValueError: It lacks some.
        """
        if training.iteration == 0:
            self.clear()  # load_from may have brought another run's
        passed = training.now(self.intervals)
        wanted = min(int(passed) - (passed == int(passed) > 0), len(self.taken))
        if len(self) < wanted:
            raise UserValueError(
                f"By iteration {training.iteration} {wanted} snapshots of the encoder "
                f"had been taken, but the checkpoint holds {len(self)}: resume from "
                "one that a run with the same snapshots wrote, or start anew from its "
                "weights with load_from."
            )

    @torch.no_grad()
    def take(self, encoder: Any, iteration: int) -> int:
        """Copy an encoder over the oldest copy; returns the place.

        Running statistics of BatchNorm, which every rank may have of its own, become
        their mean over the ranks.

        Args:
            encoder: Has the parts as attributes.
            iteration: That it is taken in.
        """
        place = self.taken.index(min(self.taken))
        copy = self.networks[place]
        for name, part in copy.items():
            part.load_state_dict(getattr(encoder, name).state_dict())
        means = [x for x in copy.buffers() if x.is_floating_point()]
        all_reduce_params(means, op="mean")
        self.taken[place] = iteration
        self.born[place] = iteration
        return place

    @torch.no_grad()
    def project(self, images: Tensor) -> list[Tensor]:
        """Projections of images, N x 3 x H x W, by each copy: N x D."""
        copies = self.networks[: len(self)]
        return [copy["neck"](copy["backbone"](images)[-1:])[0] for copy in copies]

    def clear(self) -> None:
        """Forget all copies."""
        self.taken = [-1] * len(self.taken)
        self.born.fill_(-1)

    def train(self, mode: bool = True) -> Snapshots:
        """Stay in eval mode."""
        super().train(False)
        return self

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self.taken = self.born.tolist()

    def extra_repr(self) -> str:
        """Number of copies for ``print(model)``."""
        return f"length={len(self.taken)}, interval={self.interval}"
