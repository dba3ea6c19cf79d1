"""Our arms on a GPU: model, optimizer and runtime of configs/*_imagenet.py."""

import functools
import tempfile
from types import SimpleNamespace
from typing import Any

import common
import torch
from gpu_timing import Scale, Step
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import DefaultScope
from mmpretrain.structures import DataSample
from torch import Tensor
from torch.nn.functional import normalize

from mmssl_ext.engine.hooks import PerformanceHook
from mmssl_ext.registry import MODELS
from mmssl_ext.run.launch import load_config, prepare

CONFIGS = common.REPOSITORY / "configs"
MOCO = "mocov2/mocov2_r50_imagenet.py"


def slim(model: Any, scale: Scale) -> None:
    """Give a toy ResNet-18 and a short queue, in the config of a model."""
    if scale.measures:
        return
    model.backbone.depth = 18
    if isinstance(model.neck.in_channels, int):
        model.neck.in_channels = model.neck.hid_channels = 512
    else:
        model.neck.in_channels = (64, 128, 256, 512)
    model.queue_len = scale.queue


def made_up(scale: Scale, patches: int = 0) -> tuple[dict, list[Tensor]]:
    """A batch of noise on the device: as uint8 for ours and mmpretrain, and normalised.

    Args:
        scale: Of this run.
        patches: Side of DetCo's patches, which become two further views.
    """
    generator = torch.Generator().manual_seed(0)
    shapes = [(scale.batch, 3, scale.size, scale.size)] * 2
    shapes += [(scale.batch, 9, 3, patches, patches)] * 2 if patches else []
    views = [
        torch.randint(256, shape, dtype=torch.uint8, generator=generator)
        for shape in shapes
    ]
    views = [view.to(scale.device) for view in views]
    numbers = torch.randperm(scale.images, generator=generator)[: scale.batch]
    samples = [DataSample(metainfo={"sample_idx": int(i)}) for i in numbers]
    floats = [view.float().sub_(120).div_(58) for view in views[:2]]
    return {"inputs": views, "data_samples": samples}, floats


def our_config(path: str, scale: Scale, **options: Any) -> Config:
    """A config as `tools/train.py` prepares it, at the scale of this run."""
    cfg = load_config(CONFIGS / path, options)
    cfg.work_dir = tempfile.gettempdir()
    slim(cfg.model, scale)
    if not scale.measures:
        cfg.model.bn_splits = 1
    prepare(cfg)
    return cfg


class Ours:
    """Model, optimizer and runtime of one of our configs, without the Runner's loop.

    Args:
        path: The config below configs/.
        scale: Of this run.
        compile: For ``PerformanceHook``.
        precise: In fp32, contiguous, with plain BatchNorm, to be compared with peers.
        options: Variables of the config.
    """

    def __init__(
        self,
        path: str,
        scale: Scale,
        compile: dict | None = None,
        precise: bool = False,
        **options: Any,
    ) -> None:
        cfg = our_config(path, scale, **options)
        runtime = dict(cfg.default_hooks.performance) | {"compile": compile}
        runtime.pop("type")
        if precise:
            cfg.model.bn_splits = 1
            cfg.optim_wrapper.type = "OptimWrapper"
            for name in ("dtype", "loss_scale"):
                cfg.optim_wrapper.pop(name, None)
            runtime = {"tf32": "none"}
        torch.manual_seed(0)
        with DefaultScope.overwrite_default_scope("mmssl_ext"):
            self.model: Any = MODELS.build(cfg.model)
            self.model.init_weights()
            self.model.to(scale.device).train()
            self.wrapper = build_optim_wrapper(self.model, cfg.optim_wrapper)
        silent = SimpleNamespace(info=print)
        self.runner = SimpleNamespace(
            model=self.model,
            optim_wrapper=self.wrapper,
            _train_loop=None,
            logger=silent,
        )
        self.hook = PerformanceHook(**runtime)
        self.hook.before_run(self.runner)
        self.hook.before_train(self.runner)
        if self.hook.compile is not None:
            self.wrapper.zero_grad()

    def step(self, batch: dict) -> object:
        """What the Runner does in an iteration."""
        self.hook.before_train_iter(self.runner, 0, batch)
        return self.model.train_step(dict(batch), self.wrapper)

    def parts(self, batch: dict) -> object:
        """Query forward and backward, key forward, optimizer; no more than that."""
        model = self.model
        with self.wrapper.optim_context(model):
            views = model.data_preprocessor(dict(batch), True)["inputs"]
            q = model.neck(model.backbone(model.prepare(views[0])))[0]
            with torch.no_grad():
                key = model.target.backbone(model.prepare(views[1]))
                k = model.target.neck(key)[0]
            loss = (normalize(q.float(), dim=1) * normalize(k.float(), dim=1)).sum()
        return self.wrapper.update_params(loss)


def our_step(path: str, scale: Scale, batch: dict, **options: Any) -> Step:
    """A step of one of our configs."""
    return functools.partial(Ours(path, scale, **options).step, batch)
