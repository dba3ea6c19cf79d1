"""A training loop that a checkpoint can leave and enter between any two steps."""

from __future__ import annotations

import bisect
import itertools
import logging
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from mmengine.logging import print_log
from mmengine.runner import EpochBasedTrainLoop
from torch.utils.data import DataLoader, IterableDataset

from mmssl_ext.compat import dealt_by, decide_val_interval, end_epoch
from mmssl_ext.registry import LOOPS

_END = object()


@LOOPS.register_module()
class ExactEpochLoop(EpochBasedTrainLoop):
    """mmengine's loop over epochs, which goes on inside an epoch after a resume.

    The next batch is the one after those that the checkpoint has seen, with the
    ``batch_idx`` that it would have had; the others are skipped where batches are
    dealt out, so their images are not loaded. A checkpoint from the end of an epoch
    whose closing hooks have not run yet resumes with these; one from before the end of
    a validation, with the validation.

    Making the loader's iterator and validating leave the random generators alone:
    training does not depend on the number of workers, nor on how often it is validated.

    Attributes:
        resumed_batch: Batches of the epoch that the checkpoint has seen, where it says.
        validation_due: The validation after the last epoch has not run to its end.
        paused_random_state: What a checkpoint is to hold of the generators while
            something draws from them that a resumed run does again; else None.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.resumed_batch: int | None = None
        self.validation_due = False
        self.paused_random_state: dict[str, Any] | None = None
        self._began = 0  # iteration at which the epoch began

    def run(self) -> torch.nn.Module:
        """Launch training."""
        self._began = self.iter - self._batches_seen()
        self.runner.call_hook("before_train")
        if self.iter == self._began:  # what comes before the first batch may draw
            self.runner.call_hook("restore_random_state")
        if self.validation_due and self.runner.val_loop is not None:
            self._validate()
        while self.epoch < self.max_epochs and not self.stop_training:
            self.run_epoch()
            decide_val_interval(self)
            if self._validates_after(self.epoch):
                self._validate()
        self.runner.call_hook("after_train")
        return self.runner.model

    def run_epoch(self) -> None:
        """Iterate one epoch, or what is left of it."""
        self.runner.call_hook("before_train_epoch")
        self.runner.model.train()
        done = self.iter - self._began
        batches = self._batches_from(done)
        self.runner.call_hook("restore_random_state")
        for idx, data_batch in enumerate(batches, done):
            self.run_iter(idx, data_batch)
        self.runner.call_hook("after_train_epoch")
        end_epoch(self)
        self._began = self.iter

    def position(self, epoch: int, iteration: int) -> tuple[int, bool]:
        """Where a checkpoint of these numbers stands.

        Returns:
            Batches of the epoch that are done, and whether a validation is due.
        """
        if epoch == self.epoch:
            return iteration - self._began, self.validation_due
        return 0, self._validates_after(epoch)  # written by a hook that ends an epoch

    def _batches_seen(self) -> int:
        length, seen = len(self.dataloader), self.resumed_batch
        if seen is None:
            seen = self.iter - self.epoch * length
        if 0 <= seen <= length:
            return seen
        print_log(
            f"After {self.iter} iterations the run should stand in epoch "
            f"{self.epoch + 1}, but an epoch has {length} iterations now; this epoch "
            "begins anew.",
            logger="current",
            level=logging.WARNING,
        )
        return 0

    def _batches_from(self, done: int) -> Iterator[Any]:
        if done >= len(self.dataloader):
            return iter(())
        key = f"{self.runner.seed} {self.runner.rank} {self.epoch}"
        with torch.random.fork_rng(devices=[]):
            # The seed of the workers is drawn here, once more or once less, depending
            # on how many there are and how long they live.
            torch.default_generator.manual_seed(random.Random(key).getrandbits(63))
            batches = batches_from(self.dataloader, done)
        # Workers have generators of their own.
        return batches if self.dataloader.num_workers else self._fetched(batches)

    def _fetched(self, batches: Iterator[Any]) -> Iterator[Any]:
        """Batches made in this process, which a run may be told to stop behind."""
        while True:
            self.paused_random_state = random_state()
            batch = next(batches, _END)
            self.paused_random_state = None
            if batch is _END:
                return
            yield batch

    def _validates_after(self, epoch: int) -> bool:
        """Whether the model is validated when so many epochs are done."""
        if self.runner.val_loop is None or epoch < self.val_begin:
            return False
        which = bisect.bisect(self.dynamic_milestones, epoch + 1) - 1
        return epoch % self.dynamic_intervals[which] == 0 or epoch == self.max_epochs

    def _validate(self) -> None:
        self.validation_due = True
        self.paused_random_state = before = random_state()
        try:
            self.runner.val_loop.run()
        finally:
            set_random_state(before)
        self.validation_due, self.paused_random_state = False, None


def batches_from(loader: Any, skip: int) -> Iterator[Any]:
    """Start an iterator over a loader behind its first batches, which nobody loads.

    Args:
        loader: A DataLoader, or what wraps one as its ``loader`` and makes its iterator
            at once when its own is asked for.
        skip: Number of batches; samplers of any kind still deal them out.
    """
    inner = loader
    while not isinstance(inner, DataLoader):
        inner = inner.loader
    if skip == 0:
        return iter(loader)
    if isinstance(inner.dataset, IterableDataset):
        batches = iter(loader)
        for _ in range(skip):  # nothing else knows what they would be
            next(batches)
        return batches
    with dealt_by(inner, lambda dealer: _Later(dealer, skip)):
        return iter(loader)


class _Later:
    """A sampler whose first iteration begins later.

    The iterator of persistent workers keeps it; later epochs are whole ones.
    """

    def __init__(self, sampler: Any, skip: int) -> None:
        self.sampler, self.skip = sampler, skip

    def __len__(self) -> int:
        return len(self.sampler)

    def __iter__(self) -> Iterator[Any]:
        # Not before the first item: a DataLoader asks twice and uses the second.
        skip, self.skip = self.skip, 0
        yield from itertools.islice(self.sampler, skip, None)


def random_state() -> dict[str, Any]:
    """Return the state of the generators of torch, CUDA, NumPy and Python."""
    version, words, gauss = random.getstate()
    _, keys, position, has_gauss, cached = np.random.get_state()  # noqa: NPY002
    state = {
        "torch": torch.get_rng_state(),
        "numpy": torch.from_numpy(np.asarray(keys).astype(np.int64)),
        "numpy_rest": [int(position), int(has_gauss), float(cached)],
        "python": torch.tensor(words),
        "python_rest": [version, gauss],
    }
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def set_random_state(state: dict[str, Any]) -> None:
    """Set the generators to what :func:`random_state` returned."""
    torch.set_rng_state(state["torch"].cpu())
    keys = state["numpy"].cpu().numpy().astype(np.uint32)
    np.random.set_state(("MT19937", keys, *state["numpy_rest"]))  # noqa: NPY002
    version, gauss = state["python_rest"]
    random.setstate((version, tuple(state["python"].tolist()), gauss))
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"].cpu())
