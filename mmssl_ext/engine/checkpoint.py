"""Reading checkpoints: tensors and plain data only, damage found before use."""

from __future__ import annotations

import _codecs
import importlib
import pickle
import re
import zipfile
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.logging import HistoryBuffer
from mmengine.utils import digit_version

from .checkpoint_writing import wait_for_checkpoints
from .errors import CheckpointFileError

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


def load_checkpoint_file(path: str | Path) -> dict:
    """Read a checkpoint onto the host without running any code stored in it.

    The file is read with ``weights_only=True`` and never again without. The checksum
    of every entry is verified first, which ``torch.load`` does not do.

    Raises:
        CheckpointFileError: The file is missing, damaged or holds more than tensors and
            plain data; the message says which and what to do.
    """
    path = Path(path).expanduser()
    wait_for_checkpoints()
    if not path.is_file():
        raise CheckpointFileError(
            f"Checkpoint {path} does not exist. Give the path of a .pth file; a run "
            "keeps its own in its work_dir."
        )
    damaged = CheckpointFileError(
        f"Checkpoint {path} ({path.stat().st_size} bytes) is truncated or damaged. Use "
        "an earlier checkpoint, or copy the file again from where it came."
    )
    with path.open("rb") as file:
        zipped = file.read(4) == b"PK\x03\x04"
    try:
        if zipped:
            with zipfile.ZipFile(path) as archive:
                if archive.testzip() is not None:
                    raise damaged
        with _histories_allowed():
            checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        named = re.search(r"GLOBAL (\S+)", str(error))
        if not zipped and named is None:
            raise damaged from error
        what = f" ({named.group(1)})" if named else ""
        raise CheckpointFileError(
            f"Checkpoint {path} holds Python objects{what} besides tensors and plain "
            "data. Loading them could run code, so it was refused. If you trust its "
            "origin, load it once with torch.load(..., weights_only=False) in your own "
            "script and save its state_dict alone."
        ) from error
    except (zipfile.BadZipFile, RuntimeError, EOFError, ValueError, KeyError) as error:
        raise damaged from error
    if not isinstance(checkpoint, dict):
        raise CheckpointFileError(
            f"Checkpoint {path} holds a {type(checkpoint).__name__}, not a dict of "
            "tensors; it was not written by this package."
        )
    return checkpoint


def _histories_allowed() -> AbstractContextManager:
    if digit_version(torch.__version__) < digit_version("2.6"):
        return nullcontext()  # has no names of our own choice for what is allowed
    return torch.serialization.safe_globals(_HARMLESS)


def find_resumable(work_dir: str | Path) -> tuple[Path | None, list[str]]:
    """Newest checkpoint of a run that can be read.

    Returns:
        Its path, or ``None`` where the folder holds no checkpoint, and one sentence for
        each newer file that had to be passed over.

    Raises:
        CheckpointFileError: There are checkpoints but none can be read.
    """
    work_dir = Path(work_dir)
    wait_for_checkpoints()
    files = [
        *work_dir.glob("epoch_*.pth"),
        *work_dir.glob("iter_*.pth"),
    ]
    files.sort(key=lambda file: file.stat().st_mtime, reverse=True)
    pointer = work_dir / "last_checkpoint"
    if pointer.is_file():
        last = Path(pointer.read_text().strip())
        # The folder may have been moved since: then the file of that name in it counts.
        last = last if last.is_file() else work_dir / last.name
        if last.is_file():
            files = [last, *(file for file in files if not file.samefile(last))]
    passed_over = []
    for file in files:
        try:
            load_checkpoint_file(file)
        except CheckpointFileError as error:
            passed_over.append(str(error))
        else:
            return file, passed_over
    if passed_over:
        raise CheckpointFileError("\n".join(passed_over))
    return None, []


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
