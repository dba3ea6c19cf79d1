"""Names that torch, mmengine and the mm packages do not promise, in one place.

Nothing else in the package uses a name of theirs that begins with an underscore or
replaces one of their functions (a test looks for both). Tried with torch 2.4, 2.11 and
2.15, mmengine 0.10.7 and onedl-mmengine 0.10.12, mmcv 2.1 and onedl-mmcv 2.3.6, mmdet
3.3 and onedl-mmdetection 3.5.1. Each entry says what happens where a name is gone.
"""

from __future__ import annotations

from typing import Any

# -- mmengine's Runner ------------------------------------------------------------------
# Its loops are configs until they are built, and properties build them at the first
# look; the names with an underscore look without building. Gone: AttributeError at the
# start of a run.


def train_loop(runner: Any) -> Any:
    """The training loop as it stands: built, still a config, or None."""
    return runner._train_loop


def val_loop(runner: Any) -> Any:
    """The validation loop as it stands: built, still a config, or None."""
    return runner._val_loop


def test_loop(runner: Any) -> Any:
    """The test loop as it stands: built, still a config, or None."""
    return runner._test_loop


def resumes(runner: Any) -> bool:
    """Whether the run goes on from a checkpoint."""
    return runner._resume


def load_from(runner: Any) -> str | None:
    """The file that the run starts or goes on from."""
    return runner._load_from


def start_from(runner: Any, path: str | None, resume: bool) -> None:
    """Let the run start or go on from a file."""
    runner._load_from, runner._resume = path, resume


# -- mmengine's Visualizer -------------------------------------------------------------
# It has no way to its backends but by name. Gone: they get no pictures.


def vis_backends(visualizer: Any) -> list[Any]:
    """The backends of a visualizer: TensorBoard's, that of the local files, ..."""
    return list((getattr(visualizer, "_vis_backends", None) or {}).values())
