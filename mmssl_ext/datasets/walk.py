"""A walk through a folder of images, which accounts for all that it leaves out."""

from __future__ import annotations

import errno
import logging
import os
import stat
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import PurePath

from mmengine.logging import print_log

from mmssl_ext.errors import UserValueError
from mmssl_ext.text import shown

from .listing import some

_SUFFIXES = 6  # kinds of other files that a line names
_LOUD = 0.1  # of the images: so many left out are worth a warning


class FolderError(UserValueError):
    """A folder below the one that was given cannot be listed."""


@dataclass
class Account:
    """Counts what a walk through a folder takes and passes over."""

    found: int = 0  # images
    others: Counter[str] = field(default_factory=Counter)  # other types, by suffix
    special: list[str] = field(default_factory=list)  # images that are no regular files
    repeated: list[str] = field(default_factory=list)  # links to what is read anyway
    hidden: int = 0  # images
    outside: int = 0  # images that belong to no class

    def leave_out(self, name: str) -> None:
        """Count a file of another type."""
        suffix = shown(PurePath(name).suffix.lower())[:12]
        self.others[suffix or "without suffix"] += 1

    def text(self, where: str) -> str:
        """One line with what was found and left out; empty if all was taken."""
        kinds = [f"{kind} {n:,}" for kind, n in self.others.most_common()]
        special, links = some(self.special), some(self.repeated)
        left = [
            (
                self.outside,
                "image",
                " outside of its subfolders, which are the classes",
            ),
            (
                self.others.total(),
                "file",
                f" of other types ({some(kinds, _SUFFIXES)})",
            ),
            (
                len(self.special),
                "special file",
                f", such as a pipe or device ({special})",
            ),
            (len(self.repeated), "link", f" to folders that are read anyway ({links})"),
            (self.hidden, "hidden image", ""),
        ]
        said = "; ".join(_number(n, what) + more for n, what, more in left if n)
        found = _number(self.found, "image")
        return f"'{shown(where)}': found {found}, left out {said}." if said else ""

    def tell(self, where: str) -> None:
        """Log the line, as a warning where much is left out."""
        if text := self.text(where):
            much = self.others.total() + self.outside > _LOUD * self.found
            loud = much or self.special or self.repeated
            level = logging.WARNING if loud else logging.INFO
            print_log(text, logger="current", level=level)


def _number(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"


class ImageWalk:
    """The images below a folder, in stable order: by name, folder after folder.

    Links are followed, but each folder is read once, by its identity: a link to a
    folder that is in this tree anyway, or that another link has led to, is passed over.
    Hidden files and folders are left out, and so is what is no regular file (a pipe, a
    socket, a device). A dangling link counts as an (unreadable) image, because leaving
    it out in silence would hide a broken mount.

    Iterate once; :attr:`account` tells of it afterwards.

    Args:
        root: The folder.
        suffixes: File name endings of images, in lower case.
        hidden_folders: Walk through hidden folders too.

    Raises:
        FolderError: A folder cannot be read, or its path is too long for the system.
    """

    def __init__(
        self, root: str, suffixes: Sequence[str], hidden_folders: bool = False
    ) -> None:
        self.root, self.suffixes = root, tuple(suffixes)
        self.hidden_folders = hidden_folders
        self.account = Account()
        self._seen: set[tuple[int, int]] = set()  # device and inode of each folder
        self._real = os.path.realpath(root)

    def __iter__(self) -> Iterator[str]:
        """Yield the path of each image, relative to the folder."""
        # Not recursive: a tree may be deeper than Python's stack.
        waiting = [self._entries("")]
        while waiting:
            for prefix, entry in waiting[-1]:
                name = prefix + entry.name
                is_folder = _is_folder(entry)
                enter = is_folder and self.hidden_folders
                if entry.name.startswith(".") and not enter:
                    self.account.hidden += is_hidden_image(name, self.suffixes)
                elif is_folder:
                    if not self._is_repeated(entry, name):
                        waiting.append(self._entries(f"{name}/"))
                        break
                elif self._is_image(entry, name):
                    self.account.found += 1
                    yield name
            else:
                waiting.pop()

    def _entries(self, prefix: str) -> Iterator[tuple[str, os.DirEntry[str]]]:
        folder = os.path.join(self.root, prefix)
        self._seen.add(_identity(folder))
        return ((prefix, entry) for entry in _listed(folder))

    def _is_repeated(self, entry: os.DirEntry[str], name: str) -> bool:
        """Whether a folder is read at another place; counted then."""
        comes_by = entry.is_symlink() and self._comes_by(os.path.realpath(entry.path))
        repeated = comes_by or _identity(entry.path) in self._seen
        if repeated:
            self.account.repeated.append(name)
        return repeated

    def _comes_by(self, real: str) -> bool:
        """Whether the walk reads a folder without any link."""
        above = os.path.join(self._real, "")
        inner = real.removeprefix(above).split("/")
        hidden = any(part.startswith(".") for part in inner) and not self.hidden_folders
        return real == self._real or (real.startswith(above) and not hidden)

    def _is_image(self, entry: os.DirEntry[str], name: str) -> bool:
        if not entry.name.lower().endswith(self.suffixes):
            self.account.leave_out(entry.name)
            return False
        if _is_special(entry):
            self.account.special.append(name)
            return False
        return True


def is_hidden_image(name: str, suffixes: tuple[str, ...]) -> bool:
    """Whether a hidden file is an image; ``._x.jpg`` is what macOS notes of x.jpg."""
    is_note = name.rpartition("/")[2].startswith("._")
    return name.lower().endswith(suffixes) and not is_note


def class_folders(folder: str, hidden: bool = False) -> list[str]:
    """Return the sorted names of the folders in a folder; those hidden if asked for."""
    names = [entry.name for entry in _listed(folder) if _is_folder(entry)]
    return [name for name in names if hidden or not name.startswith(".")]


def _listed(folder: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        raise _failed(folder, error) from error


def _identity(folder: str) -> tuple[int, int]:
    try:
        status = os.stat(folder)
    except OSError as error:
        raise _failed(folder, error) from error
    return status.st_dev, status.st_ino


def _is_folder(entry: os.DirEntry[str]) -> bool:
    # os.path.isdir: a link to itself is no folder, where entry.is_dir() raises.
    return os.path.isdir(entry.path) if entry.is_symlink() else entry.is_dir()


def _is_special(entry: os.DirEntry[str]) -> bool:
    if not entry.is_symlink():
        return not entry.is_file()
    try:
        return not stat.S_ISREG(os.stat(entry.path).st_mode)
    except OSError:  # it dangles
        return False


def _failed(folder: str, error: OSError) -> FolderError:
    if error.errno == errno.ENAMETOOLONG:
        return FolderError(
            f"The folders below '{shown(folder[:100])}...' are nested so deep that a "
            f"path has {len(os.fsencode(folder)):,} bytes, more than the system takes."
        )
    return FolderError(
        f"The folder '{shown(folder.rstrip('/'))}' cannot be read: {error.strerror}. "
        "Correct this, or move it elsewhere."
    )
