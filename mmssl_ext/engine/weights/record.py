"""What a backbone's weights were trained as, beside its tensors; compared on loading.

Strides, stem and normalisation leave no trace in names and shapes, but with others the
same weights compute other features. A checkpoint's ``meta["weights"]`` holds them as
plain data::

    {"backbone": {"type": "ResNet", "depth": 18, "base_channels": 32,
                  "strides": [1, 2, 2, 1], "dilations": [1, 1, 1, 1],
                  "style": "pytorch", "stem": "7x7, stride 2, max pooling"},
     "input": {"mean": [...], "std": [...], "channel_order": "RGB"}}

mean and std are in units of 0 to 255. Where a file has none, the config in its ``meta``
tells some of it.
"""

from __future__ import annotations

import ast
import contextlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

USUAL_STRIDES = [1, 2, 2, 2]
USUAL_STEM = "7x7, stride 2, max pooling"
_IMAGENET = {"mean": [123.675, 116.28, 103.53], "std": [58.395, 57.12, 57.375]}
_OURS = "MultiViewPreprocessor"  # its images are RGB
_SAME = 1e-3  # relative difference below which mean and std are alike

Record = dict[str, dict[str, Any]]


def describe_weights(model: nn.Module) -> Record:
    """The record of a model with a ``backbone``; what cannot be told is left out."""
    backbone = getattr(model, "backbone", None)
    return {
        "backbone": describe_backbone(backbone) if backbone is not None else {},
        "input": describe_input(getattr(model, "data_preprocessor", None)),
    }


def describe_backbone(module: nn.Module) -> dict[str, Any]:
    """Facts on a ResNet of the OpenMMLab toolboxes; of others, their type."""
    facts: dict[str, Any] = {"type": type(module).__name__}
    for name in ("depth", "base_channels"):
        if isinstance(value := getattr(module, name, None), (int, str)):
            facts[name] = value
    for name in ("strides", "dilations"):
        value = getattr(module, name, None)
        if isinstance(value, (tuple, list)) and all(type(x) is int for x in value):
            facts[name] = list(value)
    if (style := bottleneck_style(module)) is not None:
        facts["style"] = style
    stem = getattr(module, "conv1", None)
    if isinstance(stem, nn.Conv2d):
        (height, width), stride = stem.kernel_size, stem.stride[0]
        pooled = "max pooling" if hasattr(module, "maxpool") else "no pooling"
        facts["stem"] = f"{height}x{width}, stride {stride}, {pooled}"
    return facts


