"""Checkpoints that hold tensors and plain data only and never hold up the loop."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import mmengine
from mmengine.dist import is_main_process
from mmengine.fileio import LocalBackend
from mmengine.hooks import CheckpointHook
from mmengine.runner import Runner
from mmengine.utils import get_git_hash

from mmssl_ext.engine.weights.record import describe_weights
from mmssl_ext.files import write_text
from mmssl_ext.registry import HOOKS
from mmssl_ext.unwrap import unwrap

from .best import BestCheckpoints
from .files import (
    InFolder,
    LateRemoval,
    interim,
    manifest_facts,
    raise_on_all_ranks,
    settle_identity,
)
from .manifest import remove_checkpoint, remove_leftovers
from .read import restore_histories, to_plain
from .run_folder import POINTER, RunIdentity, below_of
from .write import Saving, start_saving, wait_for_checkpoints


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
    logs (see :class:`BestCheckpoints`). Below ``out_dir`` every run has a folder of its
    own, whose name ``run.id`` in the work_dir keeps. Folders that are not local
    and other runners than ``Runner`` are served by mmengine's own way.

    A new run is refused in a work_dir that holds another one, and no run deletes files
    that it, or the part of it before a resume, did not write.

    Args:
        verify: Read every file back from the disk before anything depends on it.
    """

    file_backend: Any
    out_dir: Any

    def __init__(self, *args: Any, verify: bool = True, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.verify = verify
        self._given = self.out_dir
        self._run: RunIdentity | None = None
        self._resumed: str | None = None
        self._saving: Saving | None = None  # on rank 0
        self._began = False
        self._cfg: tuple[str, str] = "", ""

    def before_run(self, runner: Any) -> None:
        """Wait for another run of this process: this one may resume from its file."""
        wait_for_checkpoints()

    def before_train(self, runner: Any) -> None:
        """Prepare the folder; remove what a killed run left half written."""
        self.out_dir = given = below_of(self._given, runner.work_dir)
        self._run = settle_identity(runner, given)
        self._resumed = runner._load_from if runner._resume else None
        at = runner if given is None else InFolder(runner, self._run.folder)
        super().before_train(at)
        if isinstance(self.file_backend, LocalBackend) and isinstance(runner, Runner):
            self.file_backend = LateRemoval()
            if is_main_process():
                for folder in {Path(self.out_dir), Path(runner.work_dir)}:
                    remove_leftovers(folder)

    def after_train_iter(self, runner: Any, *args: Any, **kwargs: Any) -> None:
        """Save where this is due; raise what went wrong since."""
        if not self.by_epoch and self._is_due(runner):
            self._save_logged_best(runner, runner.epoch, runner.iter + 1)
        super().after_train_iter(runner, *args, **kwargs)
        if runner.world_size == 1:
            self._settle(wait=False)

    def after_train_epoch(self, runner: Any) -> None:
        """Save where this is due; raise what went wrong since."""
        self._settle(wait=False)
        self._save_logged_best(runner, runner.epoch + self.by_epoch, runner.iter)
        super().after_train_epoch(runner)  # holds which one is the best

    def after_train(self, runner: Any) -> None:
        """Wait for the last file, then publish it where this is wanted."""
        self._settle()
        self._say_what_is_missing(runner)
        super().after_train(runner)

    def after_run(self, runner: Any) -> None:
        """Wait for what a validation after the training has saved."""
        if self._began:
            self._settle()

    def save_now(self, runner: Any) -> str:
        """Save everything between two steps; on all ranks, return when it is safe.

        The file serves until the next checkpoint is complete, which deletes it.

        Returns:
            Its path; an empty text where no step has been made.
        """
        if runner.iter == 0:
            return ""
        runner.call_hook("before_write_checkpoint")
        path = Path(runner.work_dir, f"iter_{runner.iter}.pth")
        meta = {"epoch": runner.epoch, "iter": runner.iter}
        wait_for_checkpoints()
        regular = path.is_file() and path not in self._interim(path.parent)
        self._save(runner, str(path), meta, kind="regular" if regular else "interim")
        self._settle()
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
        runner.call_hook("before_write_checkpoint")
        backend = self.file_backend
        if not isinstance(backend, LateRemoval):
            super()._save_checkpoint_with_step(runner, step, meta)
            return
        hub = runner.message_hub
        if self.max_keep_ckpts > 0 and [*self.keep_ckpt_ids][-1:] != [step]:
            if len(self.keep_ckpt_ids) == self.max_keep_ckpts:
                oldest = self.filename_tmpl.format(self.keep_ckpt_ids.popleft())
                backend.remove(backend.join_path(self.out_dir, oldest))
            self.keep_ckpt_ids.append(step)
            hub.update_info("keep_ckpt_ids", [*self.keep_ckpt_ids])
        name = self.filename_tmpl.format(step)
        self.last_ckpt = backend.join_path(self.out_dir, name)
        hub.update_info("last_ckpt", self.last_ckpt)
        self._save(
            runner,
            self.last_ckpt,
            meta,
            self.save_optimizer,
            self.save_param_scheduler,
            **self.args,
        )

    def _is_due(self, runner: Any) -> bool:
        """Whether a checkpoint by iterations is due."""
        last = self.save_last and self.is_last_train_iter(runner)
        return last or self.every_n_train_iters(runner, self.interval, self.save_begin)

    def _interim(self, folder: Path) -> list[Path]:
        """Checkpoints of :meth:`save_now` that this run wrote."""
        return interim(folder, self._run.id if self._run else None, self._resumed)

    def _save(
        self,
        runner: Any,
        path: str,
        meta: dict,
        save_optimizer: bool = True,
        save_param_scheduler: bool = True,
        kind: str = "regular",
        **facts: Any,
    ) -> None:
        """Save on rank 0; all ranks raise where this fails."""
        self._began = True
        backend, work_dir = self.file_backend, Path(runner.work_dir)
        old = backend.take() if isinstance(backend, LateRemoval) else []

        def then() -> None:
            if kind != "best":
                write_text(work_dir / POINTER, path, durable=True)
                old.extend(self._interim(work_dir))
            for file in old:
                if file.resolve() != Path(path).resolve():
                    remove_checkpoint(file)

        error = None
        if is_main_process():
            try:
                self._finish()
                content = self._content(
                    runner, meta, save_optimizer, save_param_scheduler
                )
                run = self._run.id if self._run else None
                known = manifest_facts(runner, content["meta"], run)
                known |= {"kind": kind, **facts}
                self._saving = start_saving(content, path, then, known, self.verify)
            except Exception as caught:
                error = caught
        raise_on_all_ranks(error)

    def _settle(self, wait: bool = True) -> None:
        """Raise on all ranks what went wrong on rank 0; wait until this is known."""
        error = None
        if self._saving is not None and (wait or not self._saving.is_alive()):
            try:
                self._finish()
            except Exception as caught:
                error = caught
        raise_on_all_ranks(error)

    def _finish(self) -> None:
        saving, self._saving = self._saving, None
        if saving is not None:
            saving.finish()

    def _content(
        self, runner: Any, meta: dict, optimizer: bool, schedulers: bool
    ) -> dict:
        """Return what ``runner.save_checkpoint`` saves; tensors stay on their device.

        Formatting a config takes as long as writing a ResNet-50: once is enough.
        """
        raw = repr(runner.cfg._cfg_dict)
        if self._cfg[0] != raw:
            self._cfg = raw, runner.cfg.pretty_text
        content = {
            "meta": {
                **meta,
                "cfg": self._cfg[1],
                "seed": runner.seed,
                "experiment_name": runner.experiment_name,
                "time": time.strftime("%Y%m%d_%H%M%S", time.localtime()),
                "mmengine_version": mmengine.__version__ + get_git_hash(),
                "weights": describe_weights(unwrap(runner.model)),
            },
            "state_dict": unwrap(runner.model).state_dict(),
            "message_hub": runner.message_hub.state_dict(),
        }
        dataset = runner.train_dataloader.dataset
        if hasattr(dataset, "metainfo"):
            content["meta"]["dataset_meta"] = dataset.metainfo
        if optimizer:
            content["optimizer"] = runner.optim_wrapper.state_dict()
        found = runner.param_schedulers
        if schedulers and isinstance(found, dict):
            content["param_schedulers"] = {
                name: [x.state_dict() for x in group] for name, group in found.items()
            }
        elif schedulers and found is not None:
            content["param_schedulers"] = [x.state_dict() for x in found]
        runner.call_hook("before_save_checkpoint", checkpoint=content)
        return content
