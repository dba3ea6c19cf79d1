"""Reading the tensors of any weight file, whatever library wrote it."""

from __future__ import annotations

import contextlib
import json
import pickle
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mmssl_ext.engine.checkpoint.read import load_checkpoint_file
from mmssl_ext.errors import CheckpointFileError
from mmssl_ext.files import utf8_path
from mmssl_ext.pickles import load_plain

from .download import local_path
from .record import Record, find_record

State = dict[str, Tensor]

# Where programs put their weights, the first that is there; then all that is nested.
_CONTAINERS = ("state_dict", "model", "model_state_dict", "net", "network", "weights")
_NO_WEIGHTS = re.compile(r"optim|sched|scaler|training_state|message_hub|meta$|amp$")
_DEPTH = 6  # of nested dicts

_FROM_DETECTRON2 = (
    (r"\.shortcut\.norm\.", ".downsample.1."),
    (r"\.shortcut\.", ".downsample.0."),
    (r"^stem\.conv1\.norm\.", "bn1."),
    (r"^stem\.conv1\.", "conv1."),
    (r"\.conv(\d)\.norm\.", r".bn\1."),
    (r"^res(\d)\.", lambda m: f"layer{int(m[1]) - 1}."),
)
# Children of torchvision's ResNet by their numbers; 2 is the ReLU, 3 the pooling.
_NUMBERED = {"0": "conv1", "1": "bn1"} | {str(i + 3): f"layer{i}" for i in range(1, 5)}


def read_tensors(path: str | Path, trust: bool = False) -> State:
    """The tensors alone of :func:`read_weights`."""
    return read_weights(path, trust)[0]


def read_weights(path: str | Path, trust: bool = False) -> tuple[State, Record]:
    """All tensors of a checkpoint or safetensors file, and what they were trained as.

    They are looked for below ``state_dict``, ``model`` and the like, and else in the
    whole file; the keys of nested dicts begin their names
    (``teacher.backbone.conv1.weight``). Arrays of NumPy count as tensors, also in the
    plain pickles of detectron2 (``.pkl``). The names of detectron2 and those of a
    ``nn.Sequential`` of a ResNet's children become torchvision's.

    Args:
        path: Of the file.
        trust: Let code stored in it run; see :func:`load_checkpoint_file`.

    Returns:
        The tensors by their full names, and the record that :func:`find_record` finds.

    Raises:
        CheckpointFileError: The file is missing, damaged, holds Python objects, or no
            tensors.
    """
    path = local_path(path)
    if path.suffix == ".safetensors" and path.is_file():
        tensors, meta = _read_safetensors(path)
        return _with_known_names(tensors), find_record(meta)
    checkpoint = _read_arrays(path) or load_checkpoint_file(path, trust)
    meta = checkpoint.get("meta") or checkpoint.get("__author__")
    return find_tensors(checkpoint, path), find_record(_decoded(meta))


def _read_safetensors(path: Path) -> tuple[State, Any]:
    from safetensors import SafetensorError, safe_open
    from safetensors.torch import load_file

    try:
        with utf8_path(path) as name:
            with safe_open(name, "pt") as file:
                meta = (file.metadata() or {}).get("mmssl_ext")
            return load_file(name), _decoded(meta)
    except (SafetensorError, ValueError) as error:
        raise CheckpointFileError(
            f"{path} ({path.stat().st_size} bytes) is damaged or no safetensors "
            f"file: {error}."
        ) from error


def _read_arrays(path: Path) -> Mapping[str, Any] | None:
    """A dict that Python's pickle wrote, not torch, as detectron2's files of weights.

    None for other files; nothing of the file is run.

    Raises:
        CheckpointFileError: It is a pickle of more than arrays and plain data.
    """
    if path.suffix not in (".pkl", ".pickle") or not path.is_file():
        return None
    data = path.read_bytes()
    if data.startswith(b"PK"):  # torch's own format
        return None
    try:
        content = load_plain(data, "latin1")
    except pickle.UnpicklingError as error:
        raise CheckpointFileError(
            f"{path} ({len(data)} bytes) cannot be read as a pickle of arrays: "
            f"{error}. Copy it again, or save the tensors alone by torch.save."
        ) from error
    return content if isinstance(content, Mapping) else None  # torch's old format


