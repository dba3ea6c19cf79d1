"""Seeds of the augmentation: what is random about a sample does not depend on workers.

A generator is Philox (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC
2011) whose key is (seed, epoch) and whose counter starts at (sample index, stream
number). No generator state lives in a worker, so the random numbers do not depend on
the number of workers, and a resumed run repeats them.
"""

from __future__ import annotations

import numpy as np
import torch
from torch.utils.data import get_worker_info

COMMON = 0  # stream of transforms outside MakeViews; view v has stream v + 1
SUBSTITUTE = 1 << 32  # stream that picks the substitute of an unreadable image

_WORD = (1 << 64) - 1


class SampleSeed:
    """The random generators of one sample in one epoch.

    Args:
        key: (seed, epoch), or (process seed, number of the sample) without a seed.
        index: Sample index.
        unseeded: Keeps the latter apart from the former of an equal key.
    """

    def __init__(
        self, key: tuple[int, int], index: int, unseeded: bool = False
    ) -> None:
        self._key = (key[0] & _WORD, key[1] & _WORD)
        self._index = index & _WORD
        self._unseeded = int(unseeded)

    def stream(self, number: int = COMMON) -> np.random.Generator:
        """Return generator ``number`` of this sample, always from its beginning."""
        # The lowest counter word is left to the generator: 2**64 blocks per stream.
        counter = np.array([0, number, self._index, self._unseeded], np.uint64)
        key = np.array(self._key, np.uint64)
        return np.random.Generator(np.random.Philox(key=key, counter=counter))

    def view(self, view: int) -> np.random.Generator:
        """Return the generator of view ``view`` (0, 1, ...)."""
        return self.stream(view + 1)


class AugmentationSeed:
    """The (seed, epoch) of a dataset, in memory shared with its workers.

    Persistent workers hold a copy of the dataset from before the first epoch, so a
    plain attribute set in the main process would never reach them.

    Attributes:
        unseeded: How many samples were drawn without a seed.
    """

    def __init__(self) -> None:
        self._key = torch.zeros(3, dtype=torch.int64).share_memory_()  # set?, seed, ep.
        self.unseeded = 0

    def __setstate__(self, state: dict) -> None:
        """Share the memory again after a copy or an ordinary pickle."""
        self.__dict__.update(state)
        self._key.share_memory_()

    def set(self, seed: int, epoch: int) -> None:
        """Set them for the workers that start their epoch after this call."""
        self._key.copy_(torch.tensor([1, seed, epoch], dtype=torch.int64))

    def get(self) -> tuple[int, int] | None:
        """Return (seed, epoch), or None while they are not set."""
        is_set, seed, epoch = self._key.tolist()
        return (seed, epoch) if is_set else None

    def sample(self, index: int) -> SampleSeed:
        """Return the generators of sample ``index``; without a seed new ones."""
        if (key := self.get()) is not None:
            return SampleSeed(key, index)
        # The loader draws the worker seed anew in each epoch. torch.initial_seed()
        # would not do in a worker: mmengine's worker_init_fn resets it to the same
        # value in each epoch.
        worker = get_worker_info()
        seed = worker.seed if worker is not None else torch.initial_seed()
        self.unseeded += 1
        return SampleSeed((seed, self.unseeded), index, unseeded=True)
