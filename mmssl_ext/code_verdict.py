"""Whether the prototypes of a method have collapsed, in words."""

from __future__ import annotations

from collections.abc import Mapping

USED_BELOW = 0.05
"""Share of the prototypes below which too few are used."""
ALIKE_ABOVE = 0.99
"""Entropy of a code, as a share of ln M, above which all prototypes are alike."""


def code_verdict(figures: Mapping[str, float]) -> str:
    """What is wrong with the codes of a method with prototypes, "" where nothing is.

    Args:
        figures: ``prototypes_used`` and ``code_entropy`` of
            :class:`~mmssl_ext.models.memory.CodeUsage`.
    """
    used, entropy = figures["prototypes_used"], figures["code_entropy"]
    if entropy > ALIKE_ABOVE:
        return (
            "The prototypes have collapsed: all are alike to every image. The entropy "
            f"of a code is {entropy:.3f} of the highest that there is."
        )
    if used < USED_BELOW:
        return (
            f"{used:.1%} of the prototypes are used: nearly all images are assigned to "
            "the same few."
        )
    return ""
