"""A walk through a folder of images, which accounts for all that it leaves out."""

from __future__ import annotations

import errno
import logging
import os
import stat
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import PurePath

from mmengine.logging import print_log

_NAMED = 3  # files that a line names
_SUFFIXES = 6  # kinds of other files that it names
_LOUD = 0.1  # of the files: so many left out are worth a warning
_Status = tuple[int, int]  # device and inode, which are one folder's only


class FolderError(ValueError):
    """A folder below the one that was given cannot be listed."""


class ImageWalk:
    """The images below a folder, in stable order: by name, folder after folder.

    Links are followed, but each folder is read once, by its identity: a link to a
    folder that is in this tree anyway, or that another link has led to, is passed over.
    Hidden files and folders are left out, and so is what is no regular file (a pipe, a
    socket, a device). A dangling link counts as an (unreadable) image, because leaving
    it out in silence would hide a broken mount.

    Iterate once; :meth:`account` tells of it afterwards.

    Args:
        root: The folder.
        suffixes: File name endings of images, in lower case.
        hidden_folders: Walk through hidden folders too.

    Attributes:
        found: Number of images.
        others: Number of files of other types, by suffix.
        special: Names of images that are no regular files.
        repeated: Links to folders that are read anyway.
        hidden: Number of hidden images.

    Raises:
        FolderError: A folder cannot be read, or its path is too long for the system.
    """

    def __init__(
        self, root: str, suffixes: Sequence[str], hidden_folders: bool = False
    ) -> None:
        self.root, self.suffixes = root, tuple(suffixes)
        self.hidden_folders = hidden_folders
        self.found = self.hidden = 0
        self.others: Counter[str] = Counter()
        self.special: list[str] = []
        self.repeated: list[str] = []
        self._seen: set[_Status] = set()
        self._real = os.path.realpath(root)

    def __iter__(self) -> Iterator[str]:
        """Yield the path of each image, relative to the folder."""
        # Not recursive: a tree may be deeper than Python's stack.
        waiting = [self._entries("")]
        while waiting:
            for prefix, entry in waiting[-1]:
                name = prefix + entry.name
                if entry.name.startswith(".") and not self._is_shown(entry):
                    self.hidden += self._is_hidden_image(entry)
                elif _is_folder(entry):
                    if not self._is_repeated(entry, name):
                        waiting.append(self._entries(f"{name}/"))
                        break
                elif self._is_image(entry, name):
                    self.found += 1
                    yield name
            else:
                waiting.pop()

    def _entries(self, prefix: str) -> Iterator[tuple[str, os.DirEntry[str]]]:
        folder = os.path.join(self.root, prefix)
        try:
            status = os.stat(folder)
            self._seen.add((status.st_dev, status.st_ino))
            with os.scandir(folder) as entries:
                ordered = sorted(entries, key=lambda entry: entry.name)
        except OSError as error:
            raise _failed(folder, error) from error
        return ((prefix, entry) for entry in ordered)

    def _is_repeated(self, entry: os.DirEntry[str], name: str) -> bool:
        if entry.is_symlink() and self._is_below(os.path.realpath(entry.path)):
            repeated = True
        else:
            try:
                status = os.stat(entry.path)
            except OSError as error:
                raise _failed(entry.path, error) from error
            repeated = (status.st_dev, status.st_ino) in self._seen
        if repeated:
            self.repeated.append(name)
        return repeated

    def _is_below(self, real: str) -> bool:
        """Whether the walk comes by a folder without any link."""
        if real == self._real:
            return True
        above = os.path.join(self._real, "")
        inner = real.removeprefix(above)
        return real.startswith(above) and not (
            any(part.startswith(".") for part in inner.split("/"))
            and not self.hidden_folders
        )

    def _is_shown(self, entry: os.DirEntry[str]) -> bool:
        return self.hidden_folders and _is_folder(entry)

    def _is_image(self, entry: os.DirEntry[str], name: str) -> bool:
        if not entry.name.lower().endswith(self.suffixes):
            self.others[_suffix(entry.name)] += 1
            return False
        if _is_special(entry):
            self.special.append(name)
            return False
        return True

    def _is_hidden_image(self, entry: os.DirEntry[str]) -> bool:
        # "._x.jpg" is what macOS notes about x.jpg.
        is_note = entry.name.startswith("._")
        return not is_note and entry.name.lower().endswith(self.suffixes)

    def account(self, more: str = "") -> str:
        """One line with what was found and left out; empty if all was taken.

        Args:
            more: A further thing that the caller leaves out.
        """
        left = [more] if more else []
        if self.others:
            kinds = self.others.most_common(_SUFFIXES)
            named = ", ".join(f"{kind} {count:,}" for kind, count in kinds)
            dots = ", ..." if len(self.others) > len(kinds) else ""
            count = self.others.total()
            left.append(f"{_number(count, 'file')} of other types ({named}{dots})")
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
        return (
            f"'{self.root}': found {_number(self.found, 'image')}, left out "
            f"{'; '.join(left)}."
        )

    def tell(self, more: str = "", count: int = 0) -> None:
        """Log the account, as a warning where much is left out.

        Args:
            more: A further thing that the caller leaves out.
            count: How many images that are.
        """
        text = self.account(more)
        if text:
            much = self.others.total() + count > _LOUD * self.found
            loud = much or self.special or self.repeated
            level = logging.WARNING if loud else logging.INFO
            print_log(text, logger="current", level=level)


def class_folders(folder: str, hidden: bool = False) -> list[str]:
    """Return the sorted names of the folders in a folder; those hidden if asked for."""
    try:
        with os.scandir(folder) as entries:
            names = [entry.name for entry in entries if _is_folder(entry)]
    except OSError as error:
        raise _failed(folder, error) from error
    return sorted(name for name in names if hidden or not name.startswith("."))


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
            f"The folders below '{folder[:100]}...' are nested so deep that a path "
            f"has {len(os.fsencode(folder)):,} bytes, more than the system takes: move "
            "the inner ones up, or give one of them as the root."
        )
    return FolderError(
        f"The folder '{folder.rstrip('/')}' cannot be read: {error.strerror}. Mend "
        "this, or move it elsewhere."
    )


def _suffix(name: str) -> str:
    return PurePath(name).suffix.lower()[:12] or "without suffix"


def _number(count: int, what: str) -> str:
    plural = "" if count == 1 else "s"
    return f"{count:,} {what}{plural}"


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:_NAMED]) + (", ..." if len(names) > _NAMED else "")
