"""Saves the checkpoints of a run, each by the same steps in the same order."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

import mmengine
from mmengine.dist import broadcast_object_list, is_main_process
from mmengine.utils import get_git_hash

from mmssl_ext.engine.weights.origin import ORIGIN
from mmssl_ext.engine.weights.record import describe_weights
from mmssl_ext.errors import CheckpointFileError, UserError
from mmssl_ext.unwrap import unwrap

from .facts import accumulation, batch_size
from .identity import RunIdentity
from .manifest import manifests
from .run_folder import POINTER
from .write import Saving, start_saving

T = TypeVar("T")


class Saver:
    """Collects, writes, verifies, names, describes, points and prunes, in this order.

    The loop waits until the file is written as far as the kernel's page cache; a thread
    does the rest (:func:`~mmssl_ext.engine.checkpoint.write.start_saving`). All ranks
    call the methods and raise alike; rank 0 writes.

    Args:
        runner: The run.
        run: Its identity.
        resumed: The checkpoint that it goes on from.
        verify: Read every file back from the disk before anything depends on it.
    """

    def __init__(
        self, runner: Any, run: RunIdentity, resumed: Path | None, verify: bool
    ) -> None:
        self._runner, self._run, self._verify = runner, run, verify
        self._resumed, self._work_dir = resumed, Path(runner.work_dir)
        self._saving: Saving | None = None  # on rank 0
        self._config: tuple[Any, str] = None, ""

    def save(
        self,
        path: Path,
        meta: dict[str, int],
        kind: str,
        optimizer: bool = True,
        schedulers: bool = True,
        notes: dict[str, Any] | None = None,
        outdated: Iterable[Path] = (),
        **facts: Any,
    ) -> None:
        """Save a checkpoint, once the one before is complete.

        Args:
            path: Of the file.
            meta: ``epoch`` and ``iter``.
            kind: ``regular``, ``interim`` (the next regular one deletes it) or ``best``
                (which nothing points to).
            optimizer: Save the optimizer, too.
            schedulers: Save the schedules, too.
            notes: What the message hub is to hold from now on.
            outdated: Files to delete once the new one is complete.
            facts: Further entries of the manifest.
        """
        self._runner.call_hook("before_write_checkpoint")  # may raise to prevent it
        for name, value in (notes or {}).items():
            self._runner.message_hub.update_info(name, value)

        def to_delete() -> Iterable[Path]:
            return [*outdated, *([] if kind == "best" else self.interim())]

        def save() -> None:
            self._finish()
            content = self._content(meta, optimizer, schedulers)
            manifest = self._facts(content["meta"]) | {"kind": kind, **facts}
            pointer = None if kind == "best" else self._work_dir / POINTER
            rest = manifest, self._verify, pointer, to_delete
            self._saving = start_saving(content, path, *rest)

        from_first_rank(save)

    def settle(self, wait: bool = True) -> None:
        """Raise what went wrong; wait until this is known, or only look."""
        from_first_rank(lambda: self._finish(wait))

    def interim(self) -> list[Path]:
        """Checkpoints between two regular ones that this run wrote when it was stopped.

        Files of other runs are not its to delete. Where a manifest does not tell whose
        it is, the one that the run goes on from is its own.
        """
        return [
            path
            for path, facts in manifests(self._work_dir)
            if facts.get("kind") == "interim"
            and (
                facts.get("run") == self._run.id
                or ("run" not in facts and self._goes_on_from(path))
            )
        ]

    def _goes_on_from(self, path: Path) -> bool:
        return self._resumed is not None and self._resumed.resolve() == path.resolve()

    def _finish(self, wait: bool = True) -> None:
        saving = self._saving
        if saving is not None and (wait or not saving.is_alive()):
            self._saving = None
            saving.finish()

    def _facts(self, meta: dict[str, Any]) -> dict[str, Any]:
        """What a manifest says about the run."""
        runner = self._runner
        batch = batch_size(runner.train_dataloader)
        return {
            "epoch": meta["epoch"],
            "iter": meta["iter"],
            "world_size": runner.world_size,
            "global_batch": batch and batch * runner.world_size * accumulation(runner),
            "config_sha256": hashlib.sha256(meta["cfg"].encode()).hexdigest(),
            "method": type(unwrap(runner.model)).__name__,
            "run": self._run.id,
        }

    def _content(
        self, meta: dict[str, int], optimizer: bool, schedulers: bool
    ) -> dict[str, Any]:
        """What ``Runner.save_checkpoint`` saves; tensors stay on their device."""
        runner, model = self._runner, unwrap(self._runner.model)
        content = {
            "meta": {
                **meta,
                "cfg": self._config_text(),
                "seed": runner.seed,
                "experiment_name": runner.experiment_name,
                "time": time.strftime("%Y%m%d_%H%M%S", time.localtime()),
                "mmengine_version": mmengine.__version__ + get_git_hash(),
                "weights": describe_weights(model),
            },
            "state_dict": model.state_dict(),
            "message_hub": runner.message_hub.state_dict(),
        }
        if origin := runner.message_hub.runtime_info.get(ORIGIN):
            content["meta"]["origin"] = origin
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

    def _config_text(self) -> str:
        """The config; formatting it takes as long as writing a ResNet-50."""
        raw = repr(self._runner.cfg.to_dict())
        if self._config[0] != raw:
            self._config = raw, self._runner.cfg.pretty_text
        return self._config[1]


def from_first_rank(function: Callable[[], T]) -> T:
    """Return on all ranks what a function returns on the first; all raise its error.

    So no rank waits for one that left.
    """
    value: Any = None
    error: Exception | None = None
    if is_main_process():
        try:
            value = function()
        except Exception as caught:
            error = caught
    kind = type(error) if isinstance(error, UserError) else CheckpointFileError
    found = [value, kind, None if error is None else str(error) or repr(error)]
    broadcast_object_list(found)
    if error is not None:
        raise error
    if found[2] is not None:
        raise found[1](found[2])
    return found[0]
