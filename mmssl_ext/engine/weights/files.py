"""Reading the tensors of any weight file, whatever library wrote it."""

from __future__ import annotations

import pickle
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from mmssl_ext.engine.checkpoint.read import load_checkpoint_file
from mmssl_ext.errors import CheckpointFileError
from mmssl_ext.files import utf8_path
from mmssl_ext.pickles import load_plain

from .download import local_path
from .record import Record, as_dict, find_backbone, find_record

State = dict[str, Tensor]

# Where programs put their weights, the first that is there; then all that is nested.
_CONTAINERS = ("state_dict", "model", "model_state_dict", "net", "network", "weights")
_NO_WEIGHTS = re.compile(r"optim|sched|scaler|training_state|message_hub|meta$|amp$")
_DEPTH = 6  # of nested dicts

# How other programs name a ResNet: names by which such a one is known, and what makes
# torchvision's of them. The second numbers torchvision's children, as nn.Sequential
# does (2 is the ReLU, 3 the pooling); so lightly and others save it.
_SCHEMES: tuple[tuple[tuple[str, ...], tuple], ...] = (
    (
        ("stem.conv1.norm.weight", "res2.0.conv1.weight"),
        (
            (r"\.shortcut\.norm\.", ".downsample.1."),
            (r"\.shortcut\.", ".downsample.0."),
            (r"^stem\.conv1\.norm\.", "bn1."),
            (r"^stem\.conv1\.", "conv1."),
            (r"\.conv(\d)\.norm\.", r".bn\1."),
            (r"^res(\d)\.", lambda m: f"layer{int(m[1]) - 1}."),
        ),
    ),
    (
        ("4.0.conv1.weight", "0.weight", "1.running_var", "7.0.conv1.weight"),
        (
            (r"^0\.", "conv1."),
            (r"^1\.", "bn1."),
            (r"^([4-7])\.", lambda m: f"layer{int(m[1]) - 3}."),
        ),
    ),
)


class Weights(NamedTuple):
    """What a file holds.

    Attributes:
        tensors: By their full names.
        record: What they were trained as, see :func:`find_record`.
        path: Of the file, for messages.
        origin: What the file says of where they come from: ``start`` and ``teachers``,
            the files that their training began with, and ``data``, what identifies its
            images.
        license: As the file states it; empty where it does not.
        backbone: Config of their backbone, see :func:`find_backbone`.
        network: Name of that backbone, where their config says it.
    """

    tensors: State
    record: Record
    path: str | Path
    origin: dict[str, Any] | None = None
    license: str = ""
    backbone: Mapping[str, Any] = MappingProxyType({})
    network: str = ""


def read_tensors(path: str | Path, trust: bool = False) -> State:
    """The tensors alone of :func:`read_weights`."""
    return read_weights(path, trust).tensors


def read_weights(path: str | Path, trust: bool = False) -> Weights:
    """All tensors of a checkpoint or safetensors file, and what they were trained as.

    They are looked for below ``state_dict``, ``model`` and the like, and else in the
    whole file; the keys of nested dicts begin their names
    (``teacher.backbone.conv1.weight``). Arrays of NumPy count as tensors, also in the
    plain pickles of detectron2 (``.pkl``). The names of detectron2 and those of a
    ``nn.Sequential`` of a ResNet's children become torchvision's.

    Args:
        path: Of the file.
        trust: Let code stored in it run; see :func:`load_checkpoint_file`.

    Raises:
        CheckpointFileError: The file is missing, damaged, holds Python objects, or no
            tensors.
    """
    file = local_path(path)
    content = _read_safetensors(file) or _read_arrays(file)
    return weights_of(content or load_checkpoint_file(file, trust), path)


def weights_of(checkpoint: Mapping[str, Any], path: str | Path) -> Weights:
    """The weights in a checkpoint that has been read; as :func:`read_weights`.

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
    meta = checkpoint.get("meta") or checkpoint.get("__author__")
    told = as_dict(meta)
    origin = as_dict(told.get("origin"))
    if data := as_dict(told.get("data")):  # the list of the files stays behind
        origin = {**origin, "data": {n: data.get(n) for n in ("files", "digest")}}
    license = str(told.get("license") or told.get("licence") or "")
    named, record = _with_known_names(tensors), find_record(meta)
    backbone, network = find_backbone(meta)
    return Weights(named, record, path, origin, license, backbone, network)


def renamed(name: str, rules: tuple) -> str:
    """Apply pairs of pattern and replacement in turn."""
    for pattern, replacement in rules:
        name = re.sub(pattern, replacement, name)
    return name


def some(names: Iterable[str]) -> str:
    """The first of many names."""
    listed = list(names)
    return ", ".join(listed[:4]) + (", ..." if len(listed) > 4 else "")


def _read_safetensors(path: Path) -> Mapping[str, Any] | None:
    """As a checkpoint; None for other files."""
    if path.suffix != ".safetensors" or not path.is_file():
        return None
    from safetensors import SafetensorError, safe_open
    from safetensors.torch import load_file

    try:
        with utf8_path(path) as name:
            with safe_open(name, "pt") as file:
                meta = (file.metadata() or {}).get("mmssl_ext")
            return {"state_dict": load_file(name), "meta": meta}
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


def _with_known_names(tensors: State) -> State:
    """Rename the tensors of ResNets as torchvision, at whatever prefix they stand."""
    for known, rules in _SCHEMES:
        starts = [n.removesuffix(known[0]) for n in tensors if n.endswith(known[0])]
        for prefix in starts:  # such as that of a detector, backbone.bottom_up
            own = not prefix or prefix.endswith(".")
            if own and all(prefix + name in tensors for name in known):
                tensors = {
                    prefix + renamed(name.removeprefix(prefix), rules)
                    if name.startswith(prefix)
                    else name: value
                    for name, value in tensors.items()
                }
    return tensors
