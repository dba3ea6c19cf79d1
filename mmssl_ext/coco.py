"""Values of COCO's format, looked at before pycocotools takes them.

Its C code does not look at run lengths: those that do not fill an image leave what was
in the memory before.
"""

from __future__ import annotations

from typing import Any


def is_numbers(value: Any, length: int | None = None) -> bool:
    """Whether a value is a list of (so many) finite numbers below a trillion.

    COCO has 34 million of them, so nothing is called for each.
    """
    return (
        isinstance(value, list)
        and (length is None or len(value) == length)
        and set(map(type, value)) <= {int, float}
        and (not value or (min(value) > -1e12 and max(value) < 1e12))
        and sum(value) == sum(value)  # not NaN, which min and max may pass over
    )


def number_of_pixels(counts: str) -> int:
    """How many pixels COCO's compressed run lengths fill; -1 for a bad code."""
    lengths: list[int] = []
    value = shift = 0
    for character in counts:
        code = ord(character) - 48
        if not 0 <= code < 64:
            return -1
        value |= (code & 31) << shift
        shift += 5
        if not code & 32:  # the last piece of a number
            if code & 16:
                value -= 1 << shift
            lengths.append(value + (lengths[-2] if len(lengths) > 2 else 0))
            value = shift = 0
    return sum(lengths) if not shift and min(lengths, default=0) >= 0 else -1
