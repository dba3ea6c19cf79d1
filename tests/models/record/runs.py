"""The runs whose checkpoints lie beside this file, and the images that they saw.

Configs are those of version 0.1 and stand here whole, so that no change elsewhere
reaches them.
"""

from __future__ import annotations

import copy
import json
import lzma
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.config import Config
from mmengine.hooks import Hook
from PIL import Image
from torch import Tensor

from .steps import by_part

FOLDER = Path(__file__).resolve().parent / "checkpoints"
LENGTH, EPOCHS, SAVED = 4, 2, 5  # iterations, epochs, iterations at the checkpoint
STEPS = LENGTH * EPOCHS
IMAGES, BATCH, SIDE, VIEW = 18, 4, 40, 24  # an epoch leaves two images out

BACKBONE = {
    "type": "ResNet",
    "depth": 18,
    "stem_channels": 4,
    "base_channels": 4,
    "num_stages": 2,
    "strides": [1, 2],
    "dilations": [1, 1],
    "out_indices": [1],  # a cell of 8 x 8 pixels has 8 channels
    "zero_init_residual": False,
}
_MOCO = {
    "type": "MoCo",
    "backbone": BACKBONE,
    "neck": {
        "type": "MoCoV2Neck",
        "in_channels": 8,
        "hid_channels": 8,
        "out_channels": 6,
    },
    "head": {"type": "InstanceHead", "temperature": 0.2},
    "queue_len": 14,  # wraps around in the middle of a batch
    "feat_dim": 6,
    "momentum": 0.9,
    "bn_splits": 2,
}
_SIMSIAM = {
    "type": "SimSiam",
    "backbone": BACKBONE,
    "neck": {
        "type": "NonLinearNeck",
        "in_channels": 8,
        "hid_channels": 8,
        "out_channels": 8,
        "num_layers": 2,
        "norm_cfg": {"type": "BN1d"},
        "with_last_bn_affine": False,
    },
    "head": {
        "type": "LatentPredictHead",
        "loss": {"type": "CosineSimilarityLoss"},
        "predictor": {
            "type": "NonLinearNeck",
            "in_channels": 8,
            "hid_channels": 4,
            "out_channels": 8,
            "num_layers": 2,
            "norm_cfg": {"type": "BN1d"},
            "with_avg_pool": False,
            "with_last_bn": False,
            "with_last_bias": True,
        },
    },
}
_DENSE_NECK = {
    "type": "DenseCLNeck",
    "in_channels": 8,
    "hid_channels": 8,
    "out_channels": 6,
}
_REGION = {"region": {"cells": [1, 2], "stride": 8}}
_FIXED = {
    "custom_hooks": [{"type": "FixedRateHook"}],
    "paramwise_cfg": {"custom_keys": {"predictor": {"fix_lr": True}}},
}
_FEATURE_PASS = {
    "type": "PseudoLabelHook",
    "dataloader": {"batch_size": 6, "num_workers": 0},
    "pipeline": [
        {"type": "DecodeImage"},
        {"type": "CenterCrop", "size": VIEW},
        {"type": "PackViews"},
    ],
    "interval": 1,
    "warmup_epochs": 1,
}

# By name: model, then what the rest of the config has besides.
_RUNS: dict[str, tuple[dict, dict]] = {
    "MoCo": (_MOCO, {}),
    "MoCo_accumulated": (_MOCO, {"accumulative_counts": 2}),
    "CO2": (
        _MOCO
        | {
            "type": "CO2",
            "consistency": {
                "type": "ConsistencyHead",
                "temperature": 0.05,
                "weight": 0.3,
            },
        },
        {},
    ),
    "DenseCL": (
        _MOCO | {"type": "DenseCL", "neck": _DENSE_NECK},
        {"custom_hooks": [{"type": "DenseCLHook", "start_iters": 6}]},
    ),
    "RegionCLM": (_MOCO | {"type": "RegionCLM"} | _REGION, {}),
    "RegionCLD": (_MOCO | {"type": "RegionCLD", "neck": _DENSE_NECK} | _REGION, {}),
    "DetCo": (
        _MOCO
        | {
            "type": "DetCo",
            "backbone": BACKBONE | {"out_indices": [0, 1]},
            "neck": {
                "type": "MultiLevelNeck",
                "in_channels": [4, 8],
                "out_channels": 6,
            },
            "head": {
                "type": "MultiLevelHead",
                "temperature": 0.2,
                "level_weights": [0.5, 1.0],
            },
        },
        {},
    ),
    "InterCLR": (
        _MOCO
        | {
            "type": "InterCLR",
            "pseudo_labels": {
                "type": "OnlineLabels",
                "num_clusters": 4,
                "min_size": 2,
                "interval": 3,
            },
            "negatives": {"type": "SemiHardNegatives", "num": 6, "pool": 0.5},
            "inter_head": {"type": "MarginHead", "temperature": 0.2, "margin": -0.5},
        },
        {"custom_hooks": [_FEATURE_PASS]},
    ),
    "SimSiam": (_SIMSIAM, _FIXED),
    "SimSiam_accumulated": (_SIMSIAM, _FIXED | {"accumulative_counts": 2}),
    "RegionCLS": (_SIMSIAM | {"type": "RegionCLS"} | _REGION, _FIXED),
}
RUNS = tuple(_RUNS)


