"""Small real runs that the engine tests share."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.runner import Runner
from PIL import Image

from mmssl_ext.engine.launch import build_runner, prepare
from tests.models.common import model_config

REPO = Path(__file__).resolve().parents[2]
_names = itertools.count()


def write_images(root: Path, classes: int = 2, per_class: int = 8) -> Path:
    """A folder per class of noisy 16 x 16 images, a colour per class."""
    rng = np.random.default_rng(0)
    for label in range(classes):
        folder = root / f"class{label}"
        folder.mkdir(parents=True)
        colour = rng.integers(0, 256, 3)
        for i in range(per_class):
            noise = rng.normal(0, 40, (16, 16, 3))
            pixels = np.clip(colour + noise, 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / f"{i}.png")
    return root


def loader(root: Path, labels: str = "subfolders", batch_size: int = 4) -> dict:
    """An evaluation loader."""
    return {
        "batch_size": batch_size,
        "num_workers": 0,
        "sampler": {"type": "DefaultSampler", "shuffle": False},
        "collate_fn": {"type": "default_collate"},
        "dataset": {
            "type": "ImageFolder",
            "root": str(root),
            "labels": labels,
            "pipeline": [{"type": "DecodeImage"}, {"type": "PackViews"}],
        },
    }


def config(root: Path, work_dir: Path, epochs: int = 1, **hooks: Any) -> Config:
    """A config of a tiny MoCo run: batch 4, no kNN unless given in ``hooks``."""
    view = [
        {"type": "RandomResizedCrop", "size": 16, "scale": [0.3, 1.0]},
        {"type": "RandomFlip", "prob": 0.5},
    ]
    train = loader(root)
    train["drop_last"] = True
    train["sampler"]["shuffle"] = True
    train["dataset"]["pipeline"] = [
        {"type": "DecodeImage"},
        {"type": "MakeViews", "views": [view, view]},
        {"type": "PackViews"},
    ]
    return Config(
        {
            "default_scope": "mmssl_ext",
            "model": model_config("MoCo"),
            "train_dataloader": train,
            "train_cfg": {"by_epoch": True, "max_epochs": epochs},
            "optim_wrapper": {
                "optimizer": {"type": "SGD", "lr": 0.05, "momentum": 0.9}
            },
            "param_scheduler": [{"type": "CosineAnnealingLR", "T_max": 10, "end": 10}],
            "default_hooks": {
                "checkpoint": {
                    "type": "PlainCheckpointHook",
                    "interval": 1,
                    "max_keep_ckpts": 1,
                },
                "draw_key": {"type": "DrawKeyHook"},
                "logger": {"type": "LoggerHook", "interval": 2},
                **hooks,
            },
            "randomness": {"seed": 0},
            "env_cfg": {"mp_cfg": {"mp_start_method": "fork"}},
            "work_dir": str(work_dir),
        }
    )


def make_runner(cfg: Config, *extra: Hook, **options: Any) -> Runner:
    """The Runner of a config, with a message hub of its own, and further hooks."""
    cfg.experiment_name = f"test_{next(_names)}"
    runner = build_runner(cfg, prepare(cfg, **options))
    for hook in extra:
        runner.register_hook(hook)
    return runner


def log_text(runner: Runner) -> str:
    """What the run wrote to its log file."""
    return "".join(p.read_text() for p in Path(runner.log_dir).glob("*.log"))


def log_rows(runner: Runner) -> list[dict]:
    """The lines of the JSON log."""
    file = Path(runner.log_dir, "vis_data", "scalars.json")
    return [json.loads(line) for line in file.read_text().splitlines()]
