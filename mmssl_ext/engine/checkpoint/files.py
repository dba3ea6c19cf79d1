"""What the checkpoint hook needs around its files: removal, manifests, all ranks."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from mmengine.dist import broadcast_object_list, is_main_process
from mmengine.fileio import LocalBackend

from mmssl_ext.errors import CheckpointFileError, UserError
from mmssl_ext.unwrap import unwrap

from .manifest import manifests
from .resume import accumulation, batch_size
from .run_folder import RunIdentity, check_free, claim, pointer, settled

T = TypeVar("T")


class LateRemoval(LocalBackend):
    """Notes what is to be removed, until that which replaces it is complete."""

    def __init__(self) -> None:
        super().__init__()
        self._noted: list[Path] = []

    def isfile(self, filepath: str | Path) -> bool:
        """Take it for granted: what is still being written will be there by then."""
        return True

    def remove(self, filepath: str | Path) -> None:
        """Note a file or folder."""
        self._noted.append(Path(filepath))

    rmtree = remove

    def take(self) -> list[Path]:
        """Return what was noted and forget it."""
        noted, self._noted = self._noted, []
        return noted


class InFolder:
    """A runner whose work_dir has another name, which mmengine's hook appends."""

    def __init__(self, runner: Any, name: str) -> None:
        self._runner, self.work_dir = runner, name

    def __getattr__(self, name: str) -> Any:
        return getattr(self._runner, name)


def manifest_facts(runner: Any, meta: dict, run: str | None) -> dict[str, Any]:
    """What a manifest says about the run."""
    batch = batch_size(runner.train_dataloader)
    return {
        "epoch": meta["epoch"],
        "iter": meta["iter"],
        "world_size": runner.world_size,
        "global_batch": batch and batch * runner.world_size * accumulation(runner),
        "config_sha256": hashlib.sha256(meta["cfg"].encode()).hexdigest(),
        "method": type(unwrap(runner.model)).__name__,
        "run": run,
    }


def interim(folder: Path, run: str | None, resumed: str | None) -> list[Path]:
    """Checkpoints between two regular ones that a run wrote when it was stopped.

    Args:
        folder: Where they are.
        run: Identity of the run. Files of others are not its to delete.
        resumed: What it goes on from: its own, also where the manifest does not tell.
    """
    return [
        path
        for path, facts in manifests(folder)
        if facts.get("kind") == "interim"
        and (
            facts.get("run") == run
            or ("run" not in facts and resumed and _same(path, Path(resumed)))
        )
    ]


def settle_identity(runner: Any, out_dir: str | None) -> RunIdentity:
    """Return the identity of a run, on all ranks.

    Raises:
        ConfigError: The work_dir holds another run.
    """
    if (known := settled(runner.work_dir)) is not None:
        return known

    def find() -> RunIdentity:
        work_dir = Path(runner.work_dir)
        given = (runner._load_from or pointer(work_dir)) if runner._resume else None
        resumed = Path(given) if given else None
        if runner.iter > 0 and not runner._resume:  # this runner trains once more
            resumed = pointer(work_dir)
        else:
            check_free(work_dir, resumed)
        local = out_dir if out_dir and "://" not in out_dir else None
        return claim(work_dir, resumed, local, note=False)

    return from_main_process(find)


def from_main_process(function: Callable[[], T]) -> T:
    """Return on all ranks what a function returns on the first; all raise its error."""
    value: Any = None
    error: Exception | None = None
    if is_main_process():
        try:
            value = function()
        except UserError as caught:
            error = caught
    raise_on_all_ranks(error, type(error) if error else CheckpointFileError)
    found = [value]
    broadcast_object_list(found)
    return found[0]


def raise_on_all_ranks(
    error: Exception | None, kind: type[Exception] = CheckpointFileError
) -> None:
    """Raise the error of rank 0 everywhere, so that no rank waits for one that left."""
    texts = [None if error is None else str(error) or repr(error)]
    broadcast_object_list(texts)
    if error is not None:
        raise error
    if texts[0] is not None:
        raise kind(texts[0])


def _same(a: Path, b: Path) -> bool:
    return a.resolve() == b.resolve()
