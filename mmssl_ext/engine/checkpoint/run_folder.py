"""Whose folder is it? Runs have an identity, and no run takes another one's place.

``run.id`` in a work_dir names the run in it and the folder of its own below
``checkpoint.out_dir``. It moves with the work_dir, so a moved run finds its
checkpoints, and two runs never write into one folder, whatever their work_dirs are
called.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from mmssl_ext.engine.resilience.processes import started_by, starter
from mmssl_ext.errors import ConfigError
from mmssl_ext.files import head_of, read_text, write_text

from .manifest import ManifestError, manifests, read_manifest

RUN_FILE = "run.id"
POINTER = "last_checkpoint"
_LARGEST = 1 << 16  # bytes of a run.id

# Also of mmengine alone; others by their manifests.
_CHECKPOINT = re.compile(r"((epoch|iter)_\d+|best_.+_(epoch|iter)_\d+)\.pth")


@dataclass(frozen=True)
class RunIdentity:
    """The identity of a run.

    Attributes:
        id: Unlike that of any other run.
        folder: Name of its own folder below a ``checkpoint.out_dir``.
    """

    id: str
    folder: str


@dataclass(frozen=True)
class FoundRun:
    """A run of which something worth keeping is there.

    Attributes:
        work_dir: Its folder.
        newest: The checkpoint of the highest iteration.
        facts: What its manifest says.
    """

    work_dir: Path
    newest: Path
    facts: dict[str, Any]

    def __str__(self) -> str:
        parts = [str(self.facts["method"])] if self.facts.get("method") else []
        if "iter" in self.facts:
            parts.append(f"epoch {self.facts['epoch']}, iteration {self.facts['iter']}")
        when = self.facts.get("time")
        if when is None:
            saved = self.newest.stat().st_mtime
            when = datetime.fromtimestamp(saved).astimezone().isoformat("T", "seconds")
        parts.append(f"{self.newest.name} of {when}")
        done = "finished " if (self.work_dir / "result.json").is_file() else ""
        return f"a {done}run ({', '.join(parts)})"


def find_run(work_dir: str | Path) -> FoundRun | None:
    """Return the run whose checkpoints a work_dir holds or points to, if any.

    Logs alone, of a run that died before it saved anything, are none.
    """
    work_dir = Path(work_dir)
    found = {
        path: facts
        for folder in checkpoint_folders(work_dir)
        for path, facts in checkpoints_in(folder)
    }
    if not found:
        return None

    def step(path: Path) -> tuple[int, int]:
        return found[path].get("iter") or _number(path), path.stat().st_mtime_ns

    pointed = pointer(work_dir)
    newest = pointed if pointed in found else max(found, key=step)
    return FoundRun(work_dir, newest, found[newest])


def checkpoint_folders(work_dir: Path) -> list[Path]:
    """Where the checkpoints of a run are: its work_dir, and what that points to."""
    folders, pointed = [work_dir, *_own_folder(work_dir)], pointer(work_dir)
    if pointed is not None:
        folders.append(pointed.parent)
    return list({folder.resolve(): folder for folder in folders}.values())


def pointer(work_dir: Path) -> Path | None:
    """Return the file that ``last_checkpoint`` names, if there is one.

    Where the folder was moved or copied, the file of that name in it counts.
    """
    if (named := _named(work_dir)) is None:
        return None
    moved = [folder / named.name for folder in _own_folder(work_dir)]
    files = (work_dir / named.name, named, *moved)
    # No error where the name is impossible.
    return next((file for file in files if os.path.isfile(file)), None)


def checkpoints_in(folder: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Yield the checkpoints of a folder that runs wrote, and their manifests."""
    described = dict(manifests(folder))
    for path in folder.glob("*.pth"):
        if _CHECKPOINT.fullmatch(path.name) and path not in described:
            described[path] = {}
    yield from ((path, facts) for path, facts in described.items() if path.exists())


