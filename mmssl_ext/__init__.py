"""Self-supervised pretraining for the OpenMMLab toolboxes."""

import warnings
from importlib import import_module
from typing import Any

from .moved import find_moved

__version__ = "0.2.0"

# What mmcv and mmdet say of things that nothing here has any need of: mmcv's
# compiled ops, a second implementation of COCO's metrics, an argument to come.
warnings.filterwarnings("ignore", "Fail to import ``MultiScaleDeformable", UserWarning)
warnings.filterwarnings("ignore", "faster_coco_eval is not installed", UserWarning)
warnings.filterwarnings("ignore", "torch.meshgrid: in an upcoming", UserWarning)
# Configs are for machines with a GPU and for those without.
warnings.filterwarnings("ignore", "'pin_memory' argument is set as true", UserWarning)
find_moved()

#: Functions of the package -> their modules, which import torch, at the first use.
LAZY = {
    "duplicates": "mmssl_ext.api.duplicates",
    "embed": "mmssl_ext.api.embed",
    "load_backbone": "mmssl_ext.api.backbone",
    "make_proposals": "mmssl_ext.api.proposals",
    "pretrain": "mmssl_ext.api.pretrain",
    "stats": "mmssl_ext.api.stats",
}
__all__ = [*LAZY]


def __getattr__(name: str) -> Any:
    if name in LAZY:
        return getattr(import_module(LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *LAZY])
