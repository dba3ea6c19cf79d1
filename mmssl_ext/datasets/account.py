"""What was taken of a folder or an archive, and what was left out, in one line."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import PurePath

from mmengine.logging import print_log

from mmssl_ext.text import shown

_NAMED = 3  # files that a line names
_SUFFIXES = 6  # kinds of other files that it names
_LOUD = 0.1  # of the images: so many left out are worth a warning


@dataclass
class Account:
    """Counts what a walk passes over.

    Attributes:
        found: Number of images.
        others: Number of files of other types, by suffix.
        special: Names of images that are no regular files.
        repeated: Links to folders that are read anyway.
        hidden: Number of hidden images.
    """

    found: int = 0
    others: Counter[str] = field(default_factory=Counter)
    special: list[str] = field(default_factory=list)
    repeated: list[str] = field(default_factory=list)
    hidden: int = 0

    def leave_out(self, name: str) -> None:
        """Count a file of another type."""
        suffix = shown(PurePath(name).suffix.lower())[:12]
        self.others[suffix or "without suffix"] += 1

    def text(self, where: str, more: str = "") -> str:
        """One line with what was found and left out; empty if all was taken.

        Args:
            where: The folder.
            more: A further thing that the caller leaves out.
        """
        left = [more] if more else []
        if self.others:
            kinds = self.others.most_common(_SUFFIXES)
            named = ", ".join(f"{kind} {count:,}" for kind, count in kinds)
            dots = ", ..." if len(self.others) > len(kinds) else ""
            count = _number(self.others.total(), "file")
            left.append(f"{count} of other types ({named}{dots})")
        if self.special:
            what = _number(len(self.special), "special file")
            left.append(f"{what}, such as a pipe or device ({_some(self.special)})")
        if self.repeated:
            what = _number(len(self.repeated), "link")
            left.append(
                f"{what} to folders that are read anyway ({_some(self.repeated)})"
            )
        if self.hidden:
            left.append(_number(self.hidden, "hidden image"))
        if not left:
            return ""
        found = _number(self.found, "image")
        return f"'{shown(where)}': found {found}, left out {'; '.join(left)}."

    def tell(self, where: str, more: str = "", count: int = 0) -> None:
        """Log the line, as a warning where much is left out.

        Args:
            where: The folder.
            more: A further thing that the caller leaves out.
            count: How many images that are.
        """
        if text := self.text(where, more):
            much = self.others.total() + count > _LOUD * self.found
            loud = much or self.special or self.repeated
            level = logging.WARNING if loud else logging.INFO
            print_log(text, logger="current", level=level)


def format_bytes(count: int) -> str:
    """Write a number of bytes with a unit."""
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count / 1e3:.1f} kB"


def _number(count: int, what: str) -> str:
    plural = "" if count == 1 else "s"
    return f"{count:,} {what}{plural}"


def _some(names: Sequence[str]) -> str:
    return ", ".join(map(shown, names[:_NAMED])) + (
        ", ..." if len(names) > _NAMED else ""
    )
