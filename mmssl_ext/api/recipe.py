"""The config of a pretraining on images of one's own, as a file that people read.

No import here needs torch.
"""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from mmssl_ext.backbones import Backbone
from mmssl_ext.packaged import SCOPE

from .methods import METHODS
from .settings import Setting

_SHORT = 10_000  # steps: a slower target would hardly move in as few


@dataclass(frozen=True)
class Plan:
    """What a run is about to do.

    Attributes:
        method: Key of :data:`~mmssl_ext.api.methods.METHODS`.
        backbone: Of the network.
        dataset: Config of the dataset, without pipeline.
        images: How many there are.
        settings: Of :func:`~mmssl_ext.api.settings.choose`.
        init: Starting weights, None for random ones.
        teachers: Configs of the teachers of SimReg.
        seed: Of everything that is random.
        command: By which it was asked for.
    """

    method: str
    backbone: Backbone
    dataset: dict[str, Any]
    images: int
    settings: list[Setting]
    init: str | None = None
    teachers: list[dict[str, Any]] = field(default_factory=list)
    seed: int = 0
    command: str = ""

    def value(self, name: str) -> Any:
        """A setting's value."""
        return next(x.value for x in self.settings if x.name == name)

    @property
    def steps_per_epoch(self) -> int:
        """Of the loader, which drops the rest."""
        return self.images // self.value("batch_size")

    @property
    def steps(self) -> int:
        """Of the whole training."""
        return self.value("max_epochs") * self.steps_per_epoch

    @property
    def clusters(self) -> int:
        """Of InterCLR's pseudo-labels."""
        return max(2, self.images // 128)

    @property
    def title(self) -> str:
        """Method, backbone and length in a line."""
        return (
            f"{METHODS[self.method].title} on {self.images:,} images, "
            f"{self.backbone.title}, {self.steps:,} steps"
        )


def write_recipe(plan: Plan) -> str:
    """The text of the config; it needs the package and nothing else."""
    recipe = METHODS[plan.method]
    lines = [setting.line() for setting in plan.settings]
    lines += [f"{name} = {value!r}" for name, value in recipe.options]
    lines += [f"{name} = {value!r}  # {why}" for name, value, why in _extras(plan)]
    lines += [f"{name} = {_literal(x)}" for name, x in plan.backbone.variables.items()]
    blocks = {"train_dataloader": {"dataset": plan.dataset}, "model": _model(plan)}
    blocks["default_hooks"] = _hooks(plan)
    blocks["randomness"] = {"seed": plan.seed}
    text = [
        f'"""{plan.title}.\n',
        *textwrap.wrap(
            f"Written by: {plan.command}",
            88,
            break_on_hyphens=False,
            break_long_words=False,
        ),
        "",
        "What is assigned here replaces the base's value. To run it again",
        "or change it: mmssl-ext train FILE --work-dir FOLDER",
        '"""\n',
        f'_base_ = "{SCOPE}{recipe.config}"\n',
        *lines,
        "",
        *(f"{name} = {_shown(value)}" for name, value in blocks.items() if value),
    ]
    return "\n".join(text) + "\n"


def _extras(plan: Plan) -> Iterator[tuple[str, Any, str]]:
    """Variables of some methods that lengths and sizes decide, with the reason."""
    method, size, steps = plan.method, plan.value("image_size"), plan.steps
    if METHODS[method].queue and steps < _SHORT:
        yield "momentum", 0.99, "a target of 0.999 would hardly move in so few steps"
    if method in ("densecl", "regioncld"):
        yield "start_iters", steps // 20, "the dense loss starts after a twentieth"
    stride = plan.backbone.stride
    if method.startswith("regioncl") and stride != 32:
        yield "stride", stride, "pixels of a cell"
    if method.startswith("regioncl") and (size, stride) != (224, 32):
        cells = size // stride
        low = max(1, round(cells * 3 / 7))
        high = max(low, min(cells - 1, round(cells * 5 / 7)))
        yield "cells", (low, high), f"sides of a region, of {cells} cells"
    if method == "detco" and size != 224:
        yield "patch_source", size, "px, cut into 3 x 3"
        yield "patch_size", size // 4, "px of a patch"
    if method == "ressl":  # five epochs of ImageNet's may be longer than all of it
        warmup = min(5, plan.value("max_epochs") // 10)
        yield "lr_warmup", warmup, "epochs, a tenth"
    if method == "mochi":
        hardest = max(1, plan.value("queue_len") // 64)
        yield "num_hardest", hardest, "a 64th of the queue is mixed"
        warmup = plan.value("max_epochs") // 20
        yield "warmup_epochs", warmup, "of MoCo alone, a twentieth"
    if method == "ifnd":
        few, some, many = (max(2, plan.images // n) for n in (1280, 256, 51))
        yield "levels", (few, some, many), "clusters of about 1280, 256 and 51 images"
        epochs = plan.value("max_epochs")
        yield "warmup_epochs", epochs // 10, "of MoCo alone, a tenth"
        yield "interval", max(1, epochs // 40), "epochs between two clusterings"
    if method in ("swav", "mira"):
        number = min(3000, max(16, plan.images // 32))
        yield "num_prototypes", number, "one for 32 images"
    if method in ("dino", "scfs"):
        sizes = (20_000, 1024), (50_000, 2048), (100_000, 4096), (200_000, 16384)
        number = next((k for most, k in sizes if plan.images < most), 65536)
        yield "num_prototypes", number, "as suits so many images"
        if steps < _SHORT:
            yield "momentum", 0.99, "a teacher of 0.996 would hardly move at first"
    if method == "tkc":
        interval = max(1, plan.value("max_epochs") // 20)
        yield "interval", interval, "a twentieth of the epochs between two teachers"
    if method == "propos":
        clusters, epochs = max(2, plan.clusters), plan.value("max_epochs")
        yield "num_clusters", clusters, "one for about 128 images"
        yield "num_prototype_keys", 4 * clusters, "earlier targets of each cluster"
        yield "scattering_weight", 0.1, "as for small sets in the paper"
        yield "sigma", 0.001, "likewise"
        yield "warmup_epochs", epochs // 20, "of BYOL alone, a twentieth"
        yield "interval", max(1, epochs // 200), "epochs between two clusterings"
    if method == "interclr":
        yield "num_clusters", plan.clusters, "one for about 128 images"
        yield "negatives", 0.1, "share of the images"
        yield "pool", 0.5, "share of the images that they are taken from"
        warmup = plan.value("max_epochs") // 10
        yield "warmup_epochs", warmup, "of MoCo alone, a tenth"


#: Stages of a ResNet that a student learns from the teacher besides, as detectors use
#: several; 0 to 3.
STAGES = (1, 2, 3)


def _model(plan: Plan) -> dict[str, Any]:
    found: dict[str, Any] = {}
    backbone: dict[str, Any] = {}
    if plan.init is not None:
        load = {"type": "mmssl_ext.PretrainedBackbone", "checkpoint": plan.init}
        backbone["init_cfg"] = load
    if plan.method == "interclr":
        size = min(20, max(1, plan.images // plan.clusters // 4))
        found["pseudo_labels"] = {"min_size": size}
    if plan.teachers:
        first, *more = plan.teachers
        found["teacher"] = [first, *more] if more else {"_delete_": True, **first}
        taught = (first.get("backbone") or {}).get("out_indices")
        if taught == STAGES and plan.backbone.is_resnet:
            backbone["out_indices"] = STAGES
            levels = tuple((i, i) for i in range(len(STAGES)))
            regression = {"type": "LocalRegression", "levels": levels}
            found["terms"] = [{**regression, "standardise": True}]
    return {"backbone": backbone, **found} if backbone else found


def _hooks(plan: Plan) -> dict[str, Any]:
    """Ten checkpoints, figures often enough, and no kNN, which needs labels."""
    epochs, often = plan.value("max_epochs"), max(1, min(50, plan.steps // 100))
    return {
        "knn": None,
        "checkpoint": {"interval": max(1, epochs // 10)},
        "logger": {"interval": often},
        "collapse": {"interval": often},
    }


def _literal(value: Any) -> str:
    """A plain value; strings in double quotes, as in all configs."""
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=not value.isprintable())
    return repr(value)


def _shown(value: Any, depth: int = 0) -> str:
    """A value as people write it in configs: ``dict(name=value)``."""
    inner, outer = "    " * (depth + 1), "    " * depth
    if isinstance(value, Mapping):
        named = all(isinstance(k, str) and k.isidentifier() for k in value)
        items = [
            f"{k}={_shown(v, depth + 1)}"
            if named
            else f"{_literal(k)}: {_shown(v, depth + 1)}"
            for k, v in value.items()
        ]
        start, end = ("dict(", ")") if named else ("{", "}")
    elif isinstance(value, (list, tuple)) and any(
        isinstance(item, Mapping) for item in value
    ):
        items = [_shown(item, depth + 1) for item in value]
        start, end = "[", "]"
    else:
        return _literal(value)
    line = f"{start}{', '.join(items)}{end}"
    if len(line) + len(outer) <= 72 and "\n" not in line:
        return line
    return "\n".join([start, *(f"{inner}{item}," for item in items), outer + end])
