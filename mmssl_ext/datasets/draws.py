"""Counter-based random streams: what a sample draws does not depend on who draws it.

A stream is a Philox generator (Salmon et al., "Parallel random numbers: as easy as
1, 2, 3", SC 2011) whose key is (seed, epoch) and whose counter starts at
(sample index, stream number). No generator state lives in a worker, so the draws do
not depend on the number of workers, and a resumed run repeats them.
"""

from __future__ import annotations

import numpy as np
import torch
from torch.utils.data import get_worker_info

COMMON = 0  # stream of transforms outside MakeViews; view v draws from stream v + 1
SUBSTITUTE = 1 << 32  # stream that picks the substitute of an unreadable image

_WORD = (1 << 64) - 1


def _stream(key: tuple[int, int], counter: tuple[int, ...]) -> np.random.Generator:
    # The lowest counter word is left to the generator: 2**64 blocks per stream.
    words = np.array([0, *counter], dtype=np.uint64)
    philox = np.random.Philox(key=np.array(key, dtype=np.uint64), counter=words)
    return np.random.Generator(philox)


class SampleDraws:
    """The random streams of one sample in one epoch.

    Args:
        key: (seed, epoch) of keyed draws, or (process seed, draw number) of fresh ones.
        index: Sample index.
        fresh: Keeps fresh draws apart from keyed ones of an equal key.
    """

    def __init__(self, key: tuple[int, int], index: int, fresh: bool = False) -> None:
        self._key = (key[0] & _WORD, key[1] & _WORD)
        self._index = index & _WORD
        self._fresh = int(fresh)

    def stream(self, number: int = COMMON) -> np.random.Generator:
        """Return generator ``number`` of this sample, always from its beginning."""
        return _stream(self._key, (number, self._index, self._fresh))

    def view(self, view: int) -> np.random.Generator:
        """Return the generator of view ``view`` (0, 1, ...)."""
        return self.stream(view + 1)


class DrawKey:
    """The (seed, epoch) key of a dataset, in memory shared with its workers.

    Persistent workers hold a copy of the dataset from before the first epoch, so a
    plain attribute set in the main process would never reach them.
    """

    def __init__(self) -> None:
        self._key = torch.zeros(3, dtype=torch.int64).share_memory_()  # set?, seed, ep.
        self._fresh_draws = 0

    def __setstate__(self, state: dict) -> None:
        """Share the memory again after a copy or an ordinary pickle."""
        self.__dict__.update(state)
        self._key.share_memory_()

    def set(self, seed: int, epoch: int) -> None:
        """Set the key for the workers that start their epoch after this call."""
        self._key.copy_(torch.tensor([1, seed, epoch], dtype=torch.int64))

    def get(self) -> tuple[int, int] | None:
        """Return (seed, epoch), or None while no key is set."""
        is_set, seed, epoch = self._key.tolist()
        return (seed, epoch) if is_set else None

    def sample(self, index: int) -> SampleDraws:
        """Return the streams of sample ``index``: keyed, or fresh without a key."""
        key = self.get()
        if key is not None:
            return SampleDraws(key, index)
        # The loader draws the worker seed anew in each epoch. torch.initial_seed()
        # would not do in a worker: mmengine's worker_init_fn resets it to the same
        # value in each epoch.
        worker = get_worker_info()
        seed = worker.seed if worker is not None else torch.initial_seed()
        self._fresh_draws += 1
        return SampleDraws((seed, self._fresh_draws), index, fresh=True)
