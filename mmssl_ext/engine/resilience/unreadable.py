"""Account of images that could not be read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mmengine.dist import all_gather_object
from mmengine.hooks import Hook

from mmssl_ext.errors import UserError, UserValueError
from mmssl_ext.files import read_text
from mmssl_ext.registry import HOOKS
from mmssl_ext.text import as_line, shown

from .agreement import agree

_NAMED = 5  # files that the message names


@HOOKS.register_module()
class UnreadableImagesHook(Hook):
    """List the images that a dataset skipped and replaced by others.

    Reads ``skipped`` of the data samples and appends each path once to
    ``unreadable_images.txt`` in the work_dir: at once on rank 0, at the end of the
    epoch for the other ranks. Warns at the first, then one line per epoch and one at
    the end.

    Stops the run where too many are unreadable, for then something is wrong with the
    dataset as a whole. All ranks are counted together, and afresh in every epoch that
    has images enough.

    Args:
        max_share: Largest share, of all images that were to be read, that may be
            unreadable; 1 allows any.
        min_images: So many have to be read before the share counts.
        interval: Iterations between two looks; the end of an epoch is one, too.

    Raises:
        UserError: More than ``max_share`` of the images are unreadable.
    """

    priority = "BELOW_NORMAL"

    def __init__(
        self, max_share: float = 0.1, min_images: int = 200, interval: int = 10
    ) -> None:
        if not 0 <= max_share <= 1:
            raise UserValueError(f"max_share={max_share} must lie between 0 and 1.")
        self.max_share = max_share
        self.min_images = min_images
        self.interval = interval

    def before_train(self, runner: Any) -> None:
        """Know what an earlier part of the run has listed."""
        self._file = Path(runner.work_dir) / "unreadable_images.txt"
        listed = read_text(self._file) if self._file.is_file() else ""
        self._listed = set(listed.split("\n")[:-1])
        self._seen: set[str] = set()  # of the epoch, like the first two counts
        self._counts = [0, 0, 0, 0]  # failed, read; both since they were last judged

    def after_train_iter(
        self,
        runner: Any,
        batch_idx: int,
        data_batch: Any = None,
        outputs: dict | None = None,
    ) -> None:
        """Note what the batch had to replace; stop where this is too much."""
        samples = data_batch.get("data_samples") if isinstance(data_batch, dict) else ()
        samples = [x for x in samples or () if hasattr(x, "get")]
        skipped = [as_line(name) for x in samples for name in x.get("skipped", ())]
        new = (len(skipped), len(samples)) * 2
        self._counts = [a + b for a, b in zip(self._counts, new, strict=True)]
        self._seen |= set(skipped)
        if skipped and runner.rank == 0:
            self._append(runner, set(skipped))
        if self.every_n_inner_iters(batch_idx, self.interval):
            self._judge(runner)

    def after_train_epoch(self, runner: Any) -> None:
        """Collect from all ranks; one line where the epoch had unreadable images."""
        (failed, read, *since), seen = self._of_all_ranks()
        if seen and runner.rank == 0:
            self._append(runner, seen)
            runner.logger.warning(
                f"Epoch {runner.epoch + 1}: {len(seen)} images could not be read and "
                f"were replaced by others ({failed} of {failed + read} attempts); they "
                f"are listed in {self._file}."
            )
        self._judge(runner)
        self._seen = set()
        enough = sum(since) >= self.min_images
        self._counts = [0, 0, *([0, 0] if enough else self._counts[2:])]

    def after_train(self, runner: Any) -> None:
        """Close the account."""
        if self._listed:
            runner.logger.warning(
                f"{len(self._listed)} images could not be read during training; fix "
                f"or remove the files listed in {self._file}."
            )

    def _judge(self, runner: Any) -> None:
        # The share of all cannot be too large where that of no rank is.
        failed, read = self._counts[2:]
        if not agree(int(failed > self.max_share * (failed + read))):
            return
        (*_, failed, read), seen = self._of_all_ranks()
        asked = failed + read
        if asked < self.min_images or failed <= self.max_share * asked:
            return
        if runner.rank == 0:
            self._append(runner, seen)
        named = "".join(f"\n  {shown(path)}" for path in sorted(seen)[:_NAMED])
        raise UserError(
            f"{failed} of the last {asked} images, {failed / asked:.0%}, cannot be "
            f"read; more than {self.max_share:.0%} are too many (max_share of "
            f"UnreadableImagesHook). They are listed in {self._file}, e.g.:{named}\n"
            "Check that the dataset is complete and mounted."
        )

    def _of_all_ranks(self) -> tuple[list[int], set[str]]:
        """Return the counts of all ranks together, and the paths that failed."""
        counts, seen = zip(*all_gather_object((self._counts, self._seen)), strict=True)
        return [sum(each) for each in zip(*counts, strict=True)], set().union(*seen)

    def _append(self, runner: Any, paths: set[str]) -> None:
        new = sorted(paths - self._listed)
        if new and not self._listed:
            runner.logger.warning(
                f"Image {shown(new[0])} could not be read and was replaced by "
                f"another. Such files are listed in {self._file}."
            )
        self._listed.update(new)
        with self._file.open("a", encoding="utf-8", errors="surrogateescape") as file:
            file.writelines(f"{path}\n" for path in new)
