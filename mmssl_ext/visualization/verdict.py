"""Whether a run without labels has learned something, as far as its logs can tell."""

from __future__ import annotations

import math
from typing import NamedTuple

from mmssl_ext.code_verdict import code_verdict

from .logs import RunLog
from .panels import COLLAPSE_BELOW

#: Distance of the views of an image over that of different images: they count as told
#: apart below this, and if it has fallen to this share of its start.
TOLD_APART, FALLEN_TO = 0.7, 0.8


class Verdict(NamedTuple):
    """A word, and the sentence that gives its reason."""

    word: str  # learning, unclear or collapsed
    because: str

    def __str__(self) -> str:
        """The sentence as a report begins with it."""
        return f"{self.word.capitalize()}: {self.because}"


def verdict(log: RunLog) -> Verdict | None:
    """Judge a run by the health of its embeddings; None where it has not trained.

    With the spread s of unit embeddings (1: even over the sphere) the mean squared
    distance of different images is about ``2 s^2``; alignment is that of two views of
    one image. Their ratio needs no labels and no scale.
    """
    if not log.train:
        return None
    losses = [value for value in log.series("loss")[1] if math.isfinite(value)]
    spread = log.series("health/std_ratio")[1]
    near = log.series("health/alignment")[1]
    if spread and spread[-1] < COLLAPSE_BELOW:
        return Verdict(
            "collapsed",
            "all images have nearly the same embedding, whose spread is "
            f"{spread[-1]:.2f} of an even one, so the network tells nothing apart.",
        )
    if wrong := wrong_codes(log):
        return Verdict("collapsed", wrong[0].lower() + wrong[1:])
    if not losses:
        return Verdict("unclear", "no finite loss is in the logs.")
    if min(len(spread), len(near)) < 2:
        return Verdict(
            "unclear",
            f"the loss went from {losses[0]:.3f} to {losses[-1]:.3f}, which alone "
            "proves nothing, and the logs hold no two measures of the embeddings "
            "(CollapseMonitorHook writes them).",
        )
    first, last = (near[i] / max(2 * spread[i] ** 2, 1e-12) for i in (0, -1))
    told = (
        f"two views of one image are {last:.2f} times as far from each other as "
        f"different images ({first:.2f} times at first)"
    )
    if last < TOLD_APART and last < FALLEN_TO * first:
        return Verdict(
            "learning",
            f"{told}, and embeddings keep {spread[-1]:.2f} of an even spread. How much "
            "that helps your task, only a transfer or labelled images can say.",
        )
    return Verdict("unclear", f"{told}, which is not yet a clear gap.")


def wrong_codes(log: RunLog) -> str:
    """What is wrong with the prototypes at the end, "" where nothing is or none are."""
    names = ("prototypes_used", "code_entropy")
    found = {name: log.series(f"health/{name}")[1] for name in names}
    if not all(found.values()):
        return ""
    return code_verdict({name: values[-1] for name, values in found.items()})
