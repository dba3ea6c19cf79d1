"""Pictures of what a network has learned, from a model and some images."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from copy import deepcopy
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.registry import init_default_scope

from mmssl_ext import compat
from mmssl_ext.datasets.base import build_pipeline
from mmssl_ext.datasets.folder import ImageFolder
from mmssl_ext.datasets.look import warn_of_unread
from mmssl_ext.engine.config.checks import check_config
from mmssl_ext.engine.config.read import import_modules
from mmssl_ext.engine.weights.strict import load_strictly
from mmssl_ext.errors import ConfigError, UserError, UserValueError
from mmssl_ext.evaluation.features import preserved_rng
from mmssl_ext.files import write_text
from mmssl_ext.imports import quietly
from mmssl_ext.registry import MODELS

from . import LEARNED, METHOD
from .images import warn
from .sheet import check_png, write_png
from .subject import Options, Subject, undisturbed

FOLDER, INDEX = "pictures", "index.json"
DRAWINGS: dict[str, Any] = {
    kind: import_module(f"{__package__}.{kind}") for kind in (METHOD, *LEARNED)
}


class Picture(NamedTuple):
    """One drawn picture."""

    kind: str  # one of DRAWINGS
    title: str
    caption: str  # what it shows, and how a good and a bad one look
    pixels: np.ndarray  # H x W x 3


def draw(subject: Subject, kind: str) -> Picture:
    """Draw one kind; the model's modes and all generators stay as they were.

    Raises:
        ConfigError: There is nothing of this kind to draw; the sentence says why.
        FileNotFoundError: No image can be read.
    """
    module = DRAWINGS[kind]
    with undisturbed(subject.model):
        sheet = module.draw(subject)
    caption = " ".join([*sheet.captions, module.JUDGE])
    return Picture(kind, module.TITLE, caption, sheet.pixels())


def save(
    pictures: Sequence[Picture], folder: Path, checkpoint: str | None, epoch: int
) -> None:
    """Write pictures and the index that describes them, which is written last.

    Pictures of an earlier index that are not among these are deleted.
    """
    entries = []
    for kind, title, caption, pixels in pictures:
        file = write_png(pixels, folder / f"{kind}.png").name
        height, width, _ = pixels.shape
        entry = {"file": file, "kind": kind, "title": title, "caption": caption}
        entries.append(entry | {"width": width, "height": height})
    index = {"checkpoint": checkpoint, "epoch": epoch, "pictures": entries}
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / INDEX, json.dumps(index, indent=1) + "\n")
    for kind in set(LEARNED) - {picture.kind for picture in pictures}:
        (folder / f"{kind}.png").unlink(missing_ok=True)


def write_pictures(
    cfg: Config,
    checkpoint: str | Path,
    images: str | Path,
    out: str | Path,
    kinds: Sequence[str] = (METHOD,),
    compare: str | None = None,
    **options: Any,
) -> list[Path]:
    """Draw what a checkpoint has learned, from a folder of images.

    Args:
        cfg: Config of the pretraining.
        checkpoint: Its weights; they must fit the model exactly.
        images: Any folder of images; class subfolders, where it has them, colour
            points and frames.
        out: A PNG for one kind, else a folder, ``<kind>.png`` in it.
        kinds: Of :data:`DRAWINGS`, or ``all``.
        compare: ``random`` to show the untrained network beside it where that helps.
        **options: Those of :class:`Options`.

    Returns:
        The files.

    Raises:
        UserError: Config or checkpoint cannot be used, or have nothing to draw.
        ValueError: An option is of no use.
        FileNotFoundError: The folder is missing or holds no image that can be read.
    """
    out, everything = Path(out), "all" in kinds
    wanted = list(DRAWINGS) if everything else list(dict.fromkeys(kinds))
    if unknown := set(wanted).difference(DRAWINGS):
        raise UserValueError(
            f"--kind {min(unknown)}: choose of {', '.join(DRAWINGS)}, all."
        )
    if len(wanted) == 1:
        check_png(out)
    elif out.suffix:
        raise UserValueError(
            f"Several kinds make several files; let --out be a folder, not {out}."
        )
    subject = load_subject(cfg, checkpoint, images, Options(**options), bool(compare))
    files = []
    for kind in wanted:
        try:
            pixels = draw(subject, kind).pixels
        except (UserError, UserValueError) as error:
            if not everything:
                raise
            warn(f"No picture '{kind}': {error}")
            continue
        files.append(write_png(pixels, out if out.suffix else out / f"{kind}.png"))
    return files


def load_subject(
    cfg: Config,
    checkpoint: str | Path,
    images: str | Path,
    options: Options,
    compare: bool = False,
) -> Subject:
    """Build the network of a pretraining, with its weights, and find the images.

    Raises:
        UserError: Config or checkpoint cannot be used.
        FileNotFoundError: The folder is missing or holds no image.
    """
    loader = cfg.get("train_dataloader")
    pipeline = ((loader or {}).get("dataset") or {}).get("pipeline")
    if cfg.get("model") is None or not pipeline:
        raise ConfigError(
            "The config has no model or no train_dataloader.dataset.pipeline, which "
            "makes the views; give the config of a pretraining."
        )
    import_modules(cfg)
    check_config({"model": cfg.model, "train_dataloader": loader})
    init_default_scope(cfg.get("default_scope", "mmssl_ext"))
    dataset = ImageFolder(str(images))
    warn_of_unread(dataset)
    model = MODELS.build(cfg.model).to(get_device()).eval()
    load_strictly(model, checkpoint)
    if not hasattr(model, "backbone"):
        raise ConfigError(f"{type(model).__name__} has no backbone to look into.")
    untrained = None
    if compare:
        untrained = untrained_of(model, cfg.model.backbone, options.seed)
    steps = build_pipeline(pipeline)
    return Subject(model, dataset, steps, options, untrained, folders=True)


def untrained_of(model: Any, backbone: Mapping[str, Any], seed: int) -> Any:
    """The model with random weights in its backbone, also where it began with others.

    All else is that of the model itself, not a copy.
    """
    config = {k: v for k, v in deepcopy(dict(backbone)).items() if k != "init_cfg"}
    with preserved_rng(), quietly():  # a line for every tensor
        torch.manual_seed(seed)
        fresh = MODELS.build(config)
        fresh.init_weights()
    fresh.to(get_device()).train(model.training)
    return compat.with_module(model, "backbone", fresh)
