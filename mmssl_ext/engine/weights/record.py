"""What a backbone's weights were trained as, beside its tensors; compared on loading.

Strides, stem and normalisation leave no trace in names and shapes, but with others the
same weights compute other features. A checkpoint's ``meta["weights"]`` holds them as
plain data::

    {"backbone": {"type": "ResNet", "depth": 18, "base_channels": 32,
                  "strides": [1, 2, 2, 1], "dilations": [1, 1, 1, 1],
                  "style": "pytorch", "stem": "7x7, stride 2, max pooling"},
     "input": {"mean": [...], "std": [...], "channel_order": "RGB"}}

mean and std are in units of 0 to 255. Images that were read as bands have a value for
each, and in place of the order ``bands`` and ``value_range`` as ``DecodeBands`` was
told them, the range as ``[low, ..., high, ...]``. Where a file has none, the config in
its ``meta`` tells some of it.
"""

from __future__ import annotations

import ast
import contextlib
import json
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mmssl_ext.compat import swaps_channels

USUAL_STRIDES = [1, 2, 2, 2]
USUAL_STEM = "7x7, stride 2, max pooling"
_IMAGENET = {"mean": [123.675, 116.28, 103.53], "std": [58.395, 57.12, 57.375]}
_OURS = "MultiViewPreprocessor"  # its images are RGB
_SAME = 1e-3  # relative difference below which mean and std are alike
_LISTS = {"mean": float, "std": float, "strides": int, "dilations": int}
_LISTS |= {"bands": int, "value_range": float}
_TEXTS = ("type", "style", "stem", "channel_order")

Record = dict[str, dict[str, Any]]


def describe_weights(model: nn.Module) -> Record:
    """The record of a model with a ``backbone``; what cannot be told is left out."""
    return {
        "backbone": describe_backbone(getattr(model, "backbone", None)),
        "input": describe_input(getattr(model, "data_preprocessor", None)),
    }


def describe_backbone(module: Any) -> dict[str, Any]:
    """Facts on a ResNet of the OpenMMLab toolboxes; of others, their type."""
    if module is None:
        return {}
    facts: dict[str, Any] = {"type": type(module).__name__}
    for name in ("depth", "base_channels", "strides", "dilations"):
        value = getattr(module, name, None)
        value = list(value) if isinstance(value, tuple) else value
        if isinstance(value, (int, str, list)) and _is_fact(name, value):
            facts[name] = value
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
        if isinstance(value, torch.Tensor) and value.numel():
            # As a config says it, and not what float32 makes of that.
            values = [float(f"{x:.6g}") for x in value.flatten().tolist()]
            one_for_all = len(values) == 1 and not hasattr(preprocessor, "bands")
            facts[name] = values * (3 if one_for_all else 1)
    if (bands := getattr(preprocessor, "bands", None)) is not None:
        facts["bands"] = [*range(bands)] if isinstance(bands, int) else [*bands]
        if (given := getattr(preprocessor, "value_range", None)) is not None:
            facts["value_range"] = given.ravel().tolist()
    elif facts:
        ours = type(preprocessor).__name__ == _OURS
        if (swaps := ours or swaps_channels(preprocessor)) is not None:
            facts["channel_order"] = "RGB" if swaps else "BGR"
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
    meta = as_dict(meta)
    record = _dict(meta.get("weights")) or _from_config(meta.get("cfg"))
    return {
        part: {n: v for n, v in _dict(record.get(part)).items() if _is_fact(n, v)}
        for part in ("backbone", "input")
    }


def as_dict(meta: Any) -> dict[str, Any]:
    """A checkpoint's ``meta``; in formats that hold text alone it is JSON."""
    if isinstance(meta, str):
        with contextlib.suppress(ValueError):
            meta = json.loads(meta)
    return _dict(meta)


def find_backbone(meta: Any) -> tuple[dict[str, Any], str]:
    """The config of the backbone in a checkpoint's ``meta``, and the backbone's name.

    Plain data; nothing of it is run, and what a config computes is None. Both are empty
    where they are not told.
    """
    meta = as_dict(meta)
    given = _plain_settings(meta.get("cfg"))
    config = _dict(_dict(given.get("model")).get("backbone")) or _dict(
        meta.get("backbone")
    )
    name = given.get("backbone") or meta.get("network")
    return config, name if isinstance(name, str) else ""


