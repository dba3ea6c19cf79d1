"""Classes that a metric says nothing of, because the ground truth lacks them."""

from __future__ import annotations

from collections.abc import Sequence

from mmengine.logging import MessageHub, MMLogger

from mmssl_ext.engine.monitor.result import ABSENT


def note_absent(absent: Sequence[str], total: int, what: str, metric: str) -> None:
    """Name the classes in the log, and for ``result.json``.

    Args:
        absent: Their names; none is fine.
        total: Number of all classes.
        what: What there is none of, such as "object".
        metric: The mean that tells nothing of them.
    """
    MessageHub.get_current_instance().update_info(ABSENT, list(absent))
    if absent:
        MMLogger.get_current_instance().warning(
            f"No {what} of {', '.join(absent)} in the ground truth: {metric} tells of "
            f"{total - len(absent)} of {total} classes only."
        )
