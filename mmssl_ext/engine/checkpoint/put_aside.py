"""Put a run aside: whatever it wrote moves into a folder ``old``; nothing is lost."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from .manifest import manifest_path
from .run_folder import POINTER, RUN_FILE, checkpoints_in, free_name

# What runs write into their work_dir. Anything else there is the user's and stays, and
# so does `slurm`, into which a job is writing its log just now.
_WRITTEN = re.compile(
    r"\d{8}_\d{6}"  # a folder of logs for every start
    r"|(epoch|iter|best)_.*\.pth(\.json)?"
    rf"|{POINTER}|{re.escape(RUN_FILE)}"
    r"|result(\.old)?\.json|evaluation\.json|nonfinite_report\.json"
    r"|unreadable_images\.txt|failed_batch(\.rank\d+)?\.txt"
    r"|report\.html|(loss_curve|knn_curve|health|clusters)\.png|pictures|predictions"
)


def put_aside(work_dir: Path) -> Path | None:
    """Move what a run wrote into ``old`` in its folder, or ``old.2``, ``old.3``, ...

    Returns:
        That folder; None where there was nothing to move.
    """
    target = free_name(work_dir)
    entries = sorted({*_written(work_dir)})
    if not entries:
        return None
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
