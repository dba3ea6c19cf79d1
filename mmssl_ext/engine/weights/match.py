"""A model beside what stands for it in a file: what fits is taken, or refused."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NoReturn

from torch import Tensor

from mmssl_ext.errors import CheckpointFileError

from .files import State, Weights
from .names import below, best_prefix, both_sides
from .report import compare, explain
from .values import check_values


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
            + both_sides(self.weights.tensors, self.model)
        )
