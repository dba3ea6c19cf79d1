"""The backbones of the matrix, the smallest of each family, and short runs of them."""

from __future__ import annotations

import copy
import functools
from pathlib import Path
from typing import Any

import pytest
from mmengine.config import Config

from mmssl_ext.run.launch import load_config
from tests.engine.test_exact_resume import run_config
from tests.harness import REPO

# By the title of the family in the table, or as timm's.
BACKBONES = {
    "ResNet": "resnet18-w8",
    "ResNeXt": "resnext50",
    "ConvNeXt": "convnext-atto",
    "ConvNeXt V2": "convnextv2-atto",
    "Swin": "swin-tiny",
    "ViT": "vit-tiny",
    "ViT, class token": "vit-tiny-token",
    "MobileNet v2": "mobilenet-v2-w0.25",
    "MobileNet v3 small": "mobilenet-v3-small-050",
    "MobileNet v3 large": "mobilenet-v3-large",
    "EfficientNet": "efficientnet-b0",
    "RegNet": "regnetx-400mf",
    "timm, ResNet": "timm:test_resnet",
    "timm, EfficientNet": "timm:test_efficientnet",
    "timm, ConvNeXt": "timm:test_convnext",
    "timm, ViT": "timm:test_vit",
    "timm, Swin": "timm:swin_tiny_patch4_window7_224",
}
METHODS = {
    "MoCo": "mocov2/mocov2_r18_demo.py",
    "CO2": "co2/co2_r18_demo.py",
    "BYOL": "byol/byol_r18_demo.py",
    "DenseCL": "densecl/densecl_r18_demo.py",
}
HEAVY = {"resnext50", "swin-tiny", "timm:swin_tiny_patch4_window7_224"}
WITHOUT_MAPS = "vit-tiny-token"


def refused(name: str, method: str) -> bool:
    """A class token has no cells for a dense method to compare."""
    return name == WITHOUT_MAPS and method == "DenseCL"


def some(cases: list[tuple[Any, ...]], every: int, heavy: bool = True) -> list[Any]:
    """Cases of a product; `make test` runs one of ``every``, each row another.

    Args:
        cases: Of which each begins with the name of a backbone.
        every: Length of a row.
        heavy: Large backbones are among those that are run.
    """

    def left_out(i: int) -> bool:
        return (i + i // every) % every > 0 or (cases[i][0] in HEAVY and not heavy)

    return [
        pytest.param(
            *case,
            id="-".join(map(str, case)),
            marks=[pytest.mark.matrix] + [pytest.mark.slow] * left_out(i),
        )
        for i, case in enumerate(cases)
    ]


@functools.cache
def _read(method: str, name: str) -> Config:
    options: dict[str, Any] = {"backbone": name, "strides": [1, 2, 2, 2]}
    if method != "BYOL":
        options |= {"queue_len": 32, "bn_splits": 2}
    if method == "DenseCL":
        options["start_iters"] = 0
    known = (REPO / "configs" / METHODS[method]).read_text()
    if "bn_splits =" not in known:
        options.pop("bn_splits", None)
    return load_config(REPO / "configs" / METHODS[method], options)


def shipped(method: str, name: str) -> Config:
    """The shipped demo config of a method with another backbone."""
    return copy.deepcopy(_read(method, name))


def short_run(
    method: str, name: str, images: Path, work_dir: Path, every: int = 6
) -> Config:
    """Twelve steps of four images of 64 px, by the config's model and optimizer."""
    cfg, whole = run_config("DenseCL", images, work_dir, every), shipped(method, name)
    cfg.backbone = whole.backbone
    cfg.model = whole.model
    cfg.optim_wrapper = whole.optim_wrapper
    return cfg
