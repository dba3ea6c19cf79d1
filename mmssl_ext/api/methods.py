"""Which methods there are for images of one's own, and the recipe that each builds on.

No import here needs torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mmssl_ext.errors import UserValueError
from mmssl_ext.text import closest


@dataclass(frozen=True)
class Recipe:
    """What a method needs besides its config.

    Attributes:
        title: Its name in the literature.
        config: Of the package, below ``configs``.
        rate: Learning rate of SGD for a batch of 256 from random weights.
        views: That go through the trained network, for an estimate of the memory.
        queue: It has a queue of keys.
        bank: It has a bank of targets, of which neighbours are taken.
        teaches: It needs a teacher.
        options: Variables of the config that differ from ImageNet's: small batches go
            without LARS and warm-up.
    """

    title: str
    config: str
    rate: float = 0.03
    views: int = 2
    queue: bool = False
    bank: bool = False
    teaches: bool = False
    options: tuple[tuple[str, Any], ...] = ()


_SGD = (
    ("lars", False),
    ("lr_warmup", 0),
    ("weight_decay", 1e-4),
    ("crop_scale", (0.2, 1.0)),
)
_TWO = (*_SGD, ("local_crops", 0))
_ALONE = (*_TWO, ("queue_len", 0))

METHODS = {
    "mocov2": Recipe("MoCo v2", "mocov2/mocov2_r50_imagenet.py", queue=True),
    "co2": Recipe("CO2", "co2/co2_r50_imagenet.py", queue=True),
    "ascl": Recipe("ASCL", "ascl/ascl_r50_imagenet.py", queue=True),
    "ressl": Recipe("ReSSL", "ressl/ressl_r50_imagenet.py", 0.05, queue=True),
    "mochi": Recipe("MoCHi", "mochi/mochi_r50_imagenet.py", queue=True),
    "densecl": Recipe("DenseCL", "densecl/densecl_r50_imagenet.py", queue=True),
    "dsc": Recipe("DSC", "dsc/dsc-pm_r50_imagenet.py", queue=True),
    "detco": Recipe("DetCo", "detco/detco_r50_imagenet.py", views=4, queue=True),
    "regionclm": Recipe(
        "RegionCL-M", "regioncl/regionclm_r50_imagenet.py", views=3, queue=True
    ),
    "regioncld": Recipe(
        "RegionCL-D", "regioncl/regioncld_r50_imagenet.py", views=3, queue=True
    ),
    "unmix": Recipe(
        "Un-Mix", "unmix/unmix_mocov2_r50_imagenet.py", views=3, queue=True
    ),
    "interclr": Recipe("InterCLR", "interclr/interclr_r50_imagenet.py", queue=True),
    "ifnd": Recipe("IFND", "ifnd/ifnd_r50_imagenet.py", queue=True),
    "tkc": Recipe("TKC", "tkc/tkc_r50_imagenet.py", queue=True),
    "simclr": Recipe("SimCLR", "simclr/simclr_r50_imagenet.py", 0.2, options=_SGD),
    "byol": Recipe("BYOL", "byol/byol_r50_imagenet.py", 0.2, 4, options=_SGD),
    "propos": Recipe(
        *("ProPos", "propos/propos_r50_imagenet.py", 0.4, 4),
        options=(*_SGD, ("accumulative_counts", 1)),
    ),
    "pixpro": Recipe("PixPro", "pixpro/pixpro_r50_imagenet.py", 0.2, 4, options=_SGD),
    "lcloss": Recipe(
        "LC-loss", "lcloss/lcloss_byol_r50_imagenet.py", 0.2, 4, options=_SGD
    ),
    "msf": Recipe("MSF", "msf/msf_r50_imagenet.py", 0.05, bank=True),
    "cmsf": Recipe("CMSF", "cmsf/cmsf-2q_r50_imagenet.py", 0.05, bank=True),
    "swav": Recipe("SwAV", "swav/swav_r50_imagenet.py", 0.06, options=_ALONE),
    "dino": Recipe("DINO", "dino/dino_r50_imagenet.py", 0.06, 4, options=_TWO),
    "scfs": Recipe("SCFS", "scfs/scfs_r50_imagenet.py", 0.06, 4, options=_TWO),
    "mira": Recipe("MIRA", "mira/mira_r50_imagenet.py", 0.06, options=_TWO),
    "simsiam": Recipe("SimSiam", "simsiam/simsiam_r50_imagenet.py", 0.05, 4),
    "densesiam": Recipe("DenseSiam", "densesiam/densesiam_r50_imagenet.py", 0.05, 4),
    "regioncls": Recipe("RegionCL-S", "regioncl/regioncls_r50_imagenet.py", 0.05, 5),
    "simreg": Recipe("SimReg", "simreg/simreg_r18_imagenet.py", 0.05, 1, teaches=True),
}
_OTHER_NAMES = {
    "moco": "mocov2",
    "moco_v2": "mocov2",
    "regioncl": "regionclm",
    "distillation": "simreg",
}


_NOT_OF_IMAGES_ALONE = {  # what else they need, and a config
    "ccop": ("boxes from tools/make_proposals.py", "ccop/ccop_r18_demo.py"),
    "bgaug": ("masks of the subjects", "bgaug/bgremove_r18_demo.py"),
    "bgremove": ("masks of the subjects", "bgaug/bgremove_r18_demo.py"),
    "bgswaps": ("masks of the subjects", "bgaug/bgswaps_r18_demo.py"),
}


def method_named(name: str | None, teacher: object = None) -> str:
    """The key of a method in :data:`METHODS`, however it is spelt.

    Without a name it is ``simreg`` with a teacher, else ``co2``.

    Raises:
        UserValueError: There is none of that name.
    """
    name = name or ("simreg" if teacher else "co2")
    key = str(name).lower().replace("-", "").replace(" ", "")
    key = _OTHER_NAMES.get(key, key)
    if key in _NOT_OF_IMAGES_ALONE:
        needed, config = _NOT_OF_IMAGES_ALONE[key]
        raise UserValueError(
            f"The method '{name}' needs {needed} besides images: train it by a config, "
            f"such as `mmssl-ext train {config}`."
        )
    if key not in METHODS:
        raise UserValueError(
            f"There is no method '{name}'.{closest(key, METHODS)} There are "
            f"{', '.join(sorted(METHODS))}."
        )
    return key
