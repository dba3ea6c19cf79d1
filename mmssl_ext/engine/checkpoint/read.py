"""Reading checkpoints: tensors and plain data only, damage found before use."""

from __future__ import annotations

import _codecs
import errno
import importlib
import os
import pickle
import re
import shlex
import time
import zipfile
from contextlib import AbstractContextManager, nullcontext
from logging import WARNING
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.logging import HistoryBuffer, print_log
from mmengine.runner.checkpoint import CheckpointLoader, get_torchvision_models
from mmengine.utils import digit_version

from mmssl_ext.engine.weights.download import fetch, local_path
from mmssl_ext.engine.weights.values import state_faults
from mmssl_ext.errors import CheckpointFileError
from mmssl_ext.files import sha256, utf8_path

from .manifest import ManifestError, manifest_path, read_manifest
from .order import newest_first
from .write import save_checkpoint_file, wait_for_checkpoints

HISTORY_LENGTH = 10_000  # logged values kept per scalar; smoothing windows are shorter


def _history_method(owner: Any, name: str) -> Any:
    """Stand in for the ``getattr`` by which a stored history names its statistics."""
    if owner is HistoryBuffer and name in ("current", "max", "mean", "min"):
        return getattr(owner, name)
    raise pickle.UnpicklingError(f"GLOBAL builtins.getattr of {owner!r}")


# What mmengine's own checkpoints hold besides tensors: the log's histories, with NumPy
# arrays and numbers. Restoring these runs no code of the file's.
_multiarray = importlib.import_module(np.ndarray.__reduce__(np.zeros(0))[0].__module__)
_HARMLESS: list[Any] = [
    HistoryBuffer,
    (_history_method, "builtins.getattr"),
    np.ndarray,
    np.dtype,
    _codecs.encode,
    *(
        (getattr(_multiarray, name), f"numpy.{core}.multiarray.{name}")
        for name in ("_reconstruct", "scalar")
        for core in ("core", "_core")  # of NumPy 1 and 2
    ),
    *{type(np.dtype(kind)) for kind in "?bBhHiIlLqQefd"},
]


class _Unusable(CheckpointFileError):
    """Also holds the part of the message that says what is wrong."""

    what = ""


_REMEDY = "Use an earlier checkpoint, or copy the file again from where it came."


def _unusable(path: Path, what: str, remedy: str = _REMEDY) -> _Unusable:
    error = _Unusable(f"Checkpoint {path} {what}. {remedy}")
    error.what = what
    return error


def load_checkpoint_file(
    path: str | Path, trust: bool = False, map_location: Any = "cpu"
) -> dict:
    """Read a checkpoint without running any code stored in it.

    The file is read with ``weights_only=True`` and never again without. Before that,
    its bytes are compared with its manifest or, where it has none, with the checksums
    that it holds itself; ``torch.load`` does not do that. A file is compared once in a
    process, until it changes.

    Args:
        path: Of the file.
        trust: Let code stored in the file run. Only for files whose origin is certain;
            :func:`plain_copy` is the better way.
        map_location: Where the tensors go, as for ``torch.load``.

    Raises:
        CheckpointFileError: The file is missing, damaged or holds more than tensors and
            plain data; the message says which and what to do.
    """
    path = _existing(path)
    if warning := _compare(path):
        print_log(warning, "current", WARNING)
    return _load(path, trust, map_location=map_location)


def check_checkpoint_file(path: str | Path, resume: bool = False) -> None:
    """Raise what :func:`load_checkpoint_file` would raise, but keep no tensors.

    Args:
        path: Of the file.
        resume: Also refuse a state with NaN or infinity, which no run can go on from.
    """
    path = _existing(path)
    if warning := _compare(path):
        print_log(warning, "current", WARNING)
    checkpoint = _load(path, mmap=True)
    if resume:
        _check_state(path, checkpoint)


def _check_state(path: Path, checkpoint: dict) -> None:
    if faults := state_faults(checkpoint):
        raise _unusable(path, f"comes from a run that diverged ({'; '.join(faults)})")


def look_into(path: Path) -> dict:
    """Return what a checkpoint holds; tensors stay in the file until they are used."""
    return _load(path, mmap=True)


def _existing(path: str | Path) -> Path:
    path = local_path(path)
    wait_for_checkpoints()
    if os.path.isfile(path):  # no error where the name is impossible
        return path
    what = "is a folder" if os.path.isdir(path) else "does not exist"
    raise CheckpointFileError(
        f"Checkpoint {path} {what}. Give the path of a .pth file; a run "
        "keeps its own in its work_dir."
    )


