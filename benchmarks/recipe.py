"""What decides a result: the settings of a run, as a hash that a CSV can keep.

A recipe is what a config says about model, data, schedule, measurement and seed; not
where files lie, how many workers read them, what is logged and how often is saved. Rows
of trainings hold the hash of their recipe (`recipe`), and where they start from a
pretraining also that of the pretraining (`source_recipe`). The tests compare both with
what the configs say today: a result whose settings were changed afterwards is noticed.

Data lie where `DEMO_ROOT` and its like say; a recipe knows the default places only.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from mmengine.config import Config

from mmssl_ext.chain.spec import PRETRAIN, Chain, read_chain
from mmssl_ext.run.launch import load_config

REPOSITORY = Path(__file__).resolve().parents[1]
Row = Mapping[str, str]

KEPT = (
    *("model", "train_dataloader", "train_cfg", "optim_wrapper", "param_scheduler"),
    *("val_dataloader", "val_evaluator", "val_cfg"),
    *("test_dataloader", "test_evaluator", "test_cfg", "custom_hooks", "randomness"),
)
# Speed and where data come from; and of the kNN hook, when it looks.
IGNORED = {
    *("num_workers", "persistent_workers", "pin_memory", "prefetch_factor", "timeout"),
    *("download", "verify_md5"),
}
KNN_IGNORED = {"interval", "before_train"}
# Settings that configs came to spell out: as if they were absent.
DEFAULTS = {"augment_on": "worker", "strides": (1, 2, 2, 2), "img_suffix": ".jpg"}
# Types that took the place of others and give the same figures where those were right,
# and, in pretraining, a crop that the square demo scenes pass unchanged. The tests
# compare them on demo scenes, and the methods with a record of version 0.1.
REPLACED = {
    "QueueSoftmax": "InstanceHead",
    "MultiLevelSoftmax": "MultiLevelHead",
    "mmssl_ext.CocoDetectionDataset": "CocoDataset",
    "mmssl_ext.SegmentationMetric": "IoUMetric",
}
QUEUE_METHODS = (
    *("MoCo", "CO2", "DenseCL", "RegionCLM", "RegionCLD", "DetCo", "InterCLR"),
)
SQUARE = "data/demo"  # a root below which all images are square
# Environment variable of a data root and where the configs look without it.
ROOTS = {
    "DEMO_ROOT": "data/demo",
    "CIFAR10_ROOT": "data/cifar10",
    "BCCD_ROOT": "data/bccd_voc",
}


def settings(cfg: Config) -> dict[str, Any]:
    """Return what decides the result of a config that was loaded or dumped."""
    found = cfg.to_dict()
    kept = {key: found[key] for key in KEPT if found.get(key) is not None}
    if knn := (found.get("default_hooks") or {}).get("knn"):
        kept["knn"] = {k: v for k, v in knn.items() if k not in KNN_IGNORED}
    plain = _as_measured(_plain(kept))
    if "checkpoint" in found:  # a transfer: what it starts from is its source
        plain["model"]["backbone"].pop("init_cfg", None)
    elif SQUARE in json.dumps(plain):
        plain = _uncropped(plain)
    return plain


def recipe(cfg: Config) -> str:
    """Return the hash of a config's settings, 12 digits."""
    text = json.dumps(settings(cfg), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _plain(node: Any) -> Any:
    """Leave out what is ignored or a default; name data by their default places."""
    if isinstance(node, dict):
        return {
            key: _plain(value)
            for key, value in node.items()
            if key not in IGNORED and DEFAULTS.get(key, ...) != value
        }
    if isinstance(node, list | tuple):
        return [_plain(value) for value in node]
    for name, default in ROOTS.items():
        root = os.environ.get(name)
        if root and isinstance(node, str) and Path(node).is_relative_to(root):
            return str(default / Path(node).relative_to(root))
    return REPLACED.get(node, node) if isinstance(node, str) else node


def _as_measured(plain: dict[str, Any]) -> dict[str, Any]:
    """Write the seven methods as version 0.1 did, whose steps are those of today.

    The size of the embedding stood there twice; a hook held the weight of the dense
    loss at 0 at first, and another filled InterCLR's bank.
    """
    model, kind = plain.get("model") or {}, (plain.get("model") or {}).get("type")
    if kind not in QUEUE_METHODS:
        return plain
    model["feat_dim"] = 128
    if "consistency" in model:
        model["consistency"]["type"] = "ConsistencyHead"
    share = model.get("loss_lambda")
    if isinstance(share, dict):
        model["loss_lambda"] = share["end"]
    if isinstance(share, dict) and kind in ("DenseCL", "RegionCLD"):
        hook = {"type": "DenseCLHook", "start_iters": share["until"]}
        plain["custom_hooks"] = [hook, *plain.get("custom_hooks", [])]
    if kind == "InterCLR":
        model["inter_head"]["type"] = "MarginHead"
        images = model.pop("images")
        (hook,) = plain["custom_hooks"]
        hook["pipeline"] = images.pop("pipeline")
        hook["dataloader"] = images
        hook["warmup_epochs"] = share["until"]
    return plain


def _uncropped(node: Any) -> Any:
    """Leave the square out that is cut from an image resized to that square."""
    if isinstance(node, dict):
        return {key: _uncropped(value) for key, value in node.items()}
    if not isinstance(node, list):
        return node
    return [
        _uncropped(step)
        for before, step in zip([None, *node], node, strict=False)
        if not (
            isinstance(before, dict)
            and before.get("type") == "ResizeShort"
            and step == before | {"type": "CenterCrop"}
        )
    ]


# --- what the configs say today of the rows of a CSV


CHAINS = {
    "demo_chain_cpu": "configs/chains/demo_full.py",
    "demo_knn_cpu": "configs/chains/demo_full.py",  # the curve of its pretraining
    "demo_methods_seeds_cpu": "configs/chains/demo_methods.py",
    "cell_contents_cpu": "configs/chains/demo_methods.py",  # of its pretrainings
    "bccd_voc_cpu": "benchmarks/bccd.py",
    "bccd_random_avx2_cpu": "benchmarks/bccd.py",
}
UNTRAINED = "none"  # recipe of new weights
AUGMENT_ON: dict[str, dict] = {
    "worker": {},
    "device": {"augment_on": "device", "model.data_preprocessor.batched": True},
    "pil": {"train_dataloader.dataset.pipeline.0.backend": "pil"},
}
# CO2 alone was first trained with half of the width, and for longer
HALF = {
    "max_epochs": 12,
    "base_channels": 32,
    "strides": (2, 2, 2, 2),
    "default_hooks.knn.interval": 3,
}


def options(name: str, row: Row) -> dict[str, Any]:
    """Return the options with which the run of a row was started."""
    given: dict[str, Any] = {"randomness.seed": int(row["seed"])}
    if name.startswith("cifar10_"):  # the configs leave it to the device since
        given |= {"cpu": True, "augment_on": "worker"}
    if name == "cifar10_interclr_12epochs_cpu":
        given["max_epochs"] = 12
        if row["method"] == "InterCLR":
            given["warmup_epochs"] = 4
    if name == "cifar10_co2_r18_cpu":
        given |= HALF
    if name == "demo_augment_on_cpu":
        given |= {"max_epochs": 15} | AUGMENT_ON[row["run"].split("_")[0]]
    return given


def present(name: str, row: Row) -> tuple[str, str]:
    """Return recipe and source recipe that the configs give for a row today."""
    with at_home():
        if name not in CHAINS:
            # Rows of version 0.1 name configs that `cpu=True` has replaced.
            config = row["config"].replace("-cpu.py", ".py")
            (path,) = REPOSITORY.glob(f"configs/*/{config}")
            return _run(path, json.dumps(options(name, row))), ""
        chain = chain_of(name, row.get("method", ""), row["seed"])
        if row.get("transfer", PRETRAIN) == PRETRAIN:
            untrained = row.get("method") == "random"
            return UNTRAINED if untrained else _stage(chain, PRETRAIN), ""
        source = row.get("source") or row["method"]
        if source not in chain.sources:  # a file; the recipe is that from any other
            source = "random"
        stage = chain.stage(f"{row['transfer']}-{source}-seed{row['seed']}")
        pretrained = stage.checkpoint == PRETRAIN
        origin = _stage(chain, PRETRAIN) if pretrained else ""
        return _stage(chain, stage.name), origin


@cache
def _run(path: Path, given: str) -> str:
    return recipe(load_config(path, json.loads(given)))


@cache
def chain_of(name: str, method: str, seed: str) -> Chain:
    """The chain that a CSV's rows of one method and seed come from."""
    with at_home(METHOD=method or None, SEED=seed):
        return read_chain(CHAINS[name])


_HASHES: dict[tuple[int, str], str] = {}


def _stage(chain: Chain, name: str) -> str:
    key = id(chain), name
    if key not in _HASHES:
        _HASHES[key] = recipe(chain.stage(name).load())
    return _HASHES[key]


@contextmanager
def at_home(**values: str | None) -> Iterator[None]:
    """Work in the repository, without data roots and with other variables set."""
    values = dict.fromkeys(ROOTS) | values
    folder = Path.cwd()
    before = {name: os.environ.pop(name, None) for name in values}
    os.environ.update({k: v for k, v in values.items() if v is not None})
    os.chdir(REPOSITORY)
    try:
        yield
    finally:
        os.chdir(folder)
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
