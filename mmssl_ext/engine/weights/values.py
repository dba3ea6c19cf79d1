"""Weights by their values: what no sound network holds is found before it is used.

A file can have every name and shape and still be no use: NaN after a divergence,
infinities where float16 overflowed, zeros where nothing was copied, integers after a
quantisation. Such tensors match by name and shape. What a fresh or trained network does
hold is let pass: biases, statistics and the last scale of a residual branch at zero,
counters, positional embeddings at zero, convolutions that start at zero on purpose (of
offsets, of non-local blocks).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mmssl_ext.errors import CheckpointFileError

_LISTED = 3  # names that a sentence shows
_LIMIT = 1e18  # a product of two such values overflows float32
_BESIDE = ("training_state", "message_hub", "meta")  # no state of the training itself
_LEARNT = ("weight", "bias", "running_mean", "running_var")
# A convolution and the norms that may follow it: at one value throughout it passes
# nothing on.
_CONV = re.compile(r"(?P<block>^|.*\.)conv(?P<number>\d*)\.weight$")
_NORMS = ("bn", "gn", "norm")
_SEQUENCE = re.compile(
    r"(?P<block>(?:^|.*\.)(?:downsample|stem)\.)(?P<number>\d+)\.weight$"
)
_NORM = re.compile(r"^(?P<block>(?:.*\.)?)bn(?P<number>\d)\.weight$")
_MEND = "Use an earlier checkpoint, or copy or convert the file again."


def check_values(
    tensors: Mapping[str, Any], path: str | Path, floating: Collection[str] = ()
) -> None:
    """Refuse weights that cannot be those of a working network.

    Args:
        tensors: By name; what is no tensor is passed over.
        path: Of their file, for the message.
        floating: Names of those that must hold floating-point numbers, besides all
            weights, biases and running statistics.

    Raises:
        CheckpointFileError: The message names the tensors and what is wrong with them.
    """
    _refuse(value_faults(tensors, floating), path)


def state_faults(checkpoint: Mapping[str, Any]) -> list[str]:
    """NaN and infinity in what a run goes on from, optimizer included; else nothing."""
    parts = {k: v for k, v in checkpoint.items() if k not in _BESIDE}
    return _grouped((name, _not_finite(value)) for name, value in _named(parts))


def value_faults(
    tensors: Mapping[str, Any], floating: Collection[str] = ()
) -> list[str]:
    """What is wrong with the values of tensors, a phrase for each kind; else nothing.

    The arguments are those of :func:`check_values`.
    """
    found = {n: v for n, v in tensors.items() if isinstance(v, Tensor) and v.numel()}
    faults = [
        (name, _fault(name, value, found, name in floating))
        for name, value in found.items()
    ]
    if not any(what for _, what in faults):
        # Some start at zero on purpose, but no network has most of them there.
        for kind, many in (("scales of norms", False), ("weights", True)):
            of_kind = {
                n: v
                for n, v in found.items()
                if n.endswith("weight") and (v.dim() > 1) == many
            }
            zero = [n for n, v in of_kind.items() if not v.any()]
            if 2 * len(zero) > len(of_kind):
                faults += [(n, f"all 0, as are most {kind}") for n in zero]
    return _grouped(faults)


def _fault(
    name: str, value: Tensor, tensors: Mapping[str, Tensor], floating: bool
) -> str:
    """What is wrong with one tensor by itself."""
    last = name.rpartition(".")[2]
    if value.layout is not torch.strided:
        return "a sparse tensor"
    if not _is_float(value):
        kind = str(value.dtype).removeprefix("torch.")
        wrong = floating or last in _LEARNT
        return f"{kind} in place of floating-point numbers" if wrong else ""
    if (fault := _not_finite(value)) or last not in _LEARNT:
        return fault
    low, high = (float(x) for x in value.float().aminmax())
    if max(-low, high) > _LIMIT:
        return f"values beyond {_LIMIT:.0e}, whose products overflow"
    if last == "running_var" and (low < 0 or high == 0):
        return "negative variances" if low < 0 else "a variance of 0 in every channel"
    if low == high and value.numel() > 1:
        followed = value.dim() > 1 and _is_normed(name, tensors)
        if followed or (low == 0 and _is_inner_norm(name, tensors)):
            return f"{low:.3g} throughout"
    return ""


def _is_normed(name: str, tensors: Mapping[str, Tensor]) -> bool:
    """Whether a norm follows a convolution, by the names of ResNets."""
    if found := _CONV.match(name):
        norms = [f"{found['block']}{kind}{found['number']}.weight" for kind in _NORMS]
        return any(norm in tensors for norm in norms)
    found = _SEQUENCE.match(name)
    following = found and f"{found['block']}{int(found['number']) + 1}.weight"
    return following in tensors and tensors[str(following)].dim() == 1


def _is_inner_norm(name: str, tensors: Mapping[str, Tensor]) -> bool:
    """Whether a norm of a ResNet is followed by more than the sum of its block."""
    if (found := _NORM.match(name)) is None:
        return False
    block, number = found["block"], int(found["number"])
    following = (f"conv{number + 1}.weight", "layer1.0.conv1.weight")
    return any(block + n in tensors for n in following)


def _is_float(value: Tensor) -> bool:
    """Whether numbers that a network computes with; 8 bits are a quantisation."""
    return value.is_floating_point() and value.element_size() > 1


def _not_finite(value: Tensor) -> str:
    if not _is_float(value) or not value.numel():
        return ""
    if value.layout is not torch.strided:
        value = value.coalesce().values() if value.is_sparse else value.values()
    # One pass decides: the sum is not finite if an element is not, or on an overflow.
    if torch.isfinite(value.sum(dtype=torch.float64)):
        return "" if value.element_size() < 8 else _overflow(value)
    if value.isnan().any():
        return "NaN"
    if not value.isinf().any():
        return ""
    if value.max() == 0 and not value[value.isfinite()].any():
        return ""  # a mask of attention: 0 or -inf
    half = " (beyond the range of float16)" if value.dtype == torch.float16 else ""
    return f"infinite{half}"


def _overflow(value: Tensor) -> str:
    finite = value.float().isfinite().all()
    return "" if finite else "infinite in float32"


def _named(value: Any, name: str = "") -> Iterator[tuple[str, Tensor]]:
    """Every tensor in nested data, by its dotted name."""
    if isinstance(value, Tensor):
        yield name, value
        return
    parts: Iterable[tuple[Any, Any]] = ()
    if isinstance(value, Mapping):
        parts = value.items()
    elif isinstance(value, (list, tuple)):
        parts = enumerate(value)
    for key, item in parts:
        yield from _named(item, f"{name}.{key}" if name else str(key))


def _grouped(faults: Iterable[tuple[str, str]]) -> list[str]:
    kinds: dict[str, list[str]] = {}
    for name, what in faults:
        if what:
            kinds.setdefault(what, []).append(name)
    return [
        f"{', '.join(names[:_LISTED])}"
        f"{f' and {len(names) - _LISTED} more' if len(names) > _LISTED else ''}: {what}"
        for what, names in kinds.items()
    ]


def _refuse(faults: list[str], path: str | Path) -> None:
    if faults:
        raise CheckpointFileError(
            f"{path} holds weights that no working network has: {'; '.join(faults)}. "
            f"{_MEND}"
        )
