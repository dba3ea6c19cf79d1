"""Checkpoints that hold tensors and plain data only and never hold up the loop."""

from __future__ import annotations

from collections import deque
from pathlib import Path
from typing import Any

from mmengine.dist import is_main_process
from mmengine.hooks import CheckpointHook
from mmengine.runner import Runner

from mmssl_ext.compat import load_from, publish, resumes
from mmssl_ext.errors import ConfigError
from mmssl_ext.registry import HOOKS

from .best import BestCheckpoints
from .identity import below_of, identity_of
from .manifest import remove_checkpoint, remove_leftovers
from .plain import restore_histories, to_plain
from .run_folder import pointer
from .saver import Saver, from_first_rank
from .write import wait_for_checkpoints


@HOOKS.register_module()
class PlainCheckpointHook(BestCheckpoints, CheckpointHook):
    """mmengine's CheckpointHook, with safe files and a short pause of the training.

    mmengine pickles its log histories (a class of its own, NumPy arrays) into the file;
    here they become tensors on saving, the last 10,000 values of each, and histories
    again on loading: files load under ``weights_only=True``. Before a file is written,
    every hook with a ``before_write_checkpoint(runner)`` is called and may raise to
    prevent it.

    Training pauses while the tensors are copied into the kernel's page cache. A thread
    then brings the file to the disk, reads it back, gives it its name and a manifest
    with its SHA-256, lets ``last_checkpoint`` name it and deletes what has become too
    old, in this order: a save that fails, or a run that is killed, leaves a pointer to
    a file that loads. The next save and the end of training wait for the thread. Its
    error is raised at the next iteration or, on several ranks, on all of them at the
    end of the epoch or at the next save.

    Arguments are those of CheckpointHook; ``save_best`` takes every score that a run
    logs (see :class:`BestCheckpoints`). Below ``out_dir``, a local folder, every run
    has a folder of its own, whose name ``run.id`` in the work_dir keeps.

    A new run is refused in a work_dir that holds another one, and no run deletes files
    that it, or the part of it before a resume, did not write.

    Args:
        verify: Read every file back from the disk before anything depends on it.

    Raises:
        ConfigError: The folder is not local, or holds another run.
    """

    out_dir: Any

    def __init__(self, *args: Any, verify: bool = True, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.verify = verify
        self._given = self.out_dir
        self._saver: Any = None  # a Saver, once the training begins

    def before_run(self, runner: Any) -> None:
        """Wait for another run of this process: this one may resume from its file."""
        wait_for_checkpoints()

    def before_train(self, runner: Any) -> None:
        """Prepare the folder; remove what a killed run left half written."""
        out_dir = below_of(self._given, runner.work_dir)
        if "://" in str(out_dir) or not isinstance(runner, Runner):
            raise ConfigError(
                "default_hooks.checkpoint: PlainCheckpointHook writes the files of a "
                "Runner to a local folder. Choose one as out_dir, or set "
                "default_hooks.checkpoint.type=CheckpointHook, which is mmengine's."
            )
        work_dir = Path(runner.work_dir)
        resumed = None
        if resumes(runner):  # mmengine, too, looks for the newest one by itself
            resumed = load_from(runner) or pointer(work_dir)
        start = Path(resumed) if resumed else None
        again = runner.iter > 0 and not resumes(runner)
        run = from_first_rank(lambda: identity_of(work_dir, start, out_dir, again))
        self.out_dir = work_dir if out_dir is None else Path(out_dir, run.folder)
        runner.logger.info(f"Checkpoints will be saved to {self.out_dir}.")
        self._saver = Saver(runner, run, start, self.verify)
        kept = runner.message_hub.get_info("keep_ckpt_ids", [])
        self.keep_ckpt_ids: deque = deque(kept if self.max_keep_ckpts > 0 else [])
        outdated = self._outdated(self.max_keep_ckpts)
        if is_main_process():
            for path in outdated:
                remove_checkpoint(path)
            for folder in {self.out_dir, work_dir}:
                remove_leftovers(folder)
        self._begin_best(runner, run.id)

    def after_train_iter(self, runner: Any, *args: Any, **kwargs: Any) -> None:
        """Save where this is due; raise what went wrong since."""
        if not self.by_epoch and self._is_due(runner):
            self._save_logged_best(
                runner, {"epoch": runner.epoch, "iter": runner.iter + 1}
            )
        super().after_train_iter(runner, *args, **kwargs)
        if runner.world_size == 1:
            self._saver.settle(wait=False)

    def after_train_epoch(self, runner: Any) -> None:
        """Save where this is due; raise what went wrong since."""
        self._saver.settle(wait=False)
        epoch = runner.epoch + self.by_epoch
        self._save_logged_best(runner, {"epoch": epoch, "iter": runner.iter})
        super().after_train_epoch(runner)  # holds which one is the best

    def after_train(self, runner: Any) -> None:
        """Wait for the last file; publish files where this is wanted."""
        self._saver.settle()
        self._say_what_is_missing(runner)
        if self.published_keys is not None:
            last = [self.last_ckpt] if self.save_last else []
            for path in filter(None, [*last, *self._best_files(runner)]):
                publish(self, runner, path)

    def after_run(self, runner: Any) -> None:
        """Wait for what a validation after the training has saved."""
        if self._saver is not None:
            self._saver.settle()

    def save_now(self, runner: Any) -> str:
        """Save everything between two steps; on all ranks, return when it is safe.

        The file serves until the next checkpoint is complete, which deletes it.

        Returns:
            Its path; an empty text where no step has been made.
        """
        if runner.iter == 0:
            return ""
        path = Path(runner.work_dir, f"iter_{runner.iter}.pth")
        wait_for_checkpoints()
        regular = path.is_file() and path not in self._saver.interim()
        meta = {"epoch": runner.epoch, "iter": runner.iter}
        self._saver.save(path, meta, "regular" if regular else "interim")
        self._saver.settle()
        return str(path)

    def before_save_checkpoint(self, runner: Any, checkpoint: dict) -> None:
        """Replace everything in the checkpoint by tensors and plain data."""
        dropped: list[str] = []
        for key in list(checkpoint):
            checkpoint[key] = to_plain(checkpoint[key], dropped, key)
        hub = checkpoint["message_hub"]
        known = hub["log_scalars"].keys() | hub["runtime_info"].keys()
        hub["resumed_keys"] = {
            key: value for key, value in hub["resumed_keys"].items() if key in known
        }
        if dropped:
            runner.logger.warning(
                "The checkpoint leaves out what is neither tensor nor plain data: "
                f"{', '.join(dropped)}."
            )

    def after_load_checkpoint(self, runner: Any, checkpoint: dict) -> None:
        """Give mmengine's resume the objects that it expects."""
        if hub := checkpoint.get("message_hub"):
            restore_histories(hub["log_scalars"])

    def _save_checkpoint_with_step(self, runner: Any, step: int, meta: dict) -> None:
        notes: dict[str, Any] = {}
        outdated: list[Path] = []
        if self.max_keep_ckpts > 0 and [*self.keep_ckpt_ids][-1:] != [step]:
            outdated = self._outdated(self.max_keep_ckpts - 1)
            self.keep_ckpt_ids.append(step)
            notes["keep_ckpt_ids"] = [*self.keep_ckpt_ids]
        path = self.out_dir / self.filename_tmpl.format(step)
        self.last_ckpt = notes["last_ckpt"] = str(path)
        what = self.save_optimizer, self.save_param_scheduler
        self._saver.save(path, meta, "regular", *what, notes, outdated)

    def _outdated(self, most: int) -> list[Path]:
        """Keep so many of the checkpoints; return the files of the others."""
        found = []
        while self.max_keep_ckpts > 0 and len(self.keep_ckpt_ids) > most:
            name = self.filename_tmpl.format(self.keep_ckpt_ids.popleft())
            found.append(self.out_dir / name)
        return found

    def _is_due(self, runner: Any) -> bool:
        """Whether a checkpoint by iterations is due."""
        last = self.save_last and self.is_last_train_iter(runner)
        return last or self.every_n_train_iters(runner, self.interval, self.save_begin)
