"""A training step of every method on the demo scenes against MoCo v2's.

The models are those of `configs/chains/demo_methods.py`, past every warm-up, with a
full batch of noise of the shapes that the method's pipeline gives; BG-Aug and CCOP,
which need masks or proposals, are left out. The arms run in turn, by processor time;
the peak is what one step adds to the memory of a fresh process. An epoch has as many
steps with every method. Run:

    python benchmarks/cost.py
    python benchmarks/cost.py --imagenet    # by ImageNet's configs, those of PASSES

The latter takes 8 images of 224 pixels, and 32 of 96 with ResNet-18, and writes
`imagenet_methods_cost_cpu.csv`, where each method has the bound that follows from its
forward and backward passes and what it compares with a queue or bank.
"""

import argparse
import functools
import sys
import time
from collections.abc import Callable
from typing import Any

import common
import methods
import torch
from mmengine.config import Config
from mmengine.dataset import default_collate
from mmengine.optim import OptimWrapper
from mmengine.registry import init_default_scope
from mmpretrain.structures import DataSample
from PIL import Image
from recipe import at_home

from mmssl_ext.chain.spec import PRETRAIN, read_chain
from mmssl_ext.datasets.base import SSLDataset
from mmssl_ext.registry import MODELS, TRANSFORMS
from mmssl_ext.run.launch import import_modules, load_config

NAME, NAME_IMAGENET = "demo_methods_cost_cpu", "imagenet_methods_cost_cpu"
IMAGES = 4000  # of the scenes
SIZES = (
    {"depth": 50, "image_size": 224, "batch_size": 8},
    {"depth": 18, "image_size": 96, "batch_size": 32},
)
# A forward of both in million multiplications, from the sizes of the layers.
FORWARD = {50: 4090, 18: 333}
# Forwards that a method takes, a backward being two, and the numbers in queue or bank
# that an image is multiplied with, in millions. MoCo: query 1 + 2, key 1; the queue of
# 65,536 x 128 for the loss and its gradient. Soft targets: the key's share and the mean
# key besides, ReSSL's with 131,072 x 512. MSF: two directions with 128,000 x 512.
PASSES = {
    "mocov2": (4, 16.8),
    "ascl": (4, 33.6),
    "ressl": (4, 268),
    "mochi": (4, 16.8),
    "xmoco": (4, 16.8),
    "ifnd": (4, 16.8),
    "unmix_mocov2": (7, 33.6),
    "msf": (4, 131),
    "cmsf-2q": (4, 196),
    "tkc": (6, 50.3),
}
FEWER = {"ifnd": {"levels": (100, 500, 1000)}}  # clusters; a step does not see them


def bound(method: str, depth: int) -> float:
    """Multiplications of a step over those of MoCo v2's."""
    passes, compared = PASSES[method]
    base, base_compared = PASSES["mocov2"]
    of_base = base * FORWARD[depth] + base_compared
    return round((passes * FORWARD[depth] + compared) / of_base, 2)


def pretraining(method: str, size: dict[str, int]) -> Config:
    """The config of a method's pretraining; without ``size`` that of the scenes."""
    if size:
        (path,) = (common.REPOSITORY / "configs").glob(f"*/{method}_r50_imagenet.py")
        return import_modules(load_config(path, {**size, **FEWER.get(method, {})}))
    with at_home(METHOD=method):
        chain = read_chain(methods.CHAIN)
        return import_modules(chain.stage(PRETRAIN).load())


class One(SSLDataset):
    """A photograph that is no file."""

    def describe(self, row: int) -> dict[str, Any]:
        """Noise, whatever the row."""
        noise = torch.randint(256, (256, 256, 3), dtype=torch.uint8).numpy()
        return {"img_path": "noise", "img": Image.fromarray(noise)}


def batch_of(cfg: Config) -> dict[str, Any]:
    """A whole batch as the loader gives it."""
    transforms = [TRANSFORMS.build(t) for t in cfg.train_dataloader.dataset.pipeline]
    images = One(1, transforms)
    size = cfg.train_dataloader.batch_size
    batch = default_collate([images[0] for _ in range(size)])
    samples = [DataSample(metainfo={"sample_idx": i}) for i in range(size)]
    return batch | {"data_samples": samples}


def build(method: str, size: dict[str, int]) -> tuple[torch.nn.Module, dict[str, Any]]:
    """Model past the warm-up, with all it remembers, and a batch."""
    init_default_scope("mmssl_ext")
    torch.manual_seed(0)
    cfg = pretraining(method, size)
    model = MODELS.build(cfg.model)
    model.init_weights()
    model.train()
    model.clock.total, model.clock.epoch_length = 10**6, 1000
    model.clock.set(500_000)  # in epoch 500
    if cfg.model.type == "CMSF":
        model.compare.constraint.prepare(IMAGES)
    if cfg.model.type == "IFND":
        model.compare.prepare(IMAGES)
        model.compare.cluster(torch.randn(IMAGES, model.dim), 0.5)
    if cfg.model.type == "ProPos":
        model.terms.scattering.clusters.prepare(IMAGES)
        features = torch.randn(IMAGES, model.dim)
        model.terms.scattering.clusters.cluster(features)
    common.let_remember(model, IMAGES)
    idle = [name for name, weight in model.weights.items() if not weight(model.clock)]
    assert not idle, f"{method} was to be measured with its {idle}"
    return model, batch_of(cfg)


def step_of(method: str, size: dict[str, int]) -> Callable[[], object]:
    """``train_step`` as the Runner calls it."""
    model, batch = build(method, size)
    trained = [p for p in model.parameters() if p.requires_grad]
    wrapper = OptimWrapper(torch.optim.SGD(trained, lr=1e-3, momentum=0.9))
    return lambda: model.train_step(dict(batch), wrapper)


def measure(names: tuple[str, ...], blocks: int, size: dict[str, int]) -> list[dict]:
    """Rows of all methods."""
    steps = functools.partial(step_of, size=size)
    peaks = common.peaks_of_steps(step_of, names, size)
    arms = {name: steps(name) for name in names}
    seconds = common.time_arms(arms, blocks, 1, clock=time.process_time)
    rows = []
    for name in names:
        value, low, high = common.ratio(seconds[name], seconds["mocov2"])
        row = {
            **{"method": name, "value": round(value, 2)},
            **{"low": round(low, 2), "high": round(high, 2)},
            **{"ms": common.median_ms(seconds[name])},
            **{"peak_mb": peaks[name]},
        }
        if size:
            row = {**size, **row, "bound": bound(name, size["depth"])}
        rows.append(row)
    return rows


def main(args: list[str] | None = None) -> int:
    """Time and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    without = ("random", "bgswaps", "ccop")
    known = tuple(
        name
        for name in methods.METHODS
        if name not in without and not name.endswith("_112")
    )
    parser.add_argument("--methods", nargs="+", choices=known)
    parser.add_argument("--imagenet", action="store_true", help="ImageNet's configs")
    parser.add_argument("--blocks", type=int, default=9)
    chosen = parser.parse_args(args)
    torch.set_num_threads(1)
    if chosen.imagenet:
        common.keep_freed_memory()
    wanted = chosen.methods or (tuple(PASSES) if chosen.imagenet else known)
    names = ("mocov2", *(name for name in wanted if name != "mocov2"))
    sizes = SIZES if chosen.imagenet else ({},)
    rows = [row for size in sizes for row in measure(names, chosen.blocks, size)]
    common.write_rows(NAME_IMAGENET if chosen.imagenet else NAME, rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
