"""Where a network stands in a file of weights: the prefix of its names."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from mmssl_ext.errors import CheckpointFileError

from .files import State, some

# A momentum, target or teacher network: mmpretrain's and official MoCo's encoder_k,
# BYOL's target_net, DINO's teacher.
_KEY_ENCODER = re.compile(
    r"(^|[._])(encoder_k|key|momentum|target|teacher|ema)([._]|$)"
)
_OTHER = {"query": "key", "key": "query"}


def below(tensors: Mapping[str, Tensor], prefix: str) -> State:
    """The tensors below a prefix, without it."""
    return {n[len(prefix) :]: v for n, v in tensors.items() if n.startswith(prefix)}


def find_prefix(
    names: Iterable[str], tensors: State, encoder: str, path: str | Path
) -> str:
    """What stands before the model's names in a file.

    Raises:
        CheckpointFileError: No name of the wanted encoder occurs, or two different
            networks fit alike.
    """
    names = list(names)
    ranked = _ranked(names, tensors, encoder)
    if not ranked:
        raise CheckpointFileError(
            f"0 of {len(names)} backbone tensors matched: {path} holds no "
            f"{encoder} encoder of this model.{_elsewhere(names, tensors, encoder)}"
            f"\n  the file's names begin: {some(tensors)}"
            f"\n  the model's names begin: {some(names)}"
        )
    (best, count), *rest = ranked
    for prefix, other_count in rest:
        if other_count == count and not _same(tensors, names, best, prefix):
            raise CheckpointFileError(
                f"{path} holds two different networks that fit, at '{best}' and "
                f"'{prefix}'. Say which: prefix='{best}'."
            )
    return best


def best_prefix(names: Iterable[str], tensors: State, encoder: str) -> str | None:
    """The prefix below which most of the names stand, or None."""
    ranked = _ranked(list(names), tensors, encoder)
    return ranked[0][0] if ranked else None


def _ranked(names: list[str], tensors: State, encoder: str) -> list[tuple[str, int]]:
    """Prefixes of one encoder with the number of names below them, best first."""
    wanted = set(names)
    counts: dict[str, int] = {}
    for key in tensors:
        parts = key.split(".")
        for i in range(len(parts)):
            if ".".join(parts[i:]) in wanted:
                prefix = "".join(f"{part}." for part in parts[:i])
                if bool(_KEY_ENCODER.search(prefix)) == (encoder == "key"):
                    counts[prefix] = counts.get(prefix, 0) + 1
    return sorted(counts.items(), key=lambda item: (-item[1], len(item[0])))


def _elsewhere(names: list[str], tensors: State, encoder: str) -> str:
    """Where the file holds the other encoder, and what to set to take that."""
    other = _OTHER[encoder]
    found: list[str] = []
    for prefix, _ in _ranked(names, tensors, other):
        if not prefix.startswith(tuple(found)):  # a block of it is no encoder
            found.append(prefix)
    if found:
        kind = _kind(found[0]) if other == "key" else "a query encoder"
        places = " or ".join(repr(prefix) for prefix in found[:3])
        return f" It holds {kind} under {places}: set encoder='{other}' to take that."
    return f" {text}" if (text := explain_numbers(tensors)) else ""


def explain_numbers(tensors: Iterable[str]) -> str:
    """What to do with names that are numbers of an unknown network, if they are."""
    if not any(re.search(r"(^|\.)\d+\.\d+\.conv1\.weight$", name) for name in tensors):
        return ""
    return (
        "The file's names are numbers of an nn.Sequential, and not of torchvision's "
        "ResNet: rename them (layer1.0.conv1.weight) where the model was built."
    )


def _kind(prefix: str) -> str:
    if "teacher" in prefix:
        return "a teacher (as of DINO)"
    return "a target network (as of BYOL)" if "target" in prefix else "a key encoder"


def _same(tensors: State, names: list[str], one: str, other: str) -> bool:
    pairs = ((tensors.get(one + n), tensors.get(other + n)) for n in names)
    return all(
        a is b or (a is not None and b is not None and torch.equal(a, b))
        for a, b in pairs
    )
