"""Account of images that could not be read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mmengine.dist import all_gather_object
from mmengine.hooks import Hook

from mmssl_ext.registry import HOOKS


@HOOKS.register_module()
class UnreadableImagesHook(Hook):
    """List the images that a dataset skipped and replaced by others.

    Reads ``skipped`` of the data samples and appends each path once to
    ``unreadable_images.txt`` in the work_dir: at once on rank 0, at the end of the
    epoch for the other ranks. Warns at the first, then one line per epoch and one at
    the end.
    """

    priority = "BELOW_NORMAL"

    def before_train(self, runner: Any) -> None:
        """Know what an earlier part of the run has listed."""
        self._file = Path(runner.work_dir) / "unreadable_images.txt"
        self._listed = (
            set(self._file.read_text().splitlines()) if self._file.is_file() else set()
        )
        self._seen: set[str] = set()

    def after_train_iter(
        self,
        runner: Any,
        batch_idx: int,
        data_batch: Any = None,
        outputs: dict | None = None,
    ) -> None:
        """Note what the batch had to replace."""
        if not isinstance(data_batch, dict):
            return
        found = {
            path
            for sample in data_batch.get("data_samples") or ()
            for path in sample.get("skipped", ())
        }
        if found:
            self._seen |= found
            if runner.rank == 0:
                self._append(runner, found)

    def after_train_epoch(self, runner: Any) -> None:
        """Collect from all ranks; one line where the epoch had unreadable images."""
        shares = all_gather_object(self._seen)
        seen: set[str] = set().union(*shares)
        self._seen = set()
        if seen and runner.rank == 0:
            self._append(runner, seen)
            runner.logger.warning(
                f"Epoch {runner.epoch + 1}: {len(seen)} images could not be read and "
                f"were replaced by others; they are listed in {self._file}."
            )

    def after_train(self, runner: Any) -> None:
        """Close the account."""
        if self._listed:
            runner.logger.warning(
                f"{len(self._listed)} images could not be read during training; mend "
                f"or remove the files listed in {self._file}."
            )

    def _append(self, runner: Any, paths: set[str]) -> None:
        new = sorted(paths - self._listed)
        if not new:
            return
        if not self._listed:
            runner.logger.warning(
                f"Image {new[0]} could not be read and was replaced by another. Such "
                f"files are listed in {self._file}."
            )
        self._listed.update(new)
        with self._file.open("a") as file:
            file.writelines(f"{path}\n" for path in new)