def describe_input(preprocessor: Any) -> dict[str, Any]:
    """Mean, std and order of the channels that a data preprocessor makes."""
    facts: dict[str, Any] = {}
    for name in ("mean", "std"):
        value = getattr(preprocessor, name, None)
        if isinstance(value, torch.Tensor) and value.numel() in (1, 3):
            # As a config says it, and not what float32 makes of that.
            values = [float(f"{x:.6g}") for x in value.flatten().tolist()]
            facts[name] = values * (3 // len(values))
    if facts:
        # mmdet's and mmseg's name; mmpretrain's may be given either by the loader.
        names = ("_channel_conversion", "channel_conversion")
        known = [vars(preprocessor)[n] for n in names if n in vars(preprocessor)]
        if known or type(preprocessor).__name__ == _OURS:
            facts["channel_order"] = "RGB" if all(known) else "BGR"
    return facts


def bottleneck_style(module: nn.Module) -> str | None:
    """Where the bottlenecks stride, ``pytorch`` or ``caffe``; None where none does."""
    for block in module.modules():
        if hasattr(block, "conv3") and hasattr(block, "conv2"):
            for name, style in (("conv1", "caffe"), ("conv2", "pytorch")):
                conv = getattr(block, name, None)
                if isinstance(conv, nn.Conv2d) and conv.stride[0] > 1:
                    return style
    return None


def find_record(meta: Any) -> Record:
    """The record in a checkpoint's ``meta``, or what its config tells; else empty."""
    record = meta.get("weights") if isinstance(meta, Mapping) else None
    if not isinstance(record, Mapping):
        text = meta.get("cfg") if isinstance(meta, Mapping) else None
        record = _from_config(text) if isinstance(text, str) else {}
    parts = {part: record.get(part) for part in ("backbone", "input")}
    return {
        part: {n: v for n, v in found.items() if _is_fact(n, v)}
        if isinstance(found, Mapping)
        else {}
        for part, found in parts.items()
    }


def _is_fact(name: Any, value: Any) -> bool:
    """Whether a value is of the kind that this module writes; files are anyone's."""
    if name in ("mean", "std", "strides", "dilations"):
        kinds = (int, float) if name in ("mean", "std") else (int,)
        return isinstance(value, list) and all(type(x) in kinds for x in value)
    if name in ("type", "style", "stem", "channel_order"):
        return isinstance(value, str)
    return True


def structure_changes(record: Record, now: Mapping[str, Any]) -> list[str]:
    """What differs in a backbone so that the same weights compute something else.

    Args:
        record: Of the file.
        now: Of :func:`describe_backbone`.

    Returns:
        Phrases like ``strides (1, 2, 2, 1) in the file, (1, 2, 2, 2) here``. A stage
        that is dilated on one side in place of its stride is no difference: so
        segmentors use a backbone.
    """
    before, texts = record["backbone"], []
    strides = [x.get("strides") or [] for x in (before, now)]
    if _strides_differ(strides, [x.get("dilations") or [] for x in (before, now)]):
        texts.append("strides {} in the file, {} here".format(*map(_tuple, strides)))
    stems = before.get("stem"), now.get("stem")
    if None not in stems and stems[0] != stems[1]:
        texts.append(f"a stem of {stems[0]} in the file, of {stems[1]} here")
    return texts


def input_changes(record: Record, now: Mapping[str, Any]) -> list[str]:
    """What differs in the images that a model gets from those of its weights' training.

    Args:
        record: Of the weights' file.
        now: Of :func:`describe_input`.

    Returns:
        Phrases like those of :func:`structure_changes`.
    """
    before, texts = record["input"], []
    for name in ("mean", "std"):
        values = before.get(name), now.get(name)
        if None not in values and not _alike(*values):
            texts.append("{} {} in the file, {} here".format(name, *map(_list, values)))
    orders = before.get("channel_order"), now.get("channel_order")
    if None not in orders and orders[0] != orders[1]:
        texts.append(f"channels {orders[0]} in the file, {orders[1]} here")
    return texts


def _strides_differ(strides: list[list[int]], dilations: list[list[int]]) -> bool:
    for i, (before, now) in enumerate(zip(*strides)):  # noqa: B905  # fewer stages
        dilated = any(i < len(x) and x[i] > 1 for x in dilations)
        if before != now and not dilated:
            return True
    return False


def _alike(one: Any, other: Any) -> bool:
    return len(one) == len(other) and all(
        abs(a - b) <= _SAME * max(1.0, abs(a), abs(b))
        for a, b in zip(one, other, strict=True)
    )


def _tuple(values: Any) -> str:
    return f"({', '.join(map(str, values))})"


def _list(values: Any) -> str:
    return f"[{', '.join(f'{x:.6g}' for x in values)}]"


def _from_config(text: str) -> dict[str, Any]:
    """The record as far as the text of a config tells it; nothing of it is run."""
    try:
        statements = ast.parse(text).body
    except (SyntaxError, ValueError, RecursionError):
        return {}
    names: dict[str, Any] = {
        statement.targets[0].id: _value(statement.value)
        for statement in statements
        if isinstance(statement, ast.Assign)
        and isinstance(statement.targets[0], ast.Name)
        and statement.targets[0].id in ("model", "data_preprocessor")
    }
    model = names.get("model")
    model = model if isinstance(model, dict) else {}
    preprocessor = model.get("data_preprocessor") or names.get("data_preprocessor")
    return {
        "backbone": _backbone_of(model.get("backbone")),
        "input": _input_of(preprocessor),
    }


def _backbone_of(config: Any) -> dict[str, Any]:
    kind = config.get("type") if isinstance(config, dict) else None
    if not isinstance(kind, str) or "ResNe" not in kind:
        return {}
    facts = {"type": kind.rpartition(".")[2], "strides": USUAL_STRIDES}
    for name in ("strides", "dilations"):
        value = config.get(name)
        if isinstance(value, list) and all(type(x) is int for x in value):
            facts[name] = value
    return facts


def _input_of(config: Any) -> dict[str, Any]:
    config = config if isinstance(config, dict) else {}
    kind = str(config.get("type") or "").rpartition(".")[2]
    ours = kind == _OURS
    facts: dict[str, Any] = dict(_IMAGENET) if ours else {}
    for name in ("mean", "std"):
        value = config.get(name)
        numbers = isinstance(value, list) and len(value) == 3
        if numbers and all(type(x) in (int, float) for x in value):
            facts[name] = value
    if facts:
        turned = any(config.get(n) for n in ("to_rgb", "bgr_to_rgb"))
        facts["channel_order"] = "RGB" if ours or turned else "BGR"
    return facts


def _value(node: ast.AST) -> Any:
    """The plain data that an expression of a dumped config stands for; None else."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        if node.func.id != "dict":
            return None
        return {k.arg: _value(k.value) for k in node.keywords if k.arg}
    if isinstance(node, ast.Dict):
        keys = [getattr(key, "value", None) for key in node.keys]
        return dict(zip(keys, map(_value, node.values), strict=True))
    if isinstance(node, (ast.List, ast.Tuple)):
        return [_value(item) for item in node.elts]
    with contextlib.suppress(ValueError, TypeError):
        return ast.literal_eval(node)
    return None
