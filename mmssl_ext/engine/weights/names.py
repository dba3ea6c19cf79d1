"""Where a network stands in a file of weights: the prefix of its names."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from mmssl_ext.errors import CheckpointFileError

from .files import State, Weights, some

# A momentum, target or teacher network: mmpretrain's and official MoCo's encoder_k,
# BYOL's target_net, DINO's teacher.
_KEY_ENCODER = re.compile(
    r"(^|[._])(encoder_k|key|momentum|target|teacher|ema)([._]|$)"
)
_KINDS = {
    "query": "a query encoder",
    "key": "a momentum encoder, target network or teacher",
}


def below(tensors: Mapping[str, Tensor], prefix: str) -> State:
    """The tensors below a prefix, without it."""
    return {n[len(prefix) :]: v for n, v in tensors.items() if n.startswith(prefix)}


def both_sides(tensors: Iterable[str], names: Iterable[str]) -> str:
    """Some names of the file and of the model, a line each."""
    return (
        f"\n  the file's names begin: {some(tensors)}"
        f"\n  the model's names begin: {some(names)}"
    )


def find_prefix(names: Iterable[str], weights: Weights, encoder: str) -> str:
    """What stands before the model's names in a file.

    Raises:
        CheckpointFileError: No name of the wanted encoder occurs, or two different
            networks fit alike.
    """
    names, tensors = list(names), weights.tensors
    ranked = _ranked(names, tensors, encoder)
    if not ranked:
        raise CheckpointFileError(
            f"0 of {len(names)} backbone tensors matched: {weights.path} holds no "
            f"{encoder} encoder of this model.{_elsewhere(names, tensors, encoder)}"
            + both_sides(tensors, names)
        )
    (best, count), *rest = ranked
    for other, its_count in rest:
        pairs = ((tensors.get(best + n), tensors.get(other + n)) for n in names)
        if its_count == count and not all(_same(*pair) for pair in pairs):
            raise CheckpointFileError(
                f"{weights.path} holds two different networks that fit, at '{best}' "
                f"and '{other}'. Say which: prefix='{best}'."
            )
    return best


def best_prefix(names: Iterable[str], tensors: State, encoder: str) -> str | None:
    """The prefix below which most of the names stand, or None."""
    ranked = _ranked(names, tensors, encoder)
    return ranked[0][0] if ranked else None


def _ranked(
    names: Iterable[str], tensors: State, encoder: str
) -> list[tuple[str, int]]:
    """Prefixes of one encoder with the number of names below them, best first."""
    wanted, counts = set(names), Counter[str]()
    for key in tensors:
        parts = key.split(".")
        for i in range(len(parts)):
            if ".".join(parts[i:]) in wanted:
                counts["".join(f"{part}." for part in parts[:i])] += 1
    is_key = encoder == "key"
    found = [x for x in counts.items() if bool(_KEY_ENCODER.search(x[0])) == is_key]
    return sorted(found, key=lambda item: (-item[1], len(item[0])))


def _elsewhere(names: list[str], tensors: State, encoder: str) -> str:
    """Where the file holds the other encoder, and what to set to take that."""
    other = "query" if encoder == "key" else "key"
    found: list[str] = []
    for prefix, _ in _ranked(names, tensors, other):
        if not prefix.startswith(tuple(found)):  # a block of it is no encoder
            found.append(prefix)
    places = " or ".join(repr(prefix) for prefix in found[:3])
    if not found:
        return ""
    return (
        f" It holds {_KINDS[other]} under {places}: set encoder='{other}' to take that."
    )


def _same(one: Tensor | None, other: Tensor | None) -> bool:
    if one is None or other is None:
        return one is other
    return torch.equal(one, other)
