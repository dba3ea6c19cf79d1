"""Tensors and built-in types in place of everything else that a checkpoint may hold."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from mmengine.logging import HistoryBuffer

from mmssl_ext.compat import copy_versions

HISTORY_LENGTH = 10_000  # logged values kept per scalar; smoothing windows are shorter
_GONE = object()


def to_plain(value: Any, dropped: list[str], where: str = "") -> Any:
    """Copy of nested data that holds only tensors and built-in types.

    Histories become dicts of tensors (see :func:`restore_histories`), NumPy scalars and
    arrays become numbers and tensors, sets become lists. Anything else is left out and
    its place appended to ``dropped``.
    """
    plain = _plain(value, dropped, where)
    return None if plain is _GONE else plain


def _plain(value: Any, dropped: list[str], where: str) -> Any:
    if isinstance(value, torch.Tensor):
        return value
    if value is None or type(value) in (bool, int, float, complex, str, bytes):
        return value
    if isinstance(value, HistoryBuffer):
        logs, counts = (
            torch.as_tensor(x)[-HISTORY_LENGTH:].clone() for x in value.data
        )
        return {"history": logs, "count": counts, "max_length": value.max_length}
    if isinstance(value, dict):
        kind = type(value) if type(value).__name__ == "OrderedDict" else dict
        plain = kind()
        for key, item in value.items():
            found = _plain(item, dropped, f"{where}.{key}" if where else str(key))
            if found is not _GONE:
                plain[to_plain(key, dropped, where)] = found
        copy_versions(value, plain)  # of modules, beside a state_dict
        return plain
    if isinstance(value, (list, tuple, set, frozenset)):
        items = [to_plain(x, dropped, f"{where}[{i}]") for i, x in enumerate(value)]
        return tuple(items) if isinstance(value, tuple) else items
    if type(value).__module__ == "numpy":
        is_array = getattr(value, "ndim", 0) > 0 and value.dtype.kind in "biuf"
        return torch.from_numpy(value.copy()) if is_array else value.tolist()
    for builtin in (str, bool, int, float):  # subclasses, e.g. enums
        if isinstance(value, builtin):
            return builtin(value)
    if isinstance(value, Path):
        return str(value)
    dropped.append(where)
    return _GONE


def restore_histories(log_scalars: dict) -> None:
    """Turn what :func:`to_plain` made of histories back, in place."""
    for key, value in log_scalars.items():
        if isinstance(value, dict) and "history" in value:
            log_scalars[key] = HistoryBuffer(
                value["history"].tolist(), value["count"].tolist(), value["max_length"]
            )
