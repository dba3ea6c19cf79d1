"""Names that torch, mmengine and the mm packages do not promise, in one place.

Nothing else in the package uses a name of theirs that begins with an underscore or
replaces one of their functions (a test looks for both). Tried with torch 2.4, 2.11 and
2.15, mmengine 0.10.7 and onedl-mmengine 0.10.12, mmcv 2.1 and onedl-mmcv 2.3.6, mmdet
3.3 and onedl-mmdetection 3.5.1. Each entry says what happens where a name is gone.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

# -- mmengine's Runner -----------------------------------------------------------------
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


# -- mmengine's hooks and loops, for checkpoints and exact resume ----------------------
# Gone: AttributeError at the start of a run.


def accumulative_counts(wrapper: Any) -> int:
    """Iterations whose gradients make one optimizer step; 1 of a wrapper without."""
    return getattr(wrapper, "_accumulative_counts", 1)


def end_epoch(loop: Any) -> None:
    """Count an epoch of a training loop."""
    loop._epoch += 1


def decide_val_interval(loop: Any) -> None:
    """Let a training loop find out how often it validates at this epoch."""
    loop._decide_current_val_interval()


# -- torch -----------------------------------------------------------------------------


def copy_versions(source: dict, target: dict) -> None:
    """Keep the versions of modules that stand beside a state_dict, if there are any.

    Gone: modules whose layout has changed since would load an old state as a new one.
    """
    if hasattr(source, "_metadata"):
        target._metadata = {k: dict(v) for k, v in source._metadata.items()}  # type: ignore[attr-defined]


def count_steps(step: Any) -> None:
    """Mark a function as an optimizer's ``step`` whose calls schedules look at.

    Gone: schedules warn that they are stepped before the optimizer.
    """
    step._with_counter = True


# -- torch's DataLoader ----------------------------------------------------------------


@contextlib.contextmanager
def dealt_by(loader: Any, wrap: Callable[[Any], Any]) -> Iterator[None]:
    """Let the iterator that a DataLoader makes now take indices from another sampler.

    A DataLoader refuses another one as attribute, for nothing would ensure that it
    fits. Persistent workers that are at work already are given up. Gone: a resume
    inside an epoch stops with an AttributeError.

    Args:
        loader: The DataLoader.
        wrap: Makes the sampler from the one that is there.
    """
    loader._iterator = None
    name = "sampler" if loader.batch_sampler is None else "batch_sampler"
    dealer = getattr(loader, name)
    object.__setattr__(loader, name, wrap(dealer))
    try:
        yield
    finally:
        object.__setattr__(loader, name, dealer)
