"""Whose folder is it? Runs have an identity, and no run takes another one's place.

``run.id`` in a work_dir names the run in it and the folder of its own below
``checkpoint.out_dir``. It moves with the work_dir, so a moved run finds its
checkpoints, and two runs never write into one folder, whatever their work_dirs are
called.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from mmssl_ext.engine.resilience.processes import started_by, starter
from mmssl_ext.errors import ConfigError

from .manifest import ManifestError, manifest_path, read_manifest
from .run_folder import (
    POINTER,
    RUN_FILE,
    checkpoint_folders,
    checkpoints_in,
    find_run,
    pointed_name,
    pointer,
    read_run,
    write_run,
)

# What runs write into their work_dir. Anything else there is the user's and stays, and
# so does `slurm`, into which a job is writing its log just now.
_WRITTEN = re.compile(
    r"\d{8}_\d{6}"  # a folder of logs for every start
    r"|(epoch|iter|best)_.*\.pth(\.json)?"
    rf"|{POINTER}|{re.escape(RUN_FILE)}"
    r"|result(\.old)?\.json|evaluation\.json|nonfinite_report\.json"
    r"|unreadable_images\.txt|failed_batch(\.rank\d+)?\.txt"
    r"|report\.html|(loss_curve|knn_curve|health|clusters)\.png|pictures|predictions"
    r"|(wandb|mlflow)\.json|wandb|mlruns"
)


class RunIdentity(NamedTuple):
    """An id unlike that of any other run, and the name of its folder in ``out_dir``."""

    id: str
    folder: str


def check_free(
    work_dir: str | Path, resumed: Path | None, place: str = "--work-dir"
) -> None:
    """Refuse a start that would take the place of a run.

    ``resumed`` is the checkpoint that it goes on from, None where it is a new run;
    ``place`` the option that names the folder.
    """
    work_dir = Path(work_dir)
    found = find_run(work_dir)
    lost = _lost_folder(work_dir) if found is None and resumed is None else None
    if lost is not None:
        what = f"a run whose checkpoints are in {lost}, which is not there now: mount "
        what += "or restore it, give a checkpoint to --resume"
    elif found is None or (resumed is not None and _belongs(resumed, work_dir)):
        return
    else:
        other = "" if resumed is None else f", and {resumed} is of another one"
        what = f"{found}{other}: go on with it by --resume"
    raise ConfigError(
        f"{work_dir} holds {what}, choose another {place}, or add --overwrite, "
        f"which moves it to {free_name(work_dir)}."
    )


def later_files(work_dir: Path, resumed: Path) -> str:
    """Return a warning where a run goes on from before its newest checkpoint."""
    found, at = find_run(work_dir), _manifest(resumed).get("iter")
    if found is None or at is None or found.facts.get("iter", 0) <= at:
        return ""
    return (
        f"{work_dir} holds {found}. The run goes on from {resumed}, before that, and "
        "will replace what comes later. Copy what you want to keep."
    )


def goes_on(work_dir: str | Path) -> bool:
    """Whether torchrun or Slurm makes the start of the run there once more."""
    return started_by(read_run(Path(work_dir)).get("starter") or {})


def claim(
    work_dir: str | Path,
    resumed: Path | None,
    out_dir: str | None = None,
    note: bool = True,
) -> RunIdentity:
    """Give a run its identity, or find that of the one which is resumed.

    It is written down where it is to be noted, or has a folder below ``out_dir``; else
    the manifests of its checkpoints tell.
    """
    work_dir = Path(work_dir)
    old = _known(work_dir, resumed) if resumed is not None else {}
    if old and _is_copy(old, work_dir, out_dir):
        old = {}
    name = re.sub(r"[^\w.-]", "_", work_dir.resolve().name) or "run"
    new = old.get("id") or secrets.token_hex(6)
    run = RunIdentity(new, old.get("folder", f"{name}-{new}"))
    values = {"id": run.id, "folder": run.folder, "starter": starter()}
    if out_dir is not None:
        folder = Path(out_dir, run.folder).absolute()
        folder.mkdir(parents=True, exist_ok=True)
        write_run(folder, {"id": run.id, "work_dir": str(work_dir.resolve())})
        values["checkpoints"] = str(folder)
    if note or out_dir is not None:
        write_run(work_dir, values)
    return run


_claimed: dict[Path, RunIdentity] = {}  # by this process, as long as the runs last


@contextlib.contextmanager
def claimed(work_dir: str | Path, run: RunIdentity) -> Iterator[None]:
    """Let the hooks of a run know what was settled before it was built."""
    place = Path(work_dir).resolve()
    _claimed[place] = run
    try:
        yield
    finally:
        _claimed.pop(place, None)


def identity_of(
    work_dir: Path, resumed: Path | None, out_dir: str | None, again: bool
) -> RunIdentity:
    """Return the identity of a run, :func:`claimed` or settled now.

    ``again``: the same runner trains once more.
    """
    if (known := _claimed.get(work_dir.resolve())) is not None:
        return known
    if again:
        resumed = pointer(work_dir)
    else:
        check_free(work_dir, resumed)
    return claim(work_dir, resumed, out_dir, note=False)


def below_of(out_dir: str | Path | None, work_dir: str) -> str | None:
    """Return ``checkpoint.out_dir`` where it is another folder than the work_dir."""
    if out_dir is None:
        return None
    out_dir = os.path.expanduser(out_dir)  # mmengine does so for some paths only
    same = Path(out_dir).absolute() == Path(work_dir).absolute()
    return None if same else str(out_dir)


def relocate(work_dir: str | Path, out_dir: str | None) -> None:
    """Find the checkpoints of a run again whose ``out_dir`` has moved."""
    work_dir = Path(work_dir)
    run = read_run(work_dir)
    if out_dir is None or "folder" not in run:
        return
    folder = Path(out_dir, run["folder"]).absolute()
    if (
        str(folder) != run.get("checkpoints")
        and read_run(folder).get("id") == run["id"]
    ):
        write_run(work_dir, run | {"checkpoints": str(folder)})


def free_name(work_dir: Path) -> Path:
    """Where ``--overwrite`` moves a run: ``old`` in its folder, or ``old.2``, ..."""
    number, path = 1, work_dir / "old"
    while path.exists():
        number += 1
        path = work_dir / f"old.{number}"
    return path


def put_aside(work_dir: Path, needed: Iterable[str] = ()) -> Path | None:
    """Move all that a run wrote to :func:`free_name`, if there is anything.

    Args:
        work_dir: Of the run.
        needed: What the next run reads; texts that name no file do no harm.

    Raises:
        ConfigError: Something needed would move; nothing has.
    """
    target, entries = free_name(work_dir), sorted({*_written(work_dir)})
    if not entries:
        return None
    moving = {entry.resolve() for entry in entries}
    for name in filter(os.path.isfile, map(os.path.expanduser, needed)):
        if moving & {Path(name).resolve(), *Path(name).resolve().parents}:
            raise ConfigError(
                f"{name} is a file of the run in {work_dir}, which would be moved "
                "aside, and the new run needs it: train into another folder, or copy "
                "the file out of this one."
            )
    target.mkdir()
    for entry in entries:
        entry.rename(target / entry.name)
    return target


def _written(work_dir: Path) -> Iterator[Path]:
    if not work_dir.is_dir():
        return
    dumped = {path.read_bytes() for path in work_dir.glob("*/vis_data/config.py")}
    for path in work_dir.iterdir():
        config = path.suffix == ".py" and path.is_file()
        if _WRITTEN.fullmatch(path.name) or (config and path.read_bytes() in dumped):
            yield path
    for path, _ in checkpoints_in(work_dir):  # under names of their own
        yield path
        if manifest_path(path).is_file():
            yield manifest_path(path)


def _lost_folder(work_dir: Path) -> Path | None:
    """Where the checkpoints of a run were, where that folder cannot be reached."""
    folder = read_run(work_dir).get("checkpoints")
    if folder is None or pointed_name(work_dir) is None or os.path.isdir(folder):
        return None
    return Path(folder)


def _belongs(checkpoint: Path, work_dir: Path) -> bool:
    """Whether a checkpoint is one of the run in a work_dir."""
    folders = [folder.resolve() for folder in checkpoint_folders(work_dir)]
    if checkpoint.resolve().parent in folders:
        return True
    mine = _known(work_dir).get("id")
    return mine is not None and _manifest(checkpoint).get("run") == mine


def _is_copy(old: dict[str, Any], work_dir: Path, out_dir: str | None) -> bool:
    """Whether a work_dir is a copy of one that still has the folder of checkpoints."""
    if out_dir is None:
        return False
    owner = read_run(Path(out_dir, old.get("folder", ""))).get("work_dir")
    if owner is None or Path(owner) == work_dir.resolve():
        return False
    return read_run(Path(owner)).get("id") == old["id"]


def _known(work_dir: Path, checkpoint: Path | None = None) -> dict[str, Any]:
    """What is known of the identity of a run: its file or a manifest tells."""
    if found := read_run(work_dir):
        return found
    if checkpoint is None or checkpoint.resolve().parent != work_dir.resolve():
        checkpoint = pointer(work_dir)
    run = _manifest(checkpoint).get("run") if checkpoint else None
    return {"id": run} if run else {}


def _manifest(checkpoint: Path) -> dict[str, Any]:
    """What the manifest of a checkpoint says; nothing where it is damaged."""
    try:
        return read_manifest(checkpoint) or {}
    except ManifestError:
        return {}
