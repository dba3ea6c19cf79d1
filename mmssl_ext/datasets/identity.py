"""Which files a run trains on, so that a resumed one is not fed others in silence.

Compared are the files' names below the folder of the data and their sizes, all of them
and in the order of the dataset, the bytes of some that are spread evenly over it, and
what else a dataset is made from (labels, annotation files, proposals, masks). Folders
and times do not count: data may be moved and copied, and read from shards.
"""

from __future__ import annotations

import hashlib
import os
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch

from mmssl_ext.files import MISSING, head_of, sha256, size_of

from .base import SSLDataset
from .listing import some

VERSION = 1  # of what is compared
_SAMPLES = 64  # files whose bytes are compared
_HEAD = 1 << 20  # bytes of each of them
_Seen = TypeVar("_Seen")


@dataclass
class _Files:
    names: list[str]
    sizes: list[int]
    read: Callable[[int], bytes]  # the first bytes of a file; none where it is missing
    others: dict[str, str]  # digests of what else the dataset consists of


def identify(dataset: Any, labelled: bool = True) -> dict[str, Any] | None:
    """Return what tells a dataset from others, as plain data and a tensor.

    Args:
        dataset: Of this package, one of mmengine's kind, or a wrapper around such.
        labelled: Labels count too.

    Returns:
        None where the dataset does not tell which files it has.
    """
    files = _files(dataset, labelled)
    if files is None:
        return None
    lines = "".join(
        f"{size} {name}\0" for name, size in zip(files.names, files.sizes, strict=True)
    ).encode("utf-8", "surrogateescape")
    count = len(files.names)
    # An odd step: of an image and its annotation in turn, both are chosen.
    chosen = range(0, count, count // _SAMPLES | 1)
    content = {str(i): _digest(files.read(i)) for i in chosen}
    parts = [lines, *(f"{k} {v}".encode() for k, v in (content | files.others).items())]
    return {
        "version": VERSION,
        "files": count,
        "digest": _digest(b"\0".join(parts)),
        "content": content,
        "others": files.others,
        "listing": torch.frombuffer(
            bytearray(zlib.compress(lines, 1)), dtype=torch.uint8
        ),
    }


def differences(before: dict[str, Any], now: dict[str, Any]) -> tuple[str, bool]:
    """Say what two datasets differ in.

    Args:
        before: From :func:`identify`, perhaps by way of a checkpoint.
        now: The same of the other one.

    Returns:
        The end of a sentence, empty where they are equal; and whether all of it is that
        files are missing in one of them.
    """
    if before["digest"] == now["digest"]:
        return "", False
    (names, sizes), (new_names, new_sizes) = map(_entries, (before, now))
    both = [name for name in new_sizes if name in sizes]
    other = [name for name in both if sizes[name] != new_sizes[name]]
    absent = [n for n in other if MISSING in (sizes[n], new_sizes[n])]
    found = {
        "added": [name for name in new_sizes if name not in sizes],
        "removed": [name for name in sizes if name not in new_sizes],
        "of another size": [name for name in other if name not in absent],
        "missing on one side": absent,
    }
    content = now["content"]
    if names == new_names:
        changed = [names[int(i)] for i in content if before["content"][i] != content[i]]
        found[f"with other bytes of {len(content)} looked into"] = [
            name for name in changed if name not in other
        ]
    said = [f"{len(x):,} {what} ({some(x)})" for what, x in found.items() if x]
    if names != new_names and not (found["added"] or found["removed"]):
        said.append("in another order, or more or less often")
    mine, yours = before["others"], now["others"]
    changed = [n for n in mine.keys() | yours.keys() if mine.get(n) != yours.get(n)]
    said += [f"other {name}" for name in sorted(changed)]
    only_missing = bool(absent) and len(said) == 1
    counts = f"{before['files']:,} then, {now['files']:,} now"
    return f"{counts}; {'; '.join(said)}", only_missing


def _entries(identity: dict[str, Any]) -> tuple[list[str], dict[str, int]]:
    """The names in their order, and the size of each."""
    packed = zlib.decompress(identity["listing"].cpu().numpy().tobytes())
    lines = packed.decode("utf-8", "surrogateescape").split("\0")[:-1]
    pairs = [line.partition(" ") for line in lines]
    return [pair[2] for pair in pairs], {name: int(size) for size, _, name in pairs}


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:32]


