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


def check_values(
    tensors: Mapping[str, Any],
    path: str | Path,
    floating: Collection[str] = (),
    prefix: str = "",
) -> None:
    """Refuse weights that cannot be those of a working network.

    Args:
        tensors: By name; what is no tensor is passed over.
        path: Of their file, for the message.
        floating: Names of those that must hold floating-point numbers, besides all
            weights, biases and running statistics.
        prefix: What stands before the names in the file, for the message.

    Raises:
        CheckpointFileError: The message names the tensors and what is wrong with them.
    """
    if faults := value_faults(tensors, floating, prefix):
        raise CheckpointFileError(
            f"{path} holds weights that no working network has: {'; '.join(faults)}. "
            "Use an earlier checkpoint, or copy or convert the file again."
        )


def state_faults(checkpoint: Mapping[str, Any]) -> list[str]:
    """NaN and infinity in what a run goes on from, optimizer included; else nothing."""
    parts = {k: v for k, v in checkpoint.items() if k not in _BESIDE}
    return _grouped((name, _not_finite(value)) for name, value in _named(parts))


def value_faults(
    tensors: Mapping[str, Any], floating: Collection[str] = (), prefix: str = ""
) -> list[str]:
    """What is wrong with the values of tensors, a phrase for each kind; else nothing.

    The arguments are those of :func:`check_values`.
    """
    found = {n: v for n, v in tensors.items() if isinstance(v, Tensor) and v.numel()}
    faults = {n: _fault(n, v, found, n in floating) for n, v in found.items()}
    if not any(faults.values()):
        # Some start at zero on purpose, but no network has most of them there.
        for kind, many in (("scales of norms", False), ("weights", True)):
            scales = [n for n, v in found.items() if (v.dim() > 1) == many]
            scales = [n for n in scales if n.endswith("weight")]
            zero = [n for n in scales if not found[n].any()]
            if 2 * len(zero) > len(scales):
                faults |= dict.fromkeys(zero, f"all 0, as are most {kind}")
    return _grouped((prefix + name, what) for name, what in faults.items())


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
    # What is at one value throughout passes nothing on: a convolution to its norm,
    # a norm at 0 to anything but the sum of its block.
    many = value.dim() > 1
    alike = low == high and value.numel() > 1 and (many or low == 0)
    nexts = [tensors[n] for n in _followers(name) if n in tensors] if alike else []
    if any((following.dim() == 1) == many for following in nexts):
        return f"{low:.3g} throughout"
    return ""


def _followers(name: str) -> list[str]:
    """What may follow a convolution or a norm by the names of ResNets."""
    found = re.fullmatch(r"((?:.*\.)?)(conv|bn|)(\d*)\.weight", name)
    if found is None:
        return []
    block, kind, number = found.groups()
    if kind == "conv":
        return [f"{block}{norm}{number}.weight" for norm in ("bn", "gn", "norm")]
    if not number or not (kind or re.search(r"(^|\.)(downsample|stem)\.$", block)):
        return []
    following = f"{block}{kind and 'conv'}{int(number) + 1}.weight"
    return [following, f"{block}layer1.0.conv1.weight"]


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
        fits = value.element_size() < 8 or value.float().isfinite().all()
        return "" if fits else "infinite in float32"
    if value.isnan().any():
        return "NaN"
    if not value.isinf().any():
        return ""
    if value.max() == 0 and not value[value.isfinite()].any():
        return ""  # a mask of attention: 0 or -inf
    half = " (beyond the range of float16)" if value.dtype == torch.float16 else ""
    return f"infinite{half}"


def _named(value: Any, name: str = "") -> Iterator[tuple[str, Tensor]]:
    """Every tensor in nested data, by its dotted name."""
    if isinstance(value, Tensor):
        yield name, value
    if not isinstance(value, (Mapping, list, tuple)):
        return
    for key, item in value.items() if isinstance(value, Mapping) else enumerate(value):
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
