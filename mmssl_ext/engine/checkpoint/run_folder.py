"""What a work_dir holds: its run, the checkpoints of that, and which is the newest.

The newest is the one of most iterations, whatever the times of files say: who copies a
folder, or restores it from a backup, may change those.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from mmssl_ext.errors import CheckpointFileError
from mmssl_ext.files import head_of, read_text, write_text

from .manifest import manifests

RUN_FILE = "run.id"
POINTER = "last_checkpoint"
Checkpoints = dict[Path, dict[str, Any]]  # what their manifests say, if they have any
_LARGEST = 1 << 16  # bytes of a run.id

# Also of mmengine alone; others by their manifests.
_CHECKPOINT = re.compile(r"((epoch|iter)_\d+|best_.+_(epoch|iter)_\d+)\.pth")


@dataclass(frozen=True)
class FoundRun:
    """A run of which something worth keeping is there."""

    work_dir: Path
    newest: Path  # the checkpoint of the highest iteration
    facts: dict[str, Any]  # what its manifest says

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
    found, pointed = checkpoints_of(Path(work_dir)), pointer(Path(work_dir))
    if not found:
        return None
    newest = pointed if pointed in found else by_iteration(found)[0]
    return FoundRun(Path(work_dir), newest, found[newest])


def checkpoints_of(work_dir: Path) -> Checkpoints:
    """All checkpoints of the run of a work_dir, wherever they are."""
    folders = checkpoint_folders(work_dir)
    return {x: facts for folder in folders for x, facts in checkpoints_in(folder)}


def checkpoints_in(folder: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Yield the checkpoints of a folder that runs wrote, and their manifests."""
    described = dict(manifests(folder))
    for path in folder.glob("*.pth"):
        if _CHECKPOINT.fullmatch(path.name) and path not in described:
            described[path] = {}
    yield from ((path, facts) for path, facts in described.items() if path.exists())


def checkpoint_folders(work_dir: Path) -> list[Path]:
    """Where the checkpoints of a run are: its work_dir, and what that points to."""
    folders, pointed = [work_dir, *own_folder(work_dir)], pointer(work_dir)
    if pointed is not None:
        folders.append(pointed.parent)
    return list({folder.resolve(): folder for folder in folders}.values())


def own_folder(work_dir: Path) -> list[Path]:
    """The folder of a run below its ``checkpoint.out_dir``, where there is one."""
    run = read_run(work_dir)
    own = Path(run.get("checkpoints") or work_dir)
    return [own] if own != work_dir and read_run(own).get("id") == run["id"] else []


def pointer(work_dir: Path) -> Path | None:
    """Return the file that ``last_checkpoint`` names, if there is one.

    Where the folder was moved or copied, the file of that name in it counts.
    """
    if (named := pointed_name(work_dir)) is None:
        return None
    moved = [folder / named.name for folder in own_folder(work_dir)]
    files = (work_dir / named.name, named, *moved)
    # No error where the name is impossible.
    return next((file for file in files if os.path.isfile(file)), None)


def pointed_name(work_dir: Path) -> Path | None:
    """What ``last_checkpoint`` says, be it there or not."""
    try:
        text = read_text(work_dir / POINTER).strip()
    except OSError:
        return None
    return Path(text) if text else None


def newest_first(work_dir: Path, load: Callable[[Path], dict]) -> list[Path]:
    """Return the checkpoints that a run can be resumed from.

    The one that ``last_checkpoint`` names, then the others as :func:`by_iteration`.
    """
    found = {  # without those of `save_best`, which hold no optimizer
        path: facts
        for path, facts in checkpoints_of(work_dir).items()
        if path.is_file()
        and facts.get("kind") != "best"
        and (facts or not path.name.startswith("best_"))
    }
    files, last = by_iteration(found, load), pointer(work_dir)
    if last is None:
        return files
    return [last, *(path for path in files if not path.samefile(last))]


def by_iteration(
    found: Checkpoints, load: Callable[[Path], dict] = lambda _: {}
) -> list[Path]:
    """Sort checkpoints, the one with most iterations first.

    ``load`` reads a file that has no manifest.
    """
    if len(found) < 2:
        return list(found)
    places: dict[Path, tuple[int, int]] = {}
    for path, facts in found.items():
        try:
            meta = facts or load(path)["meta"]
            places[path] = int(meta["epoch"]), int(meta["iter"])
        except (CheckpointFileError, KeyError, TypeError, ValueError):
            continue
    lengths = [done / epoch for epoch, done in places.values() if epoch > 0]
    length = min(lengths, default=1.0)  # of an epoch: a file may be from within one

    def order(path: Path) -> tuple[float, int]:
        if path in places:
            done = float(places[path][1])
        else:  # cannot be read: its name is all that is known
            digits = re.findall(r"\d+", path.stem)
            done = float(digits[-1]) if digits else 0.0
            done *= length if "epoch_" in path.name else 1.0
        return done, path.stat().st_mtime_ns

    return sorted(found, key=order, reverse=True)


def read_run(folder: Path) -> dict[str, Any]:
    """What the ``run.id`` of a folder says; empty where there is none that is whole."""
    try:
        found = json.loads(head_of(folder / RUN_FILE, _LARGEST).decode("utf-8"))
        return found if _is_whole(found) else {}
    except (ValueError, AttributeError, RecursionError):
        return {}


def write_run(folder: Path, values: dict[str, Any]) -> None:
    """Write the ``run.id`` of a folder."""
    write_text(folder / RUN_FILE, json.dumps(values, indent=2) + "\n")


def _is_whole(found: dict[str, Any]) -> bool:
    """Whether a run wrote this; the name of a folder is no path out of ``out_dir``."""
    folder = found.get("folder", "run")
    places = [found.get(name, "") for name in ("checkpoints", "work_dir")]
    return (
        isinstance(found.get("id"), str)
        and isinstance(folder, str)
        and folder == Path(folder).name != ".."
        and all(isinstance(place, str) and "\0" not in place for place in places)
        and isinstance(found.get("starter") or {}, dict)
    )
