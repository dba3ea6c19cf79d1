"""Weights that torchvision and timm publish, by the names of their models."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock

from mmssl_ext.errors import CheckpointFileError
from mmssl_ext.files import drafted
from mmssl_ext.text import closest


def torchvision_url(name: str) -> str:
    """Where torchvision's best weights of a model are.

    Args:
        name: Of the model, e.g. ``resnet50``.

    Raises:
        CheckpointFileError: There is none of that name.
    """
    from torchvision import models

    try:
        return models.get_model_weights(name).DEFAULT.url
    except ValueError as error:
        near = closest(name, models.list_models())
        raise CheckpointFileError(
            f"torchvision has no weights of '{name}'.{near}"
        ) from error


def timm_file(name: str) -> Path:
    """A file of timm's weights of a model, made at the first use.

    It lies in torch's cache, as safetensors, with the model's licence, mean and
    standard deviation.

    Args:
        name: Of the model, with or without the tag of its weights, e.g.
            ``resnet50.a1_in1k``.

    Raises:
        CheckpointFileError: timm is not installed, knows no such weights, or cannot
            download them.
    """
    timm = _timm(name)
    folder = Path(torch.hub.get_dir(), "checkpoints", "mmssl_ext")
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"timm-{name.replace('/', '_')}.safetensors"
    with FileLock(f"{path}.lock"):
        if not path.is_file():
            _write(path, name, _download(timm, name))
    return path


def _timm(name: str) -> Any:
    try:
        import timm
    except ImportError as error:
        raise CheckpointFileError(
            f"timm:{name} needs timm: pip install 'mmssl_ext[timm]'."
        ) from error
    return timm


def _download(timm: Any, name: str) -> Any:
    if not timm.is_model_pretrained(name):
        known = timm.list_pretrained()
        if not timm.is_model(name.split(".")[0]):
            known = sorted({tagged.split(".")[0] for tagged in known})
        near = closest(name, known)
        raise CheckpointFileError(f"timm has no weights '{name}'.{near}")
    try:
        return timm.create_model(name, pretrained=True)
    except Exception as error:  # of the hub, the net or the file
        reason = " ".join(str(error).split())[:300]
        raise CheckpointFileError(
            f"timm could not get the weights of '{name}': {reason}. Download them on "
            "another machine and give the path of the file."
        ) from error


def _write(path: Path, name: str, model: Any) -> None:
    from safetensors.torch import save_file

    facts = getattr(model, "pretrained_cfg", {}) or {}
    record: dict[str, Any] = {"source": f"timm:{name}", "license": facts.get("license")}
    scaled = {key: [255.0 * x for x in facts.get(key) or ()] for key in ("mean", "std")}
    if all(scaled.values()):
        record["weights"] = {"input": {**scaled, "channel_order": "RGB"}}
    state = {key: value.contiguous() for key, value in model.state_dict().items()}
    with drafted(path) as draft:
        save_file(state, draft, metadata={"mmssl_ext": json.dumps(record)})
