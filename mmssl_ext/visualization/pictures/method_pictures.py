"""A picture of what a trained method does to a few images of a folder."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.logging import print_log
from mmengine.registry import init_default_scope

from mmssl_ext.datasets.folder import ImageFolder
from mmssl_ext.datasets.transforms.decode import UnreadableImageError
from mmssl_ext.engine.config.checks import check_config
from mmssl_ext.engine.weights.strict import load_strictly
from mmssl_ext.errors import ConfigError, UserValueError
from mmssl_ext.registry import MODELS

from .learned_features import collate
from .method_figures import DRAWINGS, to_images
from .sheet import Sheet, check_png, shortened, write_sheet

MAX_IMAGES = 32  # more would be a picture that no viewer opens


def write_picture(
    cfg: Config,
    checkpoint: str | Path,
    images: str | Path,
    out: str | Path,
    num: int = 4,
    seed: int = 0,
) -> Path:
    """Draw what the method of a config does to the first images of a folder.

    Args:
        cfg: Config of a pretraining; its training pipeline makes the views.
        checkpoint: Its weights; they must fit the model exactly.
        images: Any folder of images; the first in the order of their names are used.
        out: The PNG to write.
        num: Number of images.
        seed: Of the draws of the pipeline.

    Returns:
        ``out``.

    Raises:
        UserError: Config or checkpoint cannot be used.
        ValueError: The method has nothing to draw, or an option is of no use.
        FileNotFoundError: The folder is missing or holds no image that can be read.
    """
    check_png(Path(out))
    return write_sheet(draw_picture(cfg, checkpoint, images, num, seed), out)


def draw_picture(
    cfg: Config, checkpoint: str | Path, images: str | Path, num: int = 4, seed: int = 0
) -> Sheet:
    """Draw the sheet that :func:`write_picture` writes."""
    if not 1 <= num <= MAX_IMAGES:
        raise UserValueError(
            f"--num {num}: a picture shows 1 to {MAX_IMAGES} images, a row for each."
        )
    pipeline = training_pipeline(cfg)
    dataset = ImageFolder(str(images), pipeline)
    dataset.set_augmentation_seed(seed, 0)
    model = MODELS.build(cfg.model).to(get_device()).eval()
    name = type(model).__name__
    if not hasattr(model, "inspect"):
        raise ConfigError(f"{name} has nothing to draw; give the config of a method.")
    load_strictly(model, checkpoint)
    batch, labels = _first_images(dataset, num)
    preprocessor = model.data_preprocessor
    inputs = preprocessor(batch)["inputs"]
    with torch.no_grad():
        found = dict(model(inputs, mode="inspect"))

    def images_of(view: torch.Tensor) -> np.ndarray:
        return to_images(view, preprocessor.mean, preprocessor.std)

    if "mixed" in found:
        found["mixed"] = images_of(found["mixed"])
    if "cross" in found:
        stages = getattr(model.backbone, "out_indices", range(found["cross"].shape[1]))
        found["levels"] = [f"res{stage + 2}" for stage in stages]
    arrays = {
        key: value.cpu().numpy() if isinstance(value, torch.Tensor) else value
        for key, value in found.items()
    }
    if "boxes" in batch:
        arrays["boxes"] = batch["boxes"][:, :2]
    drawing = next((d for key, d in DRAWINGS.items() if key in found), None)
    if drawing is None:
        raise UserValueError(
            f"{name} returns {', '.join(found)} for mode='inspect', of which there is "
            f"no drawing; one of {', '.join(DRAWINGS)} is needed."
        )
    return drawing(name, arrays, [images_of(view) for view in inputs], labels)


def training_pipeline(cfg: Config) -> Any:
    """Check the config of a pretraining; return the pipeline that makes its views.

    Raises:
        ConfigError: It is none, or an option in it is wrong.
    """
    loader = cfg.get("train_dataloader")
    pipeline = ((loader or {}).get("dataset") or {}).get("pipeline")
    if cfg.get("model") is None or not pipeline:
        raise ConfigError(
            "The config has no model or no train_dataloader.dataset.pipeline, which "
            "makes the views; give the config of a pretraining."
        )
    check_config({"model": cfg.model, "train_dataloader": loader})
    init_default_scope(cfg.get("default_scope", "mmssl_ext"))
    return pipeline


def _first_images(dataset: ImageFolder, num: int) -> tuple[dict, list[str]]:
    """Collate the first ``num`` images that can be read; also their file names."""
    items: list[Any] = []
    unreadable = []
    for index in range(len(dataset)):
        if len(items) == num:
            break
        try:
            items.append(dataset[index])
        except UnreadableImageError as error:
            unreadable.append(str(error))
    if not items:
        raise FileNotFoundError(
            f"None of the {len(dataset)} images below '{dataset.root}' can be read. "
            f"{unreadable[0]}"
        )
    if unreadable:
        print_log(
            f"{len(unreadable)} images were left out. {unreadable[0]}",
            logger="current",
            level=logging.WARNING,
        )
    paths = [Path(item["data_samples"].img_path) for item in items]
    return collate(items), [shortened(path.name) for path in paths]
