"""Weights of a first convolution for images with another number of bands."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from .match import Match

#: The remedy, for messages.
OPTION = "adapt_input"


def first_convolution(match: Match) -> str | None:
    """The one tensor that differs, by nothing but the number of its input channels.

    None where there is no such tensor, or more differs.
    """
    report = match.report
    if len(report.mismatched) != 1 or report.missing or report.unexpected:
        return None
    (name,) = report.mismatched
    given, wanted = match.found[name].shape, match.model[name].shape
    rest = (0, 2, 3)
    alike = len(given) == len(wanted) == 4 and all(given[i] == wanted[i] for i in rest)
    return name if alike else None


def adapted(weight: Tensor, channels: int) -> Tensor:
    """Give each of ``channels`` bands the mean of the kernels over the old ones.

    Scaled by old / new number, so that bands of equal values give what they gave
    before: with weights of RGB, what a gray image gives.

    Args:
        weight: O x C x h x w.
        channels: Number of bands.

    Returns:
        O x ``channels`` x h x w.
    """
    mean = weight.mean(1, keepdim=True) * (weight.shape[1] / channels)
    return mean.repeat(1, channels, 1, 1)


def explained(match: Match) -> list[str]:
    """A sentence on the bands, where nothing else differs."""
    if (name := first_convolution(match)) is None:
        return []
    given, wanted = (x[name].shape[1] for x in (match.found, match.model))
    return [
        f"The weights are of images with {given} bands, the model takes {wanted}: set "
        f"{OPTION}=True beside the checkpoint (of the backbone's init_cfg, in transfer "
        f"configs a variable) to start every band with the mean of the {given} kernels "
        "in the first convolution, or take weights of a pretraining on these bands."
    ]


def with_adapted(match: Match) -> Match:
    """The same match with the first convolution adapted, where that is all."""
    if (name := first_convolution(match)) is None:
        return match
    tensors: Mapping[str, Tensor] = match.weights.tensors
    place = match.prefix + name
    channels = match.model[name].shape[1]
    changed = {**tensors, place: adapted(tensors[place], channels)}
    return Match(match.model, match.weights._replace(tensors=changed), match.prefix)
