"""Where a network stands in a file of weights, and what of it fits a model."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import NoReturn

import torch
from torch import Tensor

from mmssl_ext.errors import CheckpointFileError

from .files import State, Weights, some
from .report import compare, explain
from .values import check_values

# A momentum, target or teacher network: mmpretrain's and official MoCo's encoder_k,
# BYOL's target_net, DINO's teacher.
_KEY_ENCODER = re.compile(
    r"(^|[._])(encoder_k|key|momentum|target|teacher|ema)([._]|$)"
)
# What a term of a method keeps for itself: teachers, earlier states of the network. It
# is what is meant only where nothing else fits, as CCOP's pyramid.
_OF_A_TERM = re.compile(r"(^|\.)terms\.")
_KINDS = {
    "query": "a query encoder",
    "key": "a momentum encoder, target network or teacher",
}


class Match:
    """The tensors of a model and those below a prefix of a file.

    Args:
        model: State that is to be filled.
        weights: Of the file.
        prefix: What stands before the model's names there.
        whole: As for :func:`compare`.

    Attributes:
        found: The tensors below the prefix.
        report: What both have in common.
    """

    def __init__(
        self,
        model: Mapping[str, Tensor],
        weights: Weights,
        prefix: str = "",
        whole: bool = False,
    ) -> None:
        self.model, self.weights, self.prefix = model, weights, prefix
        self.found = below(weights.tensors, prefix)
        self.report = compare(model, self.found, whole)

    def part(self, start: str) -> Match:
        """The same of the model's tensors whose names begin so."""
        wanted = {n: v for n, v in self.model.items() if n.startswith(start)}
        return Match(wanted, self.weights, self.prefix)

    def sound(self) -> State:
        """The tensors that matched.

        Raises:
            CheckpointFileError: Some hold what no working network has.
        """
        found = {name: self.found[name] for name in self.report.matched}
        floating = {n for n in found if self.model[n].is_floating_point()}
        check_values(found, self.weights.path, floating, self.prefix)
        return found

    def partial(self, who: str) -> str:
        """A sentence on what matched and what did not."""
        report = self.report
        missing = "" if report.filled else " What is missing starts at random."
        return f"{who}: {report.summary()}.{missing}{report.details()}"

    def causes(self, encoder: str = "query") -> list[str]:
        """Why not everything matches: sentences, as far as the names tell."""
        found = explain(self.model, self.found)
        likely = best_prefix(self.model, self.weights.tensors, encoder)
        if likely not in (None, self.prefix):
            found.append(f"The likely prefix is '{likely}'.")
        return found or ["It is not of the same architecture."]

    def refuse(self, who: str, *causes: str) -> NoReturn:
        """Raise a CheckpointFileError with what did not match."""
        raise CheckpointFileError(
            " ".join([f"{who}: {self.report.summary()}.", *filter(None, causes)])
            + self.report.details()
            + _both_sides(self.weights.tensors, self.model)
        )


def below(tensors: Mapping[str, Tensor], prefix: str) -> State:
    """The tensors below a prefix, without it."""
    return {n[len(prefix) :]: v for n, v in tensors.items() if n.startswith(prefix)}


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
            + _both_sides(tensors, names)
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
    found = [x for x in found if not _OF_A_TERM.search(x[0])] or found
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


def _both_sides(tensors: Iterable[str], names: Iterable[str]) -> str:
    """Some names of the file and of the model, a line each."""
    return (
        f"\n  the file's names begin: {some(tensors)}"
        f"\n  the model's names begin: {some(names)}"
    )