def config_of(name: str, root: Path, work_dir: Path) -> Config:
    """The config of version 0.1 for a run of two epochs of four iterations.

    Args:
        name: One of ``RUNS``.
        root: Folder of :func:`write_images`.
        work_dir: Of the run.
    """
    model, more = copy.deepcopy(_RUNS[name])
    # Without interpolation, which is not the same in every build of OpenCV.
    share = VIEW**2 / SIDE**2
    view = [
        {
            "type": "RandomResizedCrop",
            "size": VIEW,
            "scale": [share, share],
            "ratio": [1.0, 1.0],
        },
        {"type": "RandomFlip", "prob": 0.5},
    ]
    views = [view, view]
    if model["type"] == "DetCo":
        cut = {"type": "CutPatches", "size": 8, "grid": 3}
        views += [[*view, cut], [*view, cut]]
    optim_wrapper = {
        "type": "OptimWrapper",
        "optimizer": {
            "type": "SGD",
            "lr": 0.05,
            "momentum": 0.9,
            "weight_decay": 1e-4,
        },
    }
    for key in ("accumulative_counts", "paramwise_cfg"):
        if key in more:
            optim_wrapper[key] = more[key]
    return Config(
        {
            "default_scope": "mmssl_ext",
            "model": model,
            "train_dataloader": {
                "batch_size": BATCH,
                "num_workers": 0,
                "drop_last": True,
                "sampler": {"type": "DefaultSampler", "shuffle": True},
                "collate_fn": {"type": "default_collate"},
                "dataset": {
                    "type": "ImageFolder",
                    "root": str(root),
                    "labels": "none",
                    "pipeline": [
                        {"type": "DecodeImage"},
                        {"type": "MakeViews", "views": views},
                        {"type": "PackViews"},
                    ],
                },
            },
            "train_cfg": {"by_epoch": True, "max_epochs": EPOCHS},
            "optim_wrapper": optim_wrapper,
            "param_scheduler": [
                {
                    "type": "CosineAnnealingLR",
                    "T_max": STEPS,
                    "by_epoch": False,
                    "end": STEPS,
                }
            ],
            "default_hooks": {
                "runtime_info": {"type": "DeferredRuntimeInfoHook"},
                "logger": {"type": "LoggerHook", "interval": 1},
                "checkpoint": {
                    "type": "PlainCheckpointHook",
                    "by_epoch": False,
                    "interval": SAVED,
                    "save_last": False,
                },
                "resume": {"type": "ExactResumeHook"},
                "draw_key": {"type": "DrawKeyHook"},
                "guard": {"type": "NonFiniteGuardHook"},
            },
            "custom_hooks": more.get("custom_hooks", []),
            "randomness": {"seed": 0},
            "env_cfg": {"mp_cfg": {"mp_start_method": "fork"}},
            "work_dir": str(work_dir),
        }
    )


def write_images(root: Path) -> Path:
    """Coloured squares, as files whose bytes follow from their pixels alone."""
    root.mkdir(parents=True)
    drawn = np.random.RandomState(0).randint(0, 256, (IMAGES, 8, 8, 3), np.uint8)
    for i, squares in enumerate(drawn):
        pixels = squares.repeat(SIDE // 8, 0).repeat(SIDE // 8, 1)
        Image.fromarray(pixels).save(root / f"{i:02}.bmp")
    return root


def unpack(name: str, folder: Path) -> Path:
    """Write the checkpoint of a run as the file that version 0.1 wrote."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"iter_{SAVED}.pth"
    path.write_bytes(lzma.decompress((FOLDER / f"{name}.pth.xz").read_bytes()))
    return path


def pack(name: str, file: Path) -> None:
    """Compress a checkpoint for the repository, as it is."""
    FOLDER.mkdir(exist_ok=True)
    data = lzma.compress(file.read_bytes(), preset=9)
    FOLDER.joinpath(f"{name}.pth.xz").write_bytes(data)


def recorded(name: str) -> dict[int, dict]:
    """:func:`state_of` a run, as version 0.1 went on from its checkpoint.

    By the number of iterations from the one after the checkpoint to the last.
    """
    found = json.loads(FOLDER.joinpath("states.json").read_text())[name]
    return {int(count): figures for count, figures in found.items()}


class Record(Hook):
    """Note what a run has come to after each of its iterations.

    Args:
        name: As in :class:`~tests.models.record.steps.Version`.

    Attributes:
        found: :func:`state_of` it by the number of iterations.
    """

    priority = "LOWEST"

    def __init__(self, name: Callable[[str], str] = str) -> None:
        self.name = name
        self.found: dict[int, dict] = {}

    def after_train_iter(self, runner: Any, *args: Any, **kwargs: Any) -> None:
        """See the class."""
        self.found[runner.iter + 1] = state_of(runner, self.name)


def state_of(runner: Any, name_of: Callable[[str], str]) -> dict[str, Any]:
    """Figures of a run between two iterations: state and momenta by part, and rates.

    Args:
        runner: That trains.
        name_of: As in :class:`~tests.models.record.steps.Version`.
    """
    model, optimizer = runner.model, runner.optim_wrapper.optimizer
    state = optimizer.state
    momenta: list[tuple[str, Tensor]] = [
        (name_of(name), state[parameter]["momentum_buffer"])
        for name, parameter in model.named_parameters()
        if parameter in state
    ]
    return {
        "rates": [group["lr"] for group in optimizer.param_groups],
        "state": by_part((name_of(k), v) for k, v in model.state_dict().items()),
        "momenta": by_part(momenta),
    }
