"""Files of one set that are copies of files of another, whatever their names."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from mmssl_ext.files import sha256

from .reading import MAX_FILE_BYTES, read_range

MOST_FILES = 50_000  # that are worth looking at: one call of the system each
_MOST_BYTES = 1 << 27  # of the test set that are read in full
_PART = 4096  # bytes that tell most files of one size apart

Identity = tuple[int, int, int]  # device, inode, bytes


def copied_files(
    test: Sequence[str], training: Sequence[str]
) -> tuple[list[tuple[str, str]], int]:
    """Files that are a training file (by a link) or have the content of one.

    All are compared by identity and size. Of those that agree in size with a file of
    the other set, the ends are read, and where these agree all of it, of evenly spaced
    ones where that would be too much. What cannot be read is passed over: the loader
    will say so.

    Returns:
        Pairs of a test file and the training file that it is a copy of, and how many
        test files were looked at.
    """
    known, learnt = _each(_identity, test), _each(_identity, training)
    places = {identity: path for path, identity in learnt.items()}
    twins = {p: places[key] for p, key in known.items() if key in places}
    sets = [[path for path in known if path not in twins], list(learnt)]
    sizes, left_out = {**known, **learnt}, 0
    for key in (lambda path: sizes[path][2], _end, sha256):
        if key is sha256:
            total = sum(sizes[path][2] for path in sets[0])
            step = -(-total // _MOST_BYTES) or 1
            left_out = len(sets[0]) - len(sets[0][::step])
            sets[0] = sets[0][::step]
        keys = [_each(key, paths) for paths in sets]
        shared = {*keys[0].values()} & {*keys[1].values()}
        sets = [[p for p, value in x.items() if value in shared] for x in keys]
    contents = {value: path for path, value in keys[1].items()}
    twins |= {path: contents[keys[0][path]] for path in sets[0]}
    pairs = [(path, twins[path]) for path in test if path in twins]
    return pairs, len(test) - left_out


def _each(look: Callable[[str], Any], paths: Iterable[str]) -> dict[str, Any]:
    """What is seen of each file; without those that cannot be read."""
    found = {}
    for path in paths:
        try:
            if (seen := look(path)) is not None:
                found[path] = seen
        except (OSError, ValueError):  # the latter for names that no file can have
            continue
    return found


def _identity(path: str) -> Identity | None:
    """None of what is no file of an image; reading a pipe would wait."""
    status = os.stat(path)
    if stat.S_ISREG(status.st_mode) and status.st_size <= MAX_FILE_BYTES:
        return status.st_dev, status.st_ino, status.st_size
    return None


def _end(path: str) -> tuple[int, bytes]:
    """Size and last bytes; with these most files of one size differ."""
    file = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        size = os.fstat(file).st_size
        return size, read_range(file, max(0, size - _PART), _PART)
    finally:
        os.close(file)
