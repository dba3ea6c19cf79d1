"""What is called otherwise than in version 0.1: all that a later version adapts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mmengine.config import Config
from torch import Tensor

from . import runs
from .steps import CASES, Case, Version

# Tensors and modules of a model, the beginning of the name now and then; nothing where
# there was no such thing. The first that fits counts.
TENSORS: dict[str, str] = {
    "clock.": "",
    "target.": "encoder_k.",
    "compare.queue.": "queue.",
    "compare.predictor.": "head.predictor.",
    "terms.dense.queue.": "dense_queue.",
    "terms.region.sampler.": "region.",
    "terms.inter.bank.": "bank.",
    "terms.inter.labels.": "pseudo_labels.",
}
# Losses and other figures of a step, now and then.
LOSSES: dict[str, str] = {
    "raw_instance": "nce_instance",
    "raw_dense": "nce_dense",
    "raw_inter": "nce_inter",
}
# Cases and runs that go other ways by intention, and after how many iterations: now
# keys are enqueued once for each step of the optimizer.
AGREE: dict[str, int] = {"MoCo, accumulated": 1, "MoCo_accumulated": 6}
# Figures that are not computed now where their loss has the weight 0, by case.
LEFT_OUT: dict[str, set[str]] = {
    "CO2, weight 0": {"loss_consistency"},
    "InterCLR, lambda 0": {"loss_inter", "nce_inter", "num_negatives"},
}
# Changes of a case's config, by the name of the case, where they are said otherwise.
CHANGES: dict[str, dict] = {}


def old_name(name: str) -> str:
    """What version 0.1 called a tensor or module of the model."""
    for new, old in TENSORS.items():
        if name.startswith(new):
            return old and old + name.removeprefix(new)
    return name


def _fill(model: Any, features: Tensor) -> None:
    model.terms.inter.fill(features)


def _gather(model: Any, done: int, of: int) -> None:
    model.clock.accumulation = of
    assert model.clock.gathered == done


NOW = Version(old_name, _fill, _gather)


def case_of(name: str) -> Case:
    """A case of ``steps.CASES`` as it is said now."""
    case = CASES[name]
    return case._replace(changes=CHANGES.get(name, case.changes))


def config_of(name: str, root: Path, work_dir: Path) -> Config:
    """The config of a run of ``runs.RUNS`` as it is said now."""
    cfg = runs.config_of(name, root, work_dir)
    # Weights that changed in the course of the training were the business of hooks.
    if name == "DenseCL":
        (hook,) = cfg.pop("custom_hooks")
        until = {"until": hook["start_iters"]}
        cfg.model.loss_lambda = {"kind": "step", "start": 0, "end": 0.5, **until}
    if name == "InterCLR":
        (hook,) = cfg.custom_hooks
        until = {"until": hook.pop("warmup_epochs"), "unit": "epoch"}
        cfg.model.loss_lambda = {"kind": "step", "start": 0, "end": 0.25, **until}
        cfg.model.images = {"pipeline": hook.pop("pipeline"), **hook.pop("dataloader")}
        cfg.model.inter_head.pop("type")
    return cfg
