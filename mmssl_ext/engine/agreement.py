"""What the ranks decide together, between two steps."""

from __future__ import annotations


def agree(code: int) -> int:
    """Return the largest of the codes that the ranks give."""
    return code
