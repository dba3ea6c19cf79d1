"""A walk through a folder of images, which accounts for all that it leaves out."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator, Sequence

from mmssl_ext.errors import UserValueError
from mmssl_ext.text import shown

from .account import Account

_Status = tuple[int, int]  # device and inode, which are one folder's only


class FolderError(UserValueError):
    """A folder below the one that was given cannot be listed."""


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

    Attributes:
        account: What was found and left out.

    Raises:
        FolderError: A folder cannot be read, or its path is too long for the system.
    """

    def __init__(
        self, root: str, suffixes: Sequence[str], hidden_folders: bool = False
    ) -> None:
        self.root, self.suffixes = root, tuple(suffixes)
        self.hidden_folders = hidden_folders
        self.account = Account()
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
                    self.account.hidden += self._is_hidden_image(entry)
                elif _is_folder(entry):
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
            self.account.repeated.append(name)
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
            self.account.leave_out(entry.name)
            return False
        if _is_special(entry):
            self.account.special.append(name)
            return False
        return True

    def _is_hidden_image(self, entry: os.DirEntry[str]) -> bool:
        # "._x.jpg" is what macOS notes about x.jpg.
        is_note = entry.name.startswith("._")
        return not is_note and entry.name.lower().endswith(self.suffixes)


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
            f"The folders below '{shown(folder[:100])}...' are nested so deep that a "
            f"path has {len(os.fsencode(folder)):,} bytes, more than the system takes: "
            "move the inner ones up, or give one of them as the root."
        )
    return FolderError(
        f"The folder '{shown(folder.rstrip('/'))}' cannot be read: {error.strerror}. "
        "Mend this, or move it elsewhere."
    )
