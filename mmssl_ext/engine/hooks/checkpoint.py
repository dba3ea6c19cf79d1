"""Checkpoints that hold tensors and plain data only and never hold up the loop."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import Any

import mmengine
from mmengine.dist import broadcast_object_list, is_main_process
from mmengine.fileio import LocalBackend
from mmengine.hooks import CheckpointHook
from mmengine.runner import Runner
from mmengine.utils import get_git_hash

from mmssl_ext.files import write_text
from mmssl_ext.registry import HOOKS
from mmssl_ext.unwrap import unwrap

from ..checkpoint import restore_histories, to_plain
from ..checkpoint_writing import Saving, start_saving, wait_for_checkpoints
from ..errors import CheckpointFileError


@HOOKS.register_module()
class PlainCheckpointHook(CheckpointHook):
    """mmengine's CheckpointHook, with safe files and a short pause of the training.

    mmengine pickles its log histories (a class of its own, NumPy arrays) into the file;
    here they become tensors on saving, the last 10,000 values of each, and histories
    again on loading: files load under ``weights_only=True``. Before a file is written,
    every hook with a ``before_write_checkpoint(runner)`` is called and may raise to
    prevent it.

    Training pauses while the tensors are copied into the kernel's page cache. A thread
    then brings the file to the disk, gives it its name, lets ``last_checkpoint`` name
    it and deletes what has become too old, in this order: a save that fails leaves the
    earlier files and the pointer as they were. The next save and the end of training
    wait for the thread. Its error is raised at the next iteration or, on several
    ranks, on all of them at the end of the epoch or at the next save.

    Arguments are those of CheckpointHook. Folders that are not local (``out_dir``) and
    other runners than ``Runner`` are served by mmengine's own way.
    """

    file_backend: Any

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._saving: Saving | None = None  # on rank 0
        self._began = False
        self._cfg: tuple[str, str] = "", ""

    def before_run(self, runner: Any) -> None:
        """Wait for another run of this process: this one may resume from its file."""
        wait_for_checkpoints()

    def before_train(self, runner: Any) -> None:
        """Prepare the folder; remove what a killed run left half written."""
        super().before_train(runner)
        if isinstance(self.file_backend, LocalBackend) and isinstance(runner, Runner):
            self.file_backend = _LateRemoval()
            drafts = f".*{Path(self.filename_tmpl).suffix}.*.tmp"
            if is_main_process():
                for draft in Path(self.out_dir).glob(drafts):
                    draft.unlink(missing_ok=True)

    def after_train_iter(self, runner: Any, *args: Any, **kwargs: Any) -> None:
        """Save where this is due; raise what went wrong since."""
        super().after_train_iter(runner, *args, **kwargs)
        if runner.world_size == 1:
            self._settle(wait=False)

    def after_train_epoch(self, runner: Any) -> None:
        """Save where this is due; raise what went wrong since."""
        self._settle(wait=False)
        super().after_train_epoch(runner)

    def after_train(self, runner: Any) -> None:
        """Wait for the last file, then publish it where this is wanted."""
        self._settle()
        super().after_train(runner)

    def after_run(self, runner: Any) -> None:
        """Wait for what a validation after the training has saved."""
        if self._began:
            self._settle()

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
        if not isinstance(backend, _LateRemoval):
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
            pointer=Path(runner.work_dir, "last_checkpoint"),
            **self.args,
        )

    def _save_best_checkpoint(self, runner: Any, metrics: dict) -> None:
        if isinstance(self.file_backend, _LateRemoval):
            runner = _SavingElsewhere(runner, self._save)
        super()._save_best_checkpoint(runner, metrics)

    def _save(
        self,
        runner: Any,
        path: str,
        meta: dict,
        save_optimizer: bool,
        save_param_scheduler: bool,
        pointer: Path | None = None,
    ) -> None:
        """Save on rank 0; all ranks raise where this fails."""
        self._began = True
        old = self.file_backend.take()

        def then() -> None:
            if pointer is not None:
                write_text(pointer, path)
            for file in map(Path, old):
                if file.is_dir():
                    shutil.rmtree(file)
                elif file != Path(path):
                    file.unlink(missing_ok=True)

        error = None
        if is_main_process():
            try:
                self._finish()
                content = self._content(
                    runner, meta, save_optimizer, save_param_scheduler
                )
                self._saving = start_saving(content, path, then)
            except Exception as caught:
                error = caught
        _raise_on_all_ranks(error)

    def _settle(self, wait: bool = True) -> None:
        """Raise on all ranks what went wrong on rank 0; wait until this is known."""
        error = None
        if self._saving is not None and (wait or not self._saving.is_alive()):
            try:
                self._finish()
            except Exception as caught:
                error = caught
        _raise_on_all_ranks(error)

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


class _LateRemoval(LocalBackend):
    """Notes what is to be removed, until that which replaces it is complete."""

    def __init__(self) -> None:
        super().__init__()
        self._noted: list[str] = []

    def isfile(self, filepath: str | Path) -> bool:
        """Take it for granted: what is still being written will be there by then."""
        return True

    def remove(self, filepath: str | Path) -> None:
        """Note a file or folder."""
        self._noted.append(str(filepath))

    rmtree = remove

    def take(self) -> list[str]:
        """Return what was noted and forget it."""
        noted, self._noted = self._noted, []
        return noted


class _SavingElsewhere:
    """A runner whose ``save_checkpoint`` is another."""

    def __init__(self, runner: Any, save: Any) -> None:
        self._runner, self._save = runner, save

    def __getattr__(self, name: str) -> Any:
        return getattr(self._runner, name)

    def save_checkpoint(
        self,
        out_dir: str,
        filename: str,
        *,
        meta: dict,
        save_optimizer: bool,
        save_param_scheduler: bool,
        **kwargs: Any,
    ) -> None:
        path = str(Path(out_dir, filename))
        self._save(self._runner, path, meta, save_optimizer, save_param_scheduler)


def _raise_on_all_ranks(error: Exception | None) -> None:
    """Raise the error of rank 0 everywhere, so that no rank waits for one that left."""
    texts = [None if error is None else str(error) or repr(error)]
    broadcast_object_list(texts)
    if error is not None:
        raise error
    if texts[0] is not None:
        raise CheckpointFileError(texts[0])