def plain_copy(path: str | Path, copy: str | Path) -> None:
    """Write the tensors and plain data of a trusted checkpoint, and nothing else.

    Code stored in ``path`` runs once; the copy holds none.
    """
    dropped: list[str] = []
    content = to_plain(load_checkpoint_file(path, trust=True), dropped)
    save_checkpoint_file(content, copy)
    left_out = f"; it leaves out {', '.join(dropped)}" if dropped else ""
    print_log(f"Wrote {copy}{left_out}.", "current")


def find_resumable(work_dir: str | Path) -> tuple[Path | None, list[str]]:
    """Find the newest checkpoint of a run that can be read.

    The one that ``last_checkpoint`` names comes first, the others by iteration. All
    bytes are compared as in :func:`load_checkpoint_file`, and a state with NaN or
    infinity is passed over.

    Returns:
        Its path, or ``None`` where the folder holds no checkpoint, and sentences for
        the log: one in all on newer files that had to be passed over.

    Raises:
        CheckpointFileError: There are checkpoints but none can be read.
    """
    wait_for_checkpoints()
    notes, bad = [], []
    for path in newest_first(Path(work_dir), look_into):
        try:
            note = _compare(path)
            _check_state(path, _load(path, mmap=True))
        except _Unusable as error:
            bad.append(f"Checkpoint {path} {error.what}")
            continue
        notes += [note] if note else []
        if bad:
            notes.append(f"{'; '.join(bad)}; the run goes on from {path} instead.")
        return path, notes
    if bad:
        raise CheckpointFileError(
            "\n".join(
                [
                    f"{work_dir} holds checkpoints, but none can be used:",
                    *(f"  {text}." for text in bad),
                    "Give the path of another one to --resume, or start afresh in "
                    "another work_dir.",
                ]
            )
        )
    return None, []


# Files whose bytes are known to be right: device, inode, size and time of change.
_compared: set[tuple[int, int, int, int]] = set()


def _compare(path: Path) -> str:
    """Compare a file with its manifest or else with its own checksums.

    Returns:
        A sentence for the log where the manifest is damaged; else nothing.

    Raises:
        _Unusable: The file is damaged.
    """
    warning = ""
    try:
        state = path.stat()
        key = state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns
        if key in _compared:
            return warning
        try:
            manifest = read_manifest(path)
        except ManifestError as error:
            manifest = None
            warning = f"{error}; {path.name} is judged by the checksums that it holds."
        if manifest is None:
            fault = _fault_in_zip(path)
        elif state.st_size != manifest["bytes"]:
            fault = f"its manifest says {manifest['bytes']}"
        elif sha256(path) != manifest["sha256"]:
            fault = "SHA-256 other than its manifest says"
        else:
            fault = ""
    except OSError as error:
        raise _unusable(path, f"cannot be read ({error})") from error
    if fault:
        what = f"is truncated or damaged ({state.st_size} bytes, {fault})"
        changed = f" If you changed it on purpose, delete {manifest_path(path)}."
        raise _unusable(path, what, _REMEDY + (changed if manifest else ""))
    # A change within the resolution of the file system's clock would not show.
    if time.time_ns() - state.st_mtime_ns > 10**9:
        _compared.add(key)
    return warning


def _fault_in_zip(path: Path) -> str:
    if not _is_zip(path):
        return ""  # the older format, without checksums
    try:
        with zipfile.ZipFile(path) as archive:
            entry = archive.testzip()
    except Exception as error:  # damage can look like anything to zipfile
        if isinstance(error, OSError) and error.errno != errno.EINVAL:
            raise  # not the file, but the disk
        return "its end is missing or broken"
    return f"checksum of {entry} is wrong" if entry else ""


def _is_zip(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4) == b"PK\x03\x04"


def _load(
    path: Path, trust: bool = False, mmap: bool = False, map_location: Any = "cpu"
) -> dict:
    """Load a file whose bytes have been compared; by ``mmap``, only look into it."""
    options: dict[str, Any] = {"map_location": map_location, "weights_only": not trust}
    if trust:
        print_log(f"Loading {path} with trust: its code runs.", "current", WARNING)
    try:
        zipped = _is_zip(path)
        with _histories_allowed(), utf8_path(path) as name:
            checkpoint = torch.load(name, mmap=mmap and zipped, **options)
    except OSError as error:
        raise _unusable(path, f"cannot be read ({error})") from error
    except Exception as error:  # damage can look like anything to torch
        named = re.search(r"GLOBAL (\S+)", str(error))
        refused = isinstance(error, pickle.UnpicklingError) and not trust
        if refused and (zipped or named):
            what = f" ({named.group(1)})" if named else ""
            code = f"from {__name__} import plain_copy as copy; "
            code += f"copy({str(path)!r}, 'plain.pth')"
            raise _unusable(
                path,
                f"holds Python objects{what} besides tensors and plain data, and "
                "loading them could run code",
                "It was refused. If you trust its origin, write a plain copy and use "
                f"that: {shlex.join(['python', '-c', code])}",
            ) from error
        if zipped:  # its checksums are right
            reason = f"{type(error).__name__}: {error}".splitlines()[0]
            raise _unusable(path, f"cannot be loaded ({reason})") from error
        size = path.stat().st_size
        what = f"is truncated or damaged ({size} bytes), or torch did not write it"
        raise _unusable(path, what) from error
    if not isinstance(checkpoint, dict):
        raise _unusable(
            path,
            f"holds a {type(checkpoint).__name__}, not a dict of tensors",
            "Save its state_dict().",
        )
    return checkpoint


