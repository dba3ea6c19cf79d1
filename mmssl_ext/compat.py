"""Names that torch, mmengine and the mm packages do not promise, in one place.

Nothing else in the package uses a name of theirs that begins with an underscore or
replaces one of their functions (a test looks for both). Tried with torch 2.4, 2.11 and
2.15, mmengine 0.10.7 and onedl-mmengine 0.10.12, mmcv 2.1 and onedl-mmcv 2.3.6, mmdet
3.3 and onedl-mmdetection 3.5.1. Each entry says what happens where a name is gone.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable
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


# -- Python's pickle -------------------------------------------------------------------
# The unpickler in C fills gigabytes of memory where a file of ten bytes numbers its
# objects from 2^31; the one in Python does not. Gone: AttributeError at import.

PythonUnpickler: Any = pickle._Unpickler

# -- mmengine's initialisation of weights ----------------------------------------------
# Gone: later initialisers erase what was loaded, and HandoverHook refuses the run;
# AttributeError at the import of mmssl_ext.transfer.


def keep_initialised(module: Any) -> None:
    """Keep later initialisers off a module."""
    module._is_init = True


def note_initialised(module: Any, how: str) -> None:
    """Say in mmengine's log of initialisations, while it keeps one, what was done."""
    from mmengine.model import update_init_info

    if hasattr(module, "_params_init_info"):
        update_init_info(module, init_info=how)


def before_pretrained(check: Callable[[Any, str, str | None], None]) -> None:
    """Call a check of module, path and prefix before ``Pretrained`` loads; once."""
    from mmengine.model import PretrainedInit

    load = PretrainedInit.__call__
    if hasattr(load, "checked"):
        return

    def checked(self: Any, module: Any) -> None:
        check(module, self.checkpoint, self.prefix)
        load(self, module)

    checked.checked = True  # type: ignore[attr-defined]
    PretrainedInit.__call__ = checked


# -- Data preprocessors of mmengine and the mm packages --------------------------------
# Gone: the order of channels is neither recorded nor compared, and images that nothing
# normalises are not warned of.


def swaps_channels(preprocessor: Any) -> bool | None:
    """Whether BGR images become RGB; None where it does not say."""
    # mmdet's and mmseg's name; mmpretrain's may be given either by the loader.
    names = ("_channel_conversion", "channel_conversion")
    known = [vars(preprocessor)[n] for n in names if n in vars(preprocessor)]
    return all(known) if known else None


def normalises(preprocessor: Any) -> bool:
    """Whether mean and std are applied."""
    return bool(getattr(preprocessor, "_enable_normalize", True))


# -- mmdet's CocoMetric ----------------------------------------------------------------


def ground_truth(metric: Any) -> Any:
    """The COCO object of its annotation file, or None. Gone: AttributeError."""
    return metric._coco_api


# -- torchvision's operations ----------------------------------------------------------
# Gone: AttributeError in a detector's first backward pass, where mmcv is not compiled.


def roi_align_backward(*arguments: Any) -> Any:
    """Gradient of RoIAlign with respect to its input."""
    import torch

    return torch.ops.torchvision._roi_align_backward(*arguments)
