"""Names that torch, mmengine and the mm packages do not promise, in one place.

Nothing else in the package uses a name of theirs that begins with an underscore or
replaces one of their functions (a test looks for both). Tried with torch 2.4, 2.11 and
2.15, mmengine 0.10.7 and onedl-mmengine 0.10.12, mmcv 2.1 and onedl-mmcv 2.3.6, mmdet
3.3 and onedl-mmdetection 3.5.1. Each entry says what happens where a name is gone.
"""

from typing import Any

from .loaders import *  # noqa: F403
from .mmengine import *  # noqa: F403
from .torch import *  # noqa: F403


def __getattr__(name: str) -> Any:
    if name == "BatchNorm":  # the base of all of torch's; imported when asked for
        from torch.nn.modules.batchnorm import _BatchNorm

        return _BatchNorm
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
