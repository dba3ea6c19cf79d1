"""Lists of image paths: reading them from text, holding millions in little memory."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache

import numpy as np

from mmssl_ext.errors import UserValueError
from mmssl_ext.files import IMAGE_EXTENSIONS, head_of
from mmssl_ext.text import cut, shown

from .reading import what_it_is

_EXTENSION = rf"(?:{'|'.join(re.escape(e) for e in IMAGE_EXTENSIONS)})"
MAX_LABEL = 1_000_000  # no data set has more classes; each gets a name
_LABEL = re.compile(r"[+-]?\d{1,18}")
_PATH_AND_LABEL = re.compile(rf".+{_EXTENSION}\s+[+-]?\d+", re.IGNORECASE)
_UTF16 = (b"\xff\xfe", b"\xfe\xff")
_PATH_AND_WORD = re.compile(rf".+{_EXTENSION}\s+[^\s/.]+", re.IGNORECASE)


def some(names: Sequence[str], most: int = 3, quote: str = "") -> str:
    """Names within a sentence, the first few of many."""
    listed = ", ".join(f"{quote}{shown(name)}{quote}" for name in names[:most])
    return f"{listed or 'nothing'}{', ...' if len(names) > most else ''}"


def name_below(root: str, path: str) -> str:
    """The name by which a list or a file knows an image: from the folder ``root`` on.

    Of one in a shard, its name in it. ``root`` and ``path`` may be spelt in two ways,
    one from the current folder and one from the root of the file system.
    """
    name = path
    if root and path.startswith(below := os.path.join(root, "")):
        name = path.removeprefix(below)
    elif root and os.path.lexists(path):
        name = os.path.abspath(path)
        name = name.removeprefix(os.path.join(os.path.abspath(root), ""))
        name = path if os.path.isabs(name) else name
    end = name.find(".tar/")
    while end >= 0 and _is_folder(os.path.join(root, name[: end + 4])):
        end = name.find(".tar/", end + 1)
    return name[end + 5 :] if end >= 0 else name


@lru_cache(4096)
def _is_folder(path: str) -> bool:
    return os.path.isdir(path)


class PackedPaths:
    """Immutable list of strings in one byte buffer.

    A list of Python strings would be copied into each forked worker bit by bit, since
    reading an object writes its reference count; for ImageNet some 100 MB per worker.
    """

    def __init__(self, paths: Iterable[str]) -> None:
        lengths, buffer = [], bytearray()
        for path in paths:
            data = os.fsencode(path)
            lengths.append(len(data))
            buffer += data
        self._ends = np.cumsum(lengths, dtype=np.int64)
        self._buffer = np.frombuffer(buffer, dtype=np.uint8)

    @classmethod
    def from_arrays(cls, buffer: np.ndarray, ends: np.ndarray) -> PackedPaths:
        """Take what :meth:`arrays` returned, without a copy."""
        paths = cls(())
        paths._buffer, paths._ends = buffer, ends
        return paths

    def arrays(self) -> tuple[np.ndarray, np.ndarray]:
        """Return all names on end (uint8) and where each ends (int64)."""
        return self._buffer, self._ends

    def __len__(self) -> int:
        return len(self._ends)

    def __iter__(self) -> Iterator[str]:
        return (self[i] for i in range(len(self)))

    def __getitem__(self, index: int) -> str:
        start = self._ends[index - 1] if index else 0
        return os.fsdecode(self._buffer[start : self._ends[index]].tobytes())


def read_list(ann_file: str) -> tuple[list[str], np.ndarray | None]:
    """Read ``path`` or ``path label`` lines of a text file in UTF-8.

    Returns:
        The paths, and the labels (int64) or None if not every line ends in an integer.

    Raises:
        FileNotFoundError: The file does not exist.
        ValueError: The list is empty or no text, or a line is malformed.
    """
    if not os.path.isfile(ann_file):
        raise FileNotFoundError(
            f"The image list '{ann_file}' (seen from '{os.getcwd()}') does not exist. "
            f"Correct `ann_file` of the dataset."
        )
    _check_text(ann_file)
    with open(ann_file, encoding="utf-8-sig", errors="surrogateescape") as file:
        lines = [(i, line.strip()) for i, line in enumerate(file, start=1)]
    lines = [(i, line) for i, line in lines if line and not line.startswith("#")]
    if not lines:
        raise UserValueError(f"The image list '{ann_file}' is empty: it has no line.")
    parts = [line.rsplit(None, 1) for _, line in lines]
    labelled = [len(p) == 2 and bool(_LABEL.fullmatch(p[1])) for p in parts]
    labels = np.array([int(p[1]) for p in parts], np.int64) if all(labelled) else None
    some_labelled = any(_PATH_AND_LABEL.fullmatch(line) for _, line in lines)
    for index, (number, line) in enumerate(lines):
        why = ""
        if "\0" in line:
            why = "it contains a zero byte"
        elif labels is not None and not 0 <= labels[index] <= MAX_LABEL:
            why = f"its label is not in 0 to {MAX_LABEL}"
        elif not labelled[index] and _PATH_AND_WORD.fullmatch(line):
            why = "its label is not an integer"
        elif not labelled[index] and some_labelled:
            why = "it has no integer label, but others have one"
        if why:
            raise UserValueError(
                f"Line {number} of the image list '{ann_file}' is malformed, {why}: "
                f"{cut(repr(line))}. Write one `path` or `path label` per line, and "
                "labels either on all lines or on none."
            )
    if labels is None:
        return [line for _, line in lines], None
    return [path for path, _ in parts], labels


def _check_text(ann_file: str) -> None:
    """Refuse weights, images, archives and the like before they are read as lines.

    One zero byte may be a slip; the line that has it is named then.
    """
    head = head_of(ann_file, 4096)
    named = what_it_is(head) if head else ""
    if head[:2] in _UTF16:
        named = "it is text in UTF-16: write it in UTF-8"
    if named or head.count(0) > 1:
        raise UserValueError(
            f"'{shown(ann_file)}' is no list of images: {named or 'it is no text'}. "
            "A list has one `path` or `path label` per line."
        )