def _histories_allowed() -> AbstractContextManager:
    if digit_version(torch.__version__) < digit_version("2.6"):
        return nullcontext()  # has no names of our own choice for what is allowed
    return torch.serialization.safe_globals(_HARMLESS)


def to_plain(value: Any, dropped: list[str], where: str = "") -> Any:
    """Copy of nested data that holds only tensors and built-in types.

    Histories become dicts of tensors (see :func:`restore_histories`), NumPy scalars and
    arrays become numbers and tensors, sets become lists. Anything else is left out and
    its place appended to ``dropped``.
    """
    if value is None or type(value) in (bool, int, float, complex, str, bytes):
        return value
    if isinstance(value, torch.Tensor):
        return value
    if isinstance(value, HistoryBuffer):
        logs, counts = (
            torch.as_tensor(x)[-HISTORY_LENGTH:].clone() for x in value.data
        )
        return {"history": logs, "count": counts, "max_length": value.max_length}
    if isinstance(value, dict):
        kind = type(value)
        plain: Any = {} if kind.__name__ != "OrderedDict" else kind()
        for key, item in value.items():
            place = f"{where}.{key}" if where else str(key)
            count = len(dropped)
            result = to_plain(item, dropped, place)
            if len(dropped) == count or dropped[-1] != place:
                plain[to_plain(key, dropped, place)] = result
        if hasattr(value, "_metadata"):  # module versions beside a state_dict
            plain._metadata = to_plain(dict(value._metadata), dropped, where)
        return plain
    if isinstance(value, (list, tuple, set, frozenset)):
        items = [
            to_plain(item, dropped, f"{where}[{i}]") for i, item in enumerate(value)
        ]
        return tuple(items) if isinstance(value, tuple) else items
    if type(value).__module__ == "numpy":
        plain = value.tolist()
        if not isinstance(plain, list):
            return plain
        numeric = value.dtype.kind in "biuf"
        return torch.from_numpy(value.copy()) if numeric else plain
    for builtin in (str, bool, int, float):  # subclasses, e.g. enums and paths of str
        if isinstance(value, builtin):
            return builtin(value)
    if isinstance(value, Path):
        return str(value)
    dropped.append(where)
    return None


def restore_histories(log_scalars: dict) -> None:
    """Turn what :func:`to_plain` made of histories back, in place."""
    for key, value in log_scalars.items():
        if isinstance(value, dict) and "history" in value:
            log_scalars[key] = HistoryBuffer(
                value["history"].tolist(), value["count"].tolist(), value["max_length"]
            )


def load_from_local(filename: str, map_location: Any = None) -> dict:
    """Read a file for mmengine, whose own loader runs code where it refuses first."""
    return load_checkpoint_file(filename, map_location=map_location or "cpu")


def load_from_http(url: str, map_location: Any = None) -> dict:
    """Download a file (see :func:`fetch`) and read it like any other."""
    return load_from_local(str(fetch(url)), map_location)


def load_from_torchvision(name: str, map_location: Any = None) -> dict:
    """Download weights that torchvision publishes."""
    urls, model = get_torchvision_models(), name.split("://")[1]
    if model not in urls:
        raise CheckpointFileError(f"{name}: torchvision has no weights of that name.")
    return load_from_http(urls[model], map_location)


def load_from_elsewhere(name: str, map_location: Any = None) -> dict:
    """Refuse what mmengine would load with the rights to run code."""
    raise CheckpointFileError(f"Download {name} first and give the path of the file.")


for _prefixes, _loader in {
    ("",): load_from_local,
    ("http://", "https://"): load_from_http,
    ("torchvision://", "modelzoo://"): load_from_torchvision,
    (
        *("open-mmlab://", "openmmlab://", "mmcls://", "pavi://"),
        *(r"(\S+\:)?s3://", r"(\S+\:)?petrel://"),
    ): load_from_elsewhere,
}.items():
    CheckpointLoader.register_scheme(_prefixes, _loader, force=True)
