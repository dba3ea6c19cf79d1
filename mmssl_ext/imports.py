"""Import other toolboxes without what they say of parts that are not used here."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator

from mmengine.logging import MMLogger


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Hold back what upstream prints at import: of lane lines, of its makers' service.

    Errors pass.
    """
    logger = MMLogger.get_current_instance()
    level = logger.level
    logger.setLevel("ERROR")
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logger.setLevel(level)