def structure_text(record: Record, backbone: Any, path: str | Path) -> str:
    """What differs in a backbone so that the same weights compute something else.

    A stage that is dilated on one side in place of its stride is no difference: so
    segmentors use a backbone.

    Args:
        record: Of the weights' file.
        backbone: Module that takes them.
        path: Of the file, for the message.

    Returns:
        A sentence that holds ``strides (1, 2, 2, 1) in the file, (1, 2, 2, 2) here``
        and the like, or nothing.
    """
    before, now, found = record["backbone"], describe_backbone(backbone), []
    strides = [x.get("strides") or [] for x in (before, now)]
    dilations = [x.get("dilations") or [] for x in (before, now)]
    dilated = {i for x in dilations for i, dilation in enumerate(x) if dilation > 1}
    stages = enumerate(zip(*strides))  # noqa: B905  # one side may have fewer
    if any(one != other and i not in dilated for i, (one, other) in stages):
        found.append("strides {} in the file, {} here".format(*map(_shown, strides)))
    stems = before.get("stem"), now.get("stem")
    if None not in stems and stems[0] != stems[1]:
        found.append("a stem of {} in the file, of {} here".format(*stems))
    if not found:
        return ""
    return (
        f"The weights of {path} compute other features in this "
        f"{type(backbone).__name__} than they were trained for: {'; '.join(found)}. "
        "Set the options of model.backbone to those of the file."
    )


def input_text(record: Record, preprocessor: Any, path: str | Path) -> str:
    """What differs in the images that a model gets from those of its weights' training.

    Arguments and result are like those of :func:`structure_text`.
    """
    before, now, found = record["input"], describe_input(preprocessor), []
    for name in ("mean", "std"):
        sides = before.get(name), now.get(name)
        if None not in sides and not _alike(*sides):
            shown = (f"[{_shown(side)[1:-1]}]" for side in sides)
            found.append("{} {} in the file, {} here".format(name, *shown))
    for name in ("bands", "value_range") if before and "bands" in now else ():
        sides = before.get(name), now.get(name)
        if sides[0] != sides[1]:
            found.append("{} {} in the file, {} here".format(name, *sides))
    orders = before.get("channel_order"), now.get("channel_order")
    if None not in orders and orders[0] != orders[1]:
        found.append("channels {} in the file, {} here".format(*orders))
    if not found:
        return ""
    return (
        f"The weights of {path} were trained on images prepared in another way: "
        f"{'; '.join(found)}. Set mean, std and the order of the channels of "
        "model.data_preprocessor to those of the file."
    )


def _alike(one: Any, other: Any) -> bool:
    return len(one) == len(other) and all(
        abs(a - b) <= _SAME * max(1.0, abs(a), abs(b))
        for a, b in zip(one, other, strict=True)
    )


def _shown(numbers: Any) -> str:
    return f"({', '.join(f'{x:.6g}' for x in numbers)})"


def _is_fact(name: Any, value: Any) -> bool:
    """Whether a value is of the kind that this module writes; files are anyone's."""
    if kind := _LISTS.get(name):
        return isinstance(value, list) and all(type(x) in (int, kind) for x in value)
    return isinstance(value, str) or name not in _TEXTS


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _from_config(text: Any) -> Record:
    """The record as far as the text of a config tells it; nothing of it is run."""
    given = _plain_settings(text)
    model = _dict(given.get("model"))
    images = model.get("data_preprocessor") or given.get("data_preprocessor")
    backbone, images = _dict(model.get("backbone")), _dict(images)
    record: Record = {}
    if "ResNe" in (kind := str(backbone.get("type")).rpartition(".")[2]):
        record["backbone"] = {"type": kind, "strides": USUAL_STRIDES}
        record["backbone"] |= _lists(backbone, ("strides", "dilations"))
    ours = str(images.get("type")).rpartition(".")[2] == _OURS
    facts = (_IMAGENET if ours else {}) | _lists(images, ("mean", "std"))
    if facts:
        swaps = ours or any(images.get(n) for n in ("to_rgb", "bgr_to_rgb"))
        facts["channel_order"] = "RGB" if swaps else "BGR"
        record["input"] = facts
    return record


def _plain_settings(text: Any) -> dict[str, Any]:
    """What the text of a config assigns, as far as it is plain data."""
    given: dict[str, Any] = {}
    with contextlib.suppress(SyntaxError, ValueError, TypeError, RecursionError):
        for statement in _PlainDicts().visit(ast.parse(text)).body:
            if isinstance(statement, ast.Assign):
                with contextlib.suppress(ValueError, TypeError):
                    value = ast.literal_eval(statement.value)
                    given[ast.unparse(statement.targets[0])] = value
    return given


def _lists(config: dict[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    found = {n: config[n] for n in names if isinstance(config.get(n), (list, tuple))}
    return {n: list(v) for n, v in found.items() if len(v) > 1}


class _PlainDicts(ast.NodeTransformer):
    """Makes ``{"a": 1}`` of ``dict(a=1)``, and None of other calls."""

    def visit_Call(self, node: ast.Call) -> ast.AST:
        self.generic_visit(node)
        if ast.unparse(node.func) != "dict":
            return ast.Constant(None)
        keys: list[ast.expr | None] = [ast.Constant(k.arg) for k in node.keywords]
        return ast.Dict(keys, [k.value for k in node.keywords])
