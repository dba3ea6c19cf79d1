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
    try:
        sets = [_regular(paths) for paths in (test, training)]
        sizes = set.intersection(*({size for _, size in files} for files in sets))
        sets = [[file for file in files if file[1] in sizes] for files in sets]
        for digest in (_ends, _whole):
            keyed = [{file: digest(*file) for file in files} for files in sets]
            common = set.intersection(*(set(found.values()) for found in keyed))
            sets = [[f for f, key in found.items() if key in common] for found in keyed]
    except (OSError, ValueError):  # the latter for names that no file can have
        return []
    twins = {key: path for (path, _), key in keyed[1].items()}
    return [(file[0], twins[keyed[0][file]]) for file in sets[0]]


def _regular(paths: Sequence[str]) -> list[tuple[str, int]]:
    """Path and size of each that is a file; reading a pipe would wait."""
    found = [(path, os.stat(path)) for path in paths]
    return [
        (path, status.st_size)
        for path, status in found
        if stat.S_ISREG(status.st_mode) and status.st_size <= MAX_FILE_BYTES
    ]


def _ends(path: str, size: int) -> tuple[int, bytes]:
    with open(path, "rb") as file:
        first = file.read(_PART)
        file.seek(max(0, size - _PART))
        return size, first + file.read(_PART)


def _whole(path: str, size: int) -> tuple[int, str]:
    return size, sha256(path)
