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
from .plain import to_plain
from .run_folder import newest_first
from .write import save_checkpoint_file, wait_for_checkpoints

_REMEDY = "Use an earlier checkpoint, or copy the file again from where it came."


class _Unusable(CheckpointFileError):
    """A file that cannot be used, with what is wrong with it by itself."""

    def __init__(self, path: Path, what: str, remedy: str = _REMEDY) -> None:
        self.what = f"Checkpoint {path} {what}"
        super().__init__(f"{self.what}. {remedy}")


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
    return _load(_sound(path), trust, map_location=map_location)


def check_checkpoint_file(path: str | Path, resume: bool = False) -> None:
    """Raise what :func:`load_checkpoint_file` would raise, but keep no tensors.

    Args:
        path: Of the file.
        resume: Also refuse a state with NaN or infinity, which no run can go on from.
    """
    checkpoint = look_into(path := _sound(path))
    if resume:
        check_finite(checkpoint, path)


def check_finite(checkpoint: dict, path: Any) -> None:
    """Refuse a state with NaN or infinity.

    Raises:
        CheckpointFileError: The message names the tensors.
    """
    if faults := state_faults(checkpoint):
        raise _Unusable(path, f"comes from a run that diverged ({'; '.join(faults)})")


def look_into(path: Path) -> dict:
    """Return what a checkpoint holds; tensors stay in the file until they are used."""
    return _load(path, mmap=True)


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
            check_finite(look_into(path), path)
        except _Unusable as error:
            bad.append(error.what)
            continue
        notes += [note] if note else []
        if bad:
            notes.append(f"{'; '.join(bad)}; the run goes on from {path} instead.")
        return path, notes
    if bad:
        raise CheckpointFileError(
            f"{work_dir} holds checkpoints, but none can be used:"
            + "".join(f"\n  {text}." for text in bad)
            + "\n"
            "Give the path of another one to --resume, or start afresh in another "
            "work_dir."
        )
    return None, []


def plain_copy(path: str | Path, copy: str | Path) -> None:
    """Write the tensors and plain data of a trusted checkpoint, and nothing else.

    Code stored in ``path`` runs once; the copy holds none.
    """
    dropped: list[str] = []
    content = to_plain(load_checkpoint_file(path, trust=True), dropped)
    save_checkpoint_file(content, copy)
    left_out = f"; it leaves out {', '.join(dropped)}" if dropped else ""
    print_log(f"Wrote {copy}{left_out}.", "current")


def _sound(path: str | Path) -> Path:
    """Return the path of a file whose bytes are those that were written."""
    path = local_path(path)
    wait_for_checkpoints()
    if not os.path.isfile(path):  # no error where the name is impossible
        what = "is a folder" if os.path.isdir(path) else "does not exist"
        raise CheckpointFileError(
            f"Checkpoint {path} {what}. Give the path of a .pth file; a run "
            "keeps its own in its work_dir."
        )
    if warning := _compare(path):
        print_log(warning, "current", WARNING)
    return path


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
        raise _Unusable(path, f"cannot be read ({error})") from error
    if fault:
        what = f"is truncated or damaged ({state.st_size} bytes, {fault})"
        changed = f" If you changed it on purpose, delete {manifest_path(path)}."
        raise _Unusable(path, what, _REMEDY + (changed if manifest else ""))
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
        raise _Unusable(path, f"cannot be read ({error})") from error
    except Exception as error:  # damage can look like anything to torch
        raise _refusal(path, error, zipped, trust) from error
    if not isinstance(checkpoint, dict):
        what = f"holds a {type(checkpoint).__name__}, not a dict of tensors"
        raise _Unusable(path, what, "Save its state_dict().")
    return checkpoint


def _refusal(path: Path, error: Exception, zipped: bool, trust: bool) -> _Unusable:
    """Tell stored code, a fault of torch and damage apart."""
    named = re.search(r"GLOBAL (\S+)", str(error))
    if isinstance(error, pickle.UnpicklingError) and not trust and (zipped or named):
        what = f" ({named.group(1)})" if named else ""
        code = f"from {__name__} import plain_copy as copy; "
        code += f"copy({str(path)!r}, 'plain.pth')"
        return _Unusable(
            path,
            f"holds Python objects{what} besides tensors and plain data, and loading "
            "them could run code",
            "It was refused. If you trust its origin, write a plain copy and use "
            f"that: {shlex.join(['python', '-c', code])}",
        )
    if zipped:  # its checksums are right
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        return _Unusable(path, f"cannot be loaded ({reason})")
    size = path.stat().st_size
    what = f"is truncated or damaged ({size} bytes), or torch did not write it"
    return _Unusable(path, what)


# What mmengine's own checkpoints hold besides tensors: the log's histories, with NumPy
# arrays and numbers. Restoring these runs no code of the file's.
def _history_method(owner: Any, name: str) -> Any:
    """Stand in for the ``getattr`` by which a stored history names its statistics."""
    if owner is HistoryBuffer and name in ("current", "max", "mean", "min"):
        return getattr(owner, name)
    raise pickle.UnpicklingError(f"GLOBAL builtins.getattr of {owner!r}")


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


def _histories_allowed() -> AbstractContextManager:
    if digit_version(torch.__version__) < digit_version("2.6"):
        return nullcontext()  # has no names of our own choice for what is allowed
    return torch.serialization.safe_globals(_HARMLESS)


def load_for_mmengine(name: str, map_location: Any = None) -> dict:
    """Read a file for mmengine, whose own loaders run code where they refuse first."""
    scheme, _, rest = name.rpartition("://")
    if scheme in ("torchvision", "modelzoo"):
        if (found := get_torchvision_models().get(rest)) is None:
            raise CheckpointFileError(
                f"{name}: torchvision has no weights of that name."
            )
        name = str(fetch(found))
    elif scheme in ("http", "https"):
        name = str(fetch(name))
    return load_checkpoint_file(name, map_location=map_location or "cpu")


for _scheme in (
    *("", "http://", "https://", "torchvision://", "modelzoo://", "open-mmlab://"),
    *("openmmlab://", "mmcls://", "pavi://", r"(\S+\:)?s3://", r"(\S+\:)?petrel://"),
):
    CheckpointLoader.register_scheme(_scheme, load_for_mmengine, force=True)

load_from_http = load_for_mmengine  # its name in version 0.1