def check_free(work_dir: str | Path, resumed: Path | None) -> None:
    """Refuse a start that would take the place of a run.

    Args:
        work_dir: Where the start would write.
        resumed: The checkpoint that it goes on from, None where it is a new run.

    Raises:
        ConfigError: The folder holds a run which is not gone on with.
    """
    work_dir = Path(work_dir)
    found = find_run(work_dir)
    if found is None and resumed is None and (lost := _lost_folder(work_dir)):
        raise ConfigError(
            f"{work_dir} holds a run whose checkpoints are in {lost}, which is not "
            "there now: mount or restore it, or give a checkpoint to --resume, choose "
            f"another --work-dir, or add --overwrite, which moves what is in "
            f"{work_dir} to {free_name(work_dir)}."
        )
    if found is None or (resumed is not None and _belongs(resumed, work_dir)):
        return
    other = f", and {resumed} is of another one" if resumed is not None else ""
    raise ConfigError(
        f"{work_dir} holds {found}{other}: go on with it by --resume, choose another "
        f"--work-dir, or add --overwrite, which moves it to {free_name(work_dir)}."
    )


def below_of(out_dir: str | Path | None, work_dir: str) -> Any:
    """Return ``checkpoint.out_dir`` where it is another folder than the work_dir."""
    if out_dir is None:
        return None
    out_dir = os.path.expanduser(out_dir)  # mmengine does so for some paths only
    same = Path(out_dir).absolute() == Path(work_dir).absolute()
    return None if same else str(out_dir)


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


def settled(work_dir: str | Path) -> RunIdentity | None:
    """Return what :func:`claimed` says of a run."""
    return _claimed.get(Path(work_dir).resolve())


def later_files(work_dir: Path, resumed: Path) -> str:
    """Return a warning where a run goes on from before its newest checkpoint."""
    found = find_run(work_dir)
    try:
        at = (read_manifest(resumed) or {}).get("iter")
    except ManifestError:
        at = None
    if found is None or at is None or found.facts.get("iter", 0) <= at:
        return ""
    return (
        f"{work_dir} holds {found}. The run goes on from {resumed}, before that, and "
        "will replace what comes later. Copy what you want to keep."
    )


def goes_on(work_dir: str | Path) -> bool:
    """Whether this start is the same as that of the run there, made once more.

    It is where torchrun starts its workers again, and where Slurm requeues a job.
    """
    return started_by(_read(Path(work_dir)).get("starter") or {})


def claim(
    work_dir: str | Path,
    resumed: Path | None,
    out_dir: str | None = None,
    note: bool = True,
) -> RunIdentity:
    """Give a run its identity, or find that of the one which is resumed.

    Args:
        work_dir: Of the run, which :func:`check_free` has found free for it.
        resumed: The checkpoint that it goes on from.
        out_dir: The folder below which its checkpoints have a folder.
        note: Write it down; else the manifests of its checkpoints tell.
    """
    work_dir = Path(work_dir)
    old = _known(work_dir, resumed) if resumed is not None else {}
    name = re.sub(r"[^\w.-]", "_", work_dir.resolve().name) or "run"
    new = secrets.token_hex(6)
    run = RunIdentity(new, f"{name}-{new}")
    if old and not _is_copy(old, work_dir, out_dir):
        run = RunIdentity(old["id"], old.get("folder", f"{name}-{old['id']}"))
    values = {"id": run.id, "folder": run.folder, "starter": starter()}
    if out_dir is not None:
        folder = Path(out_dir, run.folder).absolute()
        folder.mkdir(parents=True, exist_ok=True)
        _write(folder, {"id": run.id, "work_dir": str(work_dir.resolve())})
        values["checkpoints"] = str(folder)
    if note or out_dir is not None:
        _write(work_dir, values)
    return run