def _decoded(meta: Any) -> Any:
    """What stands as JSON in formats that hold text alone."""
    if isinstance(meta, str):
        with contextlib.suppress(ValueError):
            return json.loads(meta)
    return meta


def find_tensors(checkpoint: Mapping[str, Any], path: str | Path) -> State:
    """The tensors in a checkpoint that has been read; as :func:`read_weights`.

    Raises:
        CheckpointFileError: There are none.
    """
    tensors: State = {}
    for container in (*map(checkpoint.get, _CONTAINERS), checkpoint):
        if isinstance(container, Mapping):
            tensors = tensors or dict(_nested(container))
    if not tensors:
        raise CheckpointFileError(
            f"Checkpoint {path} holds no tensors at its top level, nor below "
            f"'state_dict', 'model' or another name. It has: "
            f"{some(map(str, checkpoint))}."
        )
    return _with_known_names(tensors)


def _with_known_names(tensors: Mapping[str, Tensor]) -> State:
    """Rename the tensors of a ResNet as torchvision, where they are named otherwise."""
    ends = "stem.conv1.norm.weight", "res2.0.conv1.weight"
    prefixes = [n.removesuffix(ends[0]) for n in tensors if n.endswith(ends[0])]
    for prefix in prefixes:  # such as that of a detector, backbone.bottom_up
        if prefix + ends[1] in tensors:
            tensors = {
                prefix + renamed(name.removeprefix(prefix), _FROM_DETECTRON2)
                if name.startswith(prefix)
                else name: value
                for name, value in tensors.items()
            }
    return _from_sequential(tensors)


def from_detectron2(state: Mapping[str, Tensor]) -> State:
    """Rename a ResNet's tensors from detectron2's names to torchvision's."""
    return {renamed(name, _FROM_DETECTRON2): value for name, value in state.items()}


def renamed(name: str, rules: tuple) -> str:
    """Apply pairs of pattern and replacement in turn."""
    for pattern, replacement in rules:
        name = re.sub(pattern, replacement, name)
    return name


def some(names: Iterable[str]) -> str:
    """The first of many names."""
    listed = list(names)
    return ", ".join(listed[:4]) + (", ..." if len(listed) > 4 else "")


def _nested(container: Mapping, depth: int = _DEPTH) -> Iterator[tuple[str, Tensor]]:
    for key, value in container.items():
        if isinstance(value, Tensor):
            yield str(key), value
        elif isinstance(value, np.ndarray) and value.dtype.kind in "fiub":
            native = value.astype(value.dtype.newbyteorder("="))
            yield str(key), torch.from_numpy(native)
        elif isinstance(value, Mapping) and depth and not _NO_WEIGHTS.search(str(key)):
            for name, tensor in _nested(value, depth - 1):
                yield f"{key}.{name}", tensor


def _from_sequential(tensors: Mapping[str, Tensor]) -> State:
    """Name the children of a ResNet that ``nn.Sequential(*children)`` has numbered.

    So lightly and others save it: ``backbone.4.0.conv1.weight`` is of ``layer1``.
    """
    heads = ("0.weight", "1.running_var", "4.0.conv1.weight", "7.0.conv1.weight")
    prefixes = [
        name.removesuffix(heads[2])
        for name in tensors
        if re.search(r"(^|\.)4\.0\.conv1\.weight$", name)
    ]
    for prefix in prefixes:
        if all(prefix + head in tensors for head in heads):
            tensors = {
                _child(name, prefix) if name.startswith(prefix) else name: value
                for name, value in tensors.items()
            }
    return dict(tensors)


def _child(name: str, prefix: str) -> str:
    number, dot, rest = name[len(prefix) :].partition(".")
    return f"{prefix}{_NUMBERED.get(number, number)}{dot}{rest}"
