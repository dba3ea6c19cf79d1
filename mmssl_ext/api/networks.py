"""Which network a run trains and which teach it, by names and files."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmssl_ext.backbones import Backbone, backbone_named
from mmssl_ext.errors import CheckpointFileError, UserValueError
from mmssl_ext.files import path_named
from mmssl_ext.text import shown

from .recipe import STAGES

if TYPE_CHECKING:
    from mmssl_ext.engine.weights.files import Weights


def backbone_for(name: str | None, init: Any, usual: str) -> Backbone:
    """The backbone by its name, that of the starting weights, or the usual one.

    Args:
        name: Of :func:`~mmssl_ext.backbones.backbone_named`, or None.
        init: Starting weights, or None; they are read before anything is written.
        usual: Name of the one that is taken without both.

    Raises:
        UserError: There is no such backbone; the weights cannot be read, or do not say
            what network they are of.
    """
    if name is None:
        return backbone_named(usual) if init is None else backbone_of(init)
    found = backbone_named(name)
    if init is not None:
        _check_same(found, init)
    return found


def _check_same(asked: Backbone, init: Any) -> None:
    """Read starting weights, and refuse those that tell of another network.

    Networks of timm may have the names of others, which are compared as they load.
    """
    from mmssl_ext.transfer.handover import check_source

    weights = check_source(init)
    held = _told(weights) or _resnet(weights)
    if held is None or "timm:" in (held.name[:5], asked.name[:5]):
        return
    if held.family is not asked.family or (held.is_resnet and held.arch != asked.arch):
        raise UserValueError(
            f"{shown(init)} holds the weights of {held.name}, not of {asked.name}; "
            f"leave backbone out, or set it to '{held.name}'."
        )


def backbone_of(path: Any) -> Backbone:
    """The backbone whose weights a file holds.

    Raises:
        CheckpointFileError: It cannot be read.
        UserValueError: It does not tell which network it is of.
    """
    from mmssl_ext.engine.weights.files import read_weights

    weights = read_weights(path)
    found = _told(weights) or _resnet(weights)
    if found is None and str(path).startswith("timm:"):
        found = backbone_named(str(path))
    if found is None:
        raise UserValueError(
            f"{shown(path)} holds no ResNet of a known depth and does not tell which "
            "network it is of; say that by backbone, e.g. 'resnet50'."
        )
    return found


def check_teachers(given: Any) -> None:
    """Refuse what names no teacher.

    Args:
        given: As for :func:`teachers_of`.

    Raises:
        UserTypeError: One of them is neither a path nor a config.
        UserValueError: One of them, or the list of them, is empty.
    """
    if given is None:
        return
    listed = _listed(given)
    if not listed or any(x in ("", {}) for x in listed if isinstance(x, (str, dict))):
        raise UserValueError(
            f"teacher is empty: {given!r}. Name a file or folder, or leave it out."
        )
    for one in listed:
        if not isinstance(one, Mapping):
            path_named("teacher", one)


def _listed(given: Any) -> Sequence[Any]:
    """Teachers, of which one may stand alone."""
    several = isinstance(given, Sequence) and not isinstance(given, (str, bytes))
    return given if several else [given]


def teachers_of(given: Any, bands: Any = None) -> list[dict[str, Any]]:
    """Configs of ``FrozenTeacher`` for files, names and configs of teachers.

    Args:
        given: One of them, a list, or None.
        bands: Of the images, see :func:`mmssl_ext.pretrain`; a config says it itself.

    Raises:
        UserError: A file cannot be read, or does not tell which network it is of.
    """
    return [
        dict(one) if isinstance(one, Mapping) else _teacher(one, bands)
        for one in (_listed(given) if given is not None else [])
    ]


def whole_path(weights: Any) -> str:
    """A file or folder by its whole path; names of published weights as they are."""
    text = os.fspath(weights)
    named = text.split(":", 1)[0] in ("torchvision", "timm") or "://" in text
    return text if named else str(Path(os.path.expanduser(text)).absolute())


def place_of(weights: Any) -> str:
    """A file by its whole path, so that the config serves from any folder.

    Of a run's folder it is the last checkpoint.

    Raises:
        CheckpointFileError: A folder holds no run.
    """
    return str(checkpoint_of(whole_path(weights)))


def checkpoint_of(place: str | os.PathLike[str]) -> str | Path:
    """A file, or the last checkpoint of a run's folder.

    Raises:
        UserTypeError: It is no path.
        UserValueError: It is empty.
        CheckpointFileError: The folder holds no run.
    """
    if not Path(path_named("checkpoint", place)).is_dir():
        return os.fspath(place)
    from mmssl_ext.engine.checkpoint.run_folder import find_run

    found = find_run(Path(place))
    if found is None:
        raise CheckpointFileError(
            f"The folder {place} holds no run; give a checkpoint, or the folder of one "
            "that pretrain has made."
        )
    return found.newest


def _teacher(given: Any, bands: Any) -> dict[str, Any]:
    from mmssl_ext.datasets.transforms.bands import count_of

    found = {} if bands is None else {"in_channels": count_of(bands)}
    given = place_of(given)
    load = {"type": "mmssl_ext.PretrainedBackbone", "checkpoint": given}
    return {"backbone": {**_network(given), **found, "init_cfg": load}}


def _network(given: Any) -> dict[str, Any]:
    """Config of the backbone whose weights these are, without them."""
    if str(given).startswith("timm:"):
        from mmssl_ext.backbones.timm import timm_embedding
        from mmssl_ext.engine.weights.files import read_weights

        if _resnet(read_weights(given)) is None:
            return timm_embedding(str(given))
    network = backbone_of(given)
    if not network.is_resnet:
        return network.pretraining()
    width = network.arch["base_channels"]
    sizes = {"stem_channels": width, "base_channels": width} if width != 64 else {}
    depth = network.arch["depth"]
    return {"type": "ResNet", "depth": depth, "out_indices": STAGES, **sizes}


def _told(weights: Weights) -> Backbone | None:
    """The backbone that the config of a checkpoint names, if it has that."""
    if not weights.network:
        return None
    try:
        found = backbone_named(weights.network)
    except UserValueError:  # of another version, or anyone's
        return None
    config = {"type": found.pretraining()["type"], **found.arch}
    own = {name: weights.backbone.get(name) for name in config}
    return found if own == config else None


def _resnet(weights: Weights) -> Backbone | None:
    """The ResNet that the tensors are of, if they are of a plain one."""
    from mmssl_ext.engine.weights.report import averages_down, describe_resnet
    from mmssl_ext.transfer.handover import backbone_in, holds_resnet

    if not holds_resnet(weights):
        return None
    state, _, _ = backbone_in(weights)
    depth = re.match(r"ResNet-(\d+)\b", describe_resnet(state).get("depth", ""))
    stem, second = state.get("conv1.weight"), state.get("layer1.0.conv2.weight")
    grouped = second is not None and second.shape[0] != second.shape[1]
    if depth is None or stem is None or averages_down(state) or grouped:
        return None
    return backbone_named(f"resnet{depth[1]}-w{stem.shape[0]}")