def relocate(work_dir: str | Path, out_dir: str | None) -> None:
    """Find the checkpoints of a run again whose ``out_dir`` has moved."""
    work_dir = Path(work_dir)
    run = _read(work_dir)
    if out_dir is None or "folder" not in run:
        return
    folder = Path(out_dir, run["folder"]).absolute()
    if str(folder) != run.get("checkpoints") and _read(folder).get("id") == run["id"]:
        _write(work_dir, run | {"checkpoints": str(folder)})


def free_name(work_dir: Path) -> Path:
    """Where ``--overwrite`` moves a run: ``old`` in its folder, or ``old.2``, ..."""
    number, path = 1, work_dir / "old"
    while path.exists():
        number += 1
        path = work_dir / f"old.{number}"
    return path


def _named(work_dir: Path) -> Path | None:
    """What ``last_checkpoint`` says, be it there or not."""
    try:
        text = read_text(work_dir / POINTER).strip()
    except OSError:
        return None
    return Path(text) if text else None


def _own_folder(work_dir: Path) -> list[Path]:
    """The folder of a run below its ``out_dir``, where there is one."""
    run = _read(work_dir)
    own = Path(run.get("checkpoints") or work_dir)
    return [own] if own != work_dir and _read(own).get("id") == run["id"] else []


def _lost_folder(work_dir: Path) -> Path | None:
    """Where the checkpoints of a run were, where that folder cannot be reached."""
    folder = _read(work_dir).get("checkpoints")
    if folder is None or _named(work_dir) is None or os.path.isdir(folder):
        return None
    return Path(folder)


def _belongs(checkpoint: Path, work_dir: Path) -> bool:
    """Whether a checkpoint is one of the run in a work_dir."""
    folders = [folder.resolve() for folder in checkpoint_folders(work_dir)]
    if checkpoint.resolve().parent in folders:
        return True
    try:
        manifest = read_manifest(checkpoint) or {}
    except ManifestError:
        return False
    mine = _known(work_dir).get("id")
    return mine is not None and manifest.get("run") == mine


def _is_copy(old: dict[str, Any], work_dir: Path, out_dir: str | None) -> bool:
    """Whether a work_dir is a copy of one that still has the folder of checkpoints."""
    if out_dir is None:
        return False
    owner = _read(Path(out_dir, old.get("folder", ""))).get("work_dir")
    if owner is None or Path(owner) == work_dir.resolve():
        return False
    return _read(Path(owner)).get("id") == old["id"]


def _known(work_dir: Path, checkpoint: Path | None = None) -> dict[str, Any]:
    """What is known of the identity of a run: its file or a manifest tells."""
    if found := _read(work_dir):
        return found
    if checkpoint is None or checkpoint.resolve().parent != work_dir.resolve():
        checkpoint = pointer(work_dir)
    try:
        run = (read_manifest(checkpoint) or {}).get("run") if checkpoint else None
    except ManifestError:
        run = None
    return {"id": run} if run else {}


def _number(path: Path) -> int:
    digits = re.findall(r"\d+", path.stem)
    return int(digits[-1]) if digits else 0


def _read(folder: Path) -> dict[str, Any]:
    try:
        found = json.loads(head_of(folder / RUN_FILE, _LARGEST).decode("utf-8"))
        return found if _is_whole(found) else {}
    except (ValueError, AttributeError, RecursionError):
        return {}


def _is_whole(found: dict[str, Any]) -> bool:
    """Whether this is what :func:`claim` writes; a folder is below its ``out_dir``."""
    folder = found.get("folder", "run")
    places = [found.get(name, "") for name in ("checkpoints", "work_dir")]
    return (
        isinstance(found.get("id"), str)
        and isinstance(folder, str)
        and folder == Path(folder).name != ".."
        and all(isinstance(place, str) and "\0" not in place for place in places)
        and isinstance(found.get("starter") or {}, dict)
    )


def _write(folder: Path, values: dict[str, Any]) -> None:
    write_text(folder / RUN_FILE, json.dumps(values, indent=2) + "\n")
