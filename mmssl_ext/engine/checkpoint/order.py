"""Which checkpoint of a run is the newest: by iterations, never by the time of a file.

Whoever copies a folder, or restores it from a backup, may change the times.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mmssl_ext.errors import CheckpointFileError

from .run_folder import checkpoint_folders, checkpoints_in, pointer


def newest_first(work_dir: Path, load: Callable[[Path], dict]) -> list[Path]:
    """Return the checkpoints of a run that it can be resumed from.

    Args:
        work_dir: Of the run.
        load: Reads a file that has no manifest.

    Returns:
        The file that ``last_checkpoint`` names, then the others by iteration.
    """
    found = {
        path: facts
        for folder in checkpoint_folders(work_dir)
        for path, facts in checkpoints_in(folder)
        if path.is_file() and not is_best(path, facts)
    }
    files = by_iteration(found, load)
    last = pointer(work_dir)
    if last is None:
        return files
    return [last, *(path for path in files if not path.samefile(last))]


def is_best(path: Path, facts: dict[str, Any]) -> bool:
    """Whether a checkpoint is one of ``save_best``, which holds no optimizer."""
    return facts.get("kind") == "best" or (not facts and path.name.startswith("best_"))


def by_iteration(
    found: dict[Path, dict[str, Any]], load: Callable[[Path], dict] = lambda _: {}
) -> list[Path]:
    """Sort checkpoints, the one with most iterations first.

    Args:
        found: Their manifests; empty where they have none.
        load: Reads a file that has no manifest.
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
