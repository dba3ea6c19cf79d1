"""Files of one set that are copies of files of another, whatever their names."""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence

from mmssl_ext.files import sha256

from .reading import MAX_FILE_BYTES

MOST_FILES = 50_000  # that are worth looking at: one call of the system each
_PART = 4096  # bytes that tell most files of one size apart


def copied_files(test: Sequence[str], training: Sequence[str]) -> list[tuple[str, str]]:
    """Files that have the content of a training file, each with one of these.

    Only files whose size occurs in both sets are read. Where a file cannot be read,
    nothing is found: the loader will say so.
    """
    sets = [list(test), list(training)]
    try:
        for kind in (_size, _ends, sha256):
            keys = [{path: kind(path) for path in paths} for paths in sets]
            common = set(keys[0].values()) & set(keys[1].values()) - {-1}
            sets = [[p for p, key in found.items() if key in common] for found in keys]
    except (OSError, ValueError):  # the latter for names that no file can have
        return []
    twins = {keys[1][path]: path for path in sets[1]}
    return [(path, twins[keys[0][path]]) for path in sets[0]]


def _size(path: str) -> int:
    """-1 of what is no file of an image; reading a pipe would wait."""
    status = os.stat(path)
    sound = stat.S_ISREG(status.st_mode) and status.st_size <= MAX_FILE_BYTES
    return status.st_size if sound else -1


def _ends(path: str) -> bytes:
    with open(path, "rb") as file:
        first = file.read(_PART)
        file.seek(max(0, os.path.getsize(path) - _PART))
        return first + file.read(_PART)
