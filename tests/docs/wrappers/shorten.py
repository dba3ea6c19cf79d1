"""Cut a training to its last steps, after its own checks of all its options.

The config arrives at mmengine's Runner as the page's command makes it. There batches
and the images of detectors and segmentors become small, and the loop jumps to where
only the last steps are missing, so files have the names of the whole run.
"""

from __future__ import annotations

import copy
import functools
import os
from pathlib import Path
from typing import Any

import yapf.yapflib.yapf_api as yapf
from mmengine.hooks import Hook
from mmengine.runner import BaseLoop, EpochBasedTrainLoop, Runner

STEPS = 2  # of a run by iterations; one by epochs has the steps of its last one
BATCH = 16
SMALL_BATCH = 2  # of detectors and segmentors
SCENES = {"train": 32, "test": 16, "size": 64}
DRAWN = "README_md"  # folder of the page whose runs write report and pictures
TESTED = 2  # images that a detector or segmentor is evaluated on
SIDE = 128  # px, the long side of what a detector or segmentor sees
_SIZES = ("scale", "scales", "crop_size", "size")
_MOST = {"nms_pre": 100, "max_per_img": 10, "num": 32}  # boxes
_RESIZES = ("Resize", "RandomChoiceResize", "RandomResize", "RandomCrop")


def install() -> None:
    """Let every Runner that is built from now on be short."""
    if getattr(Runner, "is_short", False):
        return
    build, train = Runner.from_cfg.__func__, Runner.train

    def from_cfg(cls: type, cfg: Any) -> Runner:
        return build(cls, shortened(cfg))

    def short_train(self: Runner) -> Any:
        self.register_hook(JumpHook(), priority="LOWEST")
        return train(self)

    Runner.from_cfg = classmethod(from_cfg)
    Runner.train = short_train
    Runner.is_short = True
    yapf.FormatCode = lambda text, **_: (text, True)  # of the config, for the log


def install_sheets() -> None:
    """Let pictures have few pixels."""
    from mmssl_ext.visualization.pictures.sheet import Sheet

    Sheet.__init__ = functools.partialmethod(Sheet.__init__, scale=0.5)


def install_scenes() -> None:
    """Let few and small demo scenes be drawn."""
    from mmssl_ext.datasets import demo

    def few(out: str, **options: Any) -> Any:
        for name, most in SCENES.items():
            options[name] = min(options.get(name, most), most)
        return draw(out, **options)

    draw, demo.make_demo = demo.make_demo, few


class JumpHook(Hook):
    """Leaves out all epochs but the last, or all iterations but the last two."""

    def before_train(self, runner: Runner) -> None:
        """Jump to the last epoch."""
        loop = runner.train_loop
        if isinstance(loop, EpochBasedTrainLoop) and runner.epoch < loop.max_epochs - 1:
            loop._epoch = loop.max_epochs - 1
            loop._iter = loop._epoch * len(loop.dataloader)
            if hasattr(loop, "_began"):
                loop._began = loop._iter

    def before_train_iter(self, runner: Runner, *args: Any, **kwargs: Any) -> None:
        """Jump to the last iterations."""
        loop = runner.train_loop
        if not isinstance(loop, EpochBasedTrainLoop):
            loop._iter = max(loop._iter, loop.max_iters - STEPS)


def shortened(cfg: Any) -> Any:
    """A copy of a config for two steps of small batches."""
    cfg = copy.deepcopy(cfg)
    toolbox = cfg.get("default_scope") in ("mmdet", "mmseg")
    for name in ("train", "val", "test"):
        loader, loop = cfg.get(f"{name}_dataloader"), cfg.get(f"{name}_cfg")
        for node in (loader, loop if isinstance(loop, dict) else None):
            if isinstance(node, dict):
                for found in loaders(node):
                    shorten_loader(found, SMALL_BATCH if toolbox else BATCH)
    if toolbox:
        for name in cfg:  # a Config is no dict, what it holds is
            shrink(cfg[name])
        for name in ("val_dataloader", "test_dataloader"):
            if cfg.get(name):
                dataset = cfg[name]["dataset"]
                dataset["indices"] = min(dataset.get("indices") or TESTED, TESTED)
    labels = (cfg.get("model") or {}).get("pseudo_labels") or {}
    if labels.get("type") == "OnlineLabels":
        labels["min_size"] = 1  # else there are too few scenes for the clusters
    if "jobs" in (cfg.get("test_cfg") or {}):
        cfg.test_cfg.jobs = 1  # SVMs: joblib cannot start processes from the server
    hooks = cfg.get("default_hooks") or {}
    for name in {"learned", "pictures", "report"} & hooks.keys():
        if Path(os.environ["DOCS_ROOT"]).name != DRAWN:
            del hooks[name]
        elif name == "learned":
            hooks.learned.update(kinds=["pca"], num_images=2)
    return cfg


def loaders(node: Any) -> list[dict]:
    """The data loaders in a part of a config."""
    if isinstance(node, BaseLoop) or not isinstance(node, dict):
        return []
    own = [node] if "dataset" in node and "sampler" in node else []
    return own + [x for child in node.values() for x in loaders(child)]


def shorten_loader(loader: dict, batch: int) -> None:
    """Small batches, made in the process itself."""
    if "batch_size" in loader:
        loader["batch_size"] = min(loader["batch_size"], batch)
    loader.update(num_workers=0, persistent_workers=False)
    for name in ("prefetch_factor", "timeout"):
        loader.pop(name, None)


def shrink(node: Any) -> None:
    """Make images of detectors and segmentors small, and their boxes few, in place."""
    if isinstance(node, (list, tuple)):
        for child in node:
            shrink(child)
    elif isinstance(node, dict):
        kind = str(node.get("type", "")).split(".")[-1]
        for name, value in node.items():
            resizes = kind in _RESIZES or kind == "SegDataPreProcessor"
            if resizes and name in _SIZES:
                node[name] = small(value)
            elif name in _MOST and isinstance(value, int):
                node[name] = min(value, _MOST[name])
            else:
                shrink(value)


def small(value: Any) -> Any:
    """A size, or several, with a long side of SIDE at most."""
    if (
        isinstance(value, (list, tuple))
        and value
        and isinstance(value[0], (int, float))
    ):
        factor = min(1.0, SIDE / max(value))
        return type(value)(max(32, round(x * factor)) for x in value)
    if isinstance(value, (list, tuple)):
        return type(value)(small(x) for x in value)
    return min(value, SIDE) if isinstance(value, int) else value