def _files(dataset: Any, labelled: bool) -> _Files | None:
    if isinstance(dataset, SSLDataset):
        return _of_images(dataset, labelled)
    if isinstance(parts := getattr(dataset, "datasets", None), (list, tuple)):
        return _of_parts([_files(part, labelled) for part in parts])
    if isinstance(getattr(dataset, "ann_file", None), str):
        return _of_annotations(dataset)
    inner = getattr(dataset, "dataset", None)
    return None if inner is None else _files(inner, labelled)


def _of_images(dataset: SSLDataset, labelled: bool) -> _Files:
    rows = dataset._rows.tolist()
    others = {}
    for kind in ("labels", "targets"):
        values = getattr(dataset, kind, None)
        if labelled and values is not None:
            array = np.ascontiguousarray(values)
            others[kind] = _digest(f"{array.dtype} {array.shape}".encode() + array.data)
    for transform in dataset.pipeline:
        others |= getattr(transform, "digests", dict)()
    names = [dataset.name(row) for row in rows]
    if not getattr(dataset, "root", ""):
        names = _below_common_folder(names)
    sizes = look_at_each(dataset.file_size, rows)
    return _Files(names, sizes, lambda i: dataset.file_head(rows[i], _HEAD), others)


def _of_annotations(dataset: Any) -> _Files:
    """A dataset of mmengine's kind: its annotations and the files they lead to."""
    paths: dict[str, None] = {}
    objects = []
    for info in map(dataset.get_data_info, range(len(dataset))):
        found = [info[key] for key in info if str(key).endswith("_path")]
        paths |= dict.fromkeys(path for path in found if isinstance(path, str))
        if "xml_path" in info:  # small files, of which all that they say counts
            objects.append(repr(info.get("instances")))
    files = list(paths)
    others = {"objects": _digest("".join(objects).encode())} if objects else {}
    if os.path.isfile(dataset.ann_file):
        digest = sha256(dataset.ann_file)[:32]
        others[f"annotations ({os.path.basename(dataset.ann_file)})"] = digest
    root = os.path.join(dataset.data_root or "", "")
    names = [path.removeprefix(root) for path in files]
    if not dataset.data_root or any(map(os.path.isabs, names)):
        names = _below_common_folder(names)
    return _Files(
        names, look_at_each(size_of, files), lambda i: head_of(files[i], _HEAD), others
    )


def _of_parts(parts: list[_Files | None]) -> _Files | None:
    """Datasets one after the other; each has names of its own."""
    found = [part for part in parts if part is not None]
    if len(found) < len(parts):
        return None
    places = [(part, i) for part in found for i in range(len(part.names))]
    return _Files(
        [f"{n}/{x}" for n, part in enumerate(found) for x in part.names],
        [size for part in found for size in part.sizes],
        lambda index: places[index][0].read(places[index][1]),
        {f"{n}/{k}": v for n, x in enumerate(found) for k, v in x.others.items()},
    )


def _below_common_folder(names: list[str]) -> list[str]:
    """Leave out the folders that all paths begin with."""
    ends = [min(names, default=""), max(names, default="")]
    try:
        common = os.path.join(os.path.commonpath(map(os.path.dirname, ends)), "")
    except ValueError:  # some are absolute, others not
        return names
    if not all(name.startswith(common) for name in ends):
        return names
    return [name.removeprefix(common) for name in names]


def look_at_each(look: Callable[[Any], _Seen], items: list) -> list[_Seen]:
    """Look at each of many files, at several at once: a network makes it slow."""
    parts = [items[i : i + 256] for i in range(0, len(items), 256)]
    with ThreadPoolExecutor(32) as pool:
        found = pool.map(lambda part: [look(item) for item in part], parts)
    return [size for part in found for size in part]
