"""An index of tar files that exist already; see :mod:`.shards`."""

from __future__ import annotations

import itertools
import os
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mmssl_ext.text import shown

from .listing import IMAGE_EXTENSIONS, PackedPaths
from .look import warn_of_unread
from .progress import progress_of
from .reading import MAX_FILE_BYTES, too_large
from .shards import COMMAND, INDEX, ImageShards, ShardError, ShardIndex, refuse_partial
from .walk import Account, is_hidden_image

_TAIL = 1 << 24  # bytes behind the end of an archive that are looked at


class _Member(NamedTuple):
    """An image in a tar file; sorts as a walk through the extracted folders."""

    parts: list[str]
    tar: int
    offset: int
    size: int


def index_shards(folder: str, tar_is_folder: bool = False) -> ShardIndex:
    """Index the tar files of a folder, so that :class:`ImageShards` can read them.

    The images come in the order that they would have after ``tar -x``, with labels from
    their top folders. What is left out is logged, as for a folder.

    Args:
        folder: Folder of uncompressed tar files; gets ``index.npz``.
        tar_is_folder: Take ``n01440764.tar`` for the folder ``n01440764``, as in the
            official archives of ImageNet: its images get this folder and class.

    Raises:
        FileNotFoundError: There is no tar file, or no image in them.
        ShardError: There is an index already, or a tar file cannot be used: it is no
            whole archive, or holds an image that could not be read from it.
    """
    if os.path.exists(os.path.join(folder, INDEX)):
        raise ShardError(f"'{folder}' has an {INDEX} already. Delete it first.")
    refuse_partial(folder)
    tars = sorted(Path(folder).glob("*.tar"))
    found: list[_Member] = []
    account = Account()
    with progress_of("Tar files indexed", len(tars)) as progress:
        for number, path in enumerate(tars):
            above = [path.stem] if tar_is_folder else []
            found += _scan(path, number, above, account)
            progress(number + 1)
    if not found:
        text = f"'{folder}' holds no tar file with an image in it."
        raise FileNotFoundError(f"{text} {account.text(folder)}".rstrip())
    found.sort()
    for one, two in itertools.pairwise(found):
        if one.parts == two.parts:
            raise ShardError(
                f"The image '{shown('/'.join(one.parts))}' stands twice, in "
                f"'{tars[one.tar]}' and '{tars[two.tar]}', and only the later one "
                "would be left after `tar -x`. Extract the tar files and convert the "
                f"folder by `{COMMAND}`."
            )
    names = PackedPaths("/".join(member.parts) for member in found)
    places = [(member.tar, member.offset, member.size) for member in found]
    shard, offset, size = np.array(places, np.int64).T
    classes = sorted({member.parts[0] for member in found if len(member.parts) > 1})
    index = ShardIndex(
        *(names, shard.astype(np.int32), offset, size),
        *(number_of_tops(names, classes), "subfolders", PackedPaths(classes)),
        PackedPaths(path.name for path in tars),
        np.array([path.stat().st_size for path in tars], np.int64),
    )
    try:
        index.check()
        index.write(Path(folder))
    except (OSError, ValueError) as error:
        raise ShardError(f"{INDEX} cannot be written to '{folder}': {error}") from error
    account.tell(folder)
    warn_of_unread(ImageShards(folder))
    return index


def number_of_tops(names: PackedPaths, classes: Sequence[str]) -> np.ndarray:
    """Return the number of each name's top folder, -1 for none."""
    number = {f"{name}/": i for i, name in enumerate(classes)}
    labels = (number.get(name[: name.find("/") + 1], -1) for name in names)
    return np.fromiter(labels, np.int32, len(names))


def _scan(
    path: Path, number: int, above: list[str], account: Account
) -> Iterator[_Member]:
    """Yield the images of a tar file; count what is left out."""
    if path.exists() and not path.is_file():  # opening a pipe would wait
        raise ShardError(f"'{path}' cannot be indexed: it is no regular file.")
    try:
        with tarfile.open(path, "r:", errors="surrogateescape") as tar:
            while (member := tar.next()) is not None:
                tar.members.clear()  # type: ignore[attr-defined]  # a list of them all
                parts = [p for p in member.name.split("/") if p not in ("", ".")]
                if member.isdir() or not parts or not _is_taken(parts, account):
                    continue
                _check_image(member, parts, path)
                yield _Member([*above, *parts], number, member.offset_data, member.size)
            end = tar.offset
        _check_end(path, end)
    except (tarfile.TarError, OSError) as error:
        raise ShardError(
            f"'{path}' cannot be indexed: {error}. It must be a complete tar file "
            "without compression."
        ) from error


def _is_taken(parts: list[str], account: Account) -> bool:
    if any(part.startswith(".") and part != ".." for part in parts):
        account.hidden += is_hidden_image(parts[-1], IMAGE_EXTENSIONS)
        return False
    if is_image := parts[-1].lower().endswith(IMAGE_EXTENSIONS):
        account.found += 1
    else:
        account.leave_out(parts[-1])
    return is_image


def _check_image(member: tarfile.TarInfo, parts: list[str], path: Path) -> None:
    """Refuse what could not be read from the tar file as it stands there."""
    name = shown("/".join(parts))
    if not member.isreg() or member.issparse():
        raise ShardError(
            f"'{name}' in '{path}' is a link or another special file, so it has no "
            "bytes of its own there. Extract the tar files and convert the folder by "
            f"`{COMMAND}`."
        )
    if ".." in parts:
        raise ShardError(
            f"'{path}' names '{name}', which is not below the folder that it would be "
            "extracted to. Write it anew without `..`."
        )
    if member.size > MAX_FILE_BYTES:
        raise ShardError(
            f"The image '{name}' in '{path}' cannot be read: "
            f"{too_large(member.size)}. Write the tar file without it."
        )


def _check_end(path: Path, offset: int) -> None:
    """Refuse an archive that goes on, or does not end, where Python's tarfile stops."""
    with path.open("rb") as file:
        file.seek(offset)
        block = file.read(tarfile.BLOCKSIZE)
        goes_on = bool(file.read(_TAIL).strip(b"\0"))
    if len(block) < tarfile.BLOCKSIZE:
        why = (
            "it has no end (two blocks of zeros), so it is truncated, or was never "
            "closed. Copy it again; where you know that it is whole, write the end by "
            f"`head -c 1024 /dev/zero >> '{path}'`"
        )
    elif block.strip(b"\0"):
        why = (
            f"it is damaged at byte {offset:,}, where the head of a file should be. "
            "Copy it again"
        )
    elif goes_on:
        why = (
            f"behind its end at byte {offset:,} there is more, as of archives that "
            "were put together by `cat`. Give each archive a file of its own"
        )
    else:
        return
    raise ShardError(f"'{path}' cannot be indexed: {why}.")
