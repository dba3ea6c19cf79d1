"""What the ranks decide together, between two steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from .ranks import current

T = TypeVar("T")


def agree(code: int) -> int:
    """Return the largest of the codes that the ranks give.

    Every rank must call it equally often. It goes over a gloo group of its own, so it
    never waits for a GPU, and at most ``env_cfg.dist_cfg.timeout`` for another rank.

    Args:
        code: 0 go on, 1 a signal asked to stop, 2 the data loader failed.

    Raises:
        RankError: Another rank is gone, failed or does not come.
    """
    ranks = current()
    return code if ranks is None else ranks.maximum(code)


def share(function: Callable[[], T]) -> T:
    """Call a function on rank 0 only and return on every rank what it returned there.

    Raises:
        RankError: Another rank is gone, failed or does not come.
    """
    ranks = current()
    return function() if ranks is None else ranks.from_first(function)
