"""Every view of a few training images, exactly as the network receives it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from mmengine.config import Config
from mmengine.dataset import default_collate
from mmengine.device import get_device
from mmengine.registry import init_default_scope

from mmssl_ext.datasets.base import SSLDataset
from mmssl_ext.datasets.look import warn_of_unread
from mmssl_ext.datasets.transforms.views import MakeViews, PackViews
from mmssl_ext.engine.config.checks import check_config
from mmssl_ext.engine.config.read import import_modules
from mmssl_ext.errors import ConfigError, UserValueError
from mmssl_ext.registry import DATASETS, MODELS

from .images import (
    OF_BANDS,
    check_num,
    own_dataset,
    readable,
    to_images,
    to_pixels,
    with_pipeline,
)
from .patches import as_image
from .sheet import COLORS, Sheet, check_png, frame, mark, shortened, show, write_png
from .subject import spread

_COLUMNS = 6  # of pictures, at most, where two images stand in a row


class Seen(NamedTuple):
    """One image as it is shown.

    Attributes:
        number: Its position in the dataset.
        path: Of its file.
        views: uint8 arrays, H x W x 3 each, or P x H x W x 3 for P patches.
        boxes: Where each view was cut, V x 4, NaN for patches; None if not known.
        original: What the views are cut from, H x W x 3, where the pipeline tells.
    """

    number: int
    path: str
    views: list[np.ndarray]
    boxes: np.ndarray | None = None
    original: np.ndarray | None = None


def training_dataset(cfg: Config, images: str | Path | None = None) -> SSLDataset:
    """Build the training set of a config; ``images`` puts a folder in its place.

    Raises:
        ConfigError: The config has no training set of this package.
    """
    given = (cfg.get("train_dataloader") or {}).get("dataset")
    if not given or "type" not in given:
        raise ConfigError(
            "The config has no train_dataloader.dataset; give the config of a "
            "pretraining."
        )
    if images is not None:
        pipeline = given.get("pipeline")
        if not pipeline:
            raise ConfigError(
                "--images needs train_dataloader.dataset.pipeline in the config, which "
                "makes the views."
            )
        given = {"type": "ImageFolder", "root": str(images), "pipeline": pipeline}
    check_config({"train_dataloader": {"dataset": given}})
    init_default_scope(cfg.get("default_scope", "mmssl_ext"))
    return own_dataset(DATASETS.build(given))


def network_inputs(
    dataset: SSLDataset,
    preprocessor: Any,
    indices: Iterable[int],
    seed: int,
    epoch: int,
) -> Iterator[Seen]:
    """Make images as training does, up to the network, and turn them into pixels.

    Args:
        dataset: The training set.
        preprocessor: ``MultiViewPreprocessor``, which normalises.
        indices: Positions in the dataset; images that cannot be read are left out.
        seed: Of the run.
        epoch: From 0.

    Raises:
        FileNotFoundError: None can be read.
    """
    steps = dataset.pipeline
    ends = [i for i, t in enumerate(steps) if isinstance(t, (MakeViews, PackViews))]
    whole = with_pipeline(dataset, [*steps[: ends[0]], PackViews()] if ends else ())
    dataset = with_pipeline(dataset, steps)
    for part in (dataset, whole):
        part.set_augmentation_seed(seed, epoch)
    for index, item in readable(dataset, indices):
        inputs = preprocessor(default_collate([item]))["inputs"]
        views = inputs if isinstance(inputs, (list, tuple)) else [inputs]
        yield Seen(
            index,
            str(item["data_samples"].img_path),
            [to_images(v, preprocessor)[0] for v in views],
            item["boxes"].numpy() if "boxes" in item else None,
            to_pixels(whole[index]["inputs"], preprocessor) if ends else None,
        )


def browse(
    cfg: Config,
    out: str | Path,
    num: int = 8,
    seed: int | None = None,
    epoch: int = 1,
    images: str | Path | None = None,
) -> Path:
    """Write a picture of training images and of the views that are made of them.

    Neither a checkpoint nor the network is needed.

    Args:
        cfg: Config of a pretraining.
        out: The PNG to write.
        num: Number of images, spread evenly over the training set.
        seed: Of the run; None takes the config's.
        epoch: Of the run, from 1, as its log counts.
        images: Folder that takes the place of the training set.

    Raises:
        UserError: The config or an option cannot be used.
        FileNotFoundError: The images are missing, or none can be read.
    """
    out = Path(out)
    check_png(out)
    check_num(num)
    if epoch < 1:
        raise UserValueError(f"--epoch {epoch}: epochs count from 1, as in the log.")
    if seed is None:
        seed = (cfg.get("randomness") or {}).get("seed") or 0
    import_modules(cfg)
    dataset = training_dataset(cfg, images)
    warn_of_unread(dataset)
    given = (cfg.get("model") or {}).get("data_preprocessor") or {}
    preprocessor = MODELS.build({"type": "MultiViewPreprocessor"} | dict(given))
    if not hasattr(preprocessor, "mean") or not hasattr(preprocessor, "std"):
        raise ConfigError(
            f"model.data_preprocessor is a {type(preprocessor).__name__} without mean "
            "and std, by which pixels could be told from its results."
        )
    preprocessor = preprocessor.to(get_device())
    indices = spread(range(len(dataset)), num)
    seen = list(network_inputs(dataset, preprocessor, indices, seed, epoch - 1))
    run = (
        f"Seed {seed}, epoch {epoch}: what a training run with this seed makes of "
        "these images in this epoch, if it has the AugmentationSeedHook."
    )
    if getattr(preprocessor, "bands", None) is not None:
        run += f" {OF_BANDS}"
    sheet = draw_views(Path(cfg.filename or "config").stem, seen, run)
    return write_png(sheet.pixels(), out)


def draw_views(name: str, seen: Sequence[Seen], run: str) -> Sheet:
    """Draw images and their views, two images in a row where they have room."""
    width = 1 + max(len(image.views) for image in seen)
    beside = 2 if 2 * width <= _COLUMNS and len(seen) > 1 else 1
    title = f"{name}: every view as the network receives it"
    captions = (f"{run} Frames: what a view is cut from.",)
    gap = [0.12] * (beside - 1)  # an empty column
    ratios = [*width * [1], *gap, *(beside - 1) * width * [1]]
    sheet = Sheet(title, captions, -(-len(seen) // beside), len(ratios), ratios)
    places = [
        row[first : first + width]
        for row in sheet.axes
        for first in range(0, len(ratios), width + 1)
    ]
    for image, (whole, *axes) in zip(seen, places, strict=False):
        on_top = any(image is other for other in seen[:beside])
        whole.set_title("original" if on_top else "")
        text = f"image {image.number}"
        if image.original is not None:
            text += f": {_size_of(image.original)}"
            show(whole, image.original)
        sheet.below(whole, text, shortened(Path(image.path).name, 60))
        for number, (ax, view) in enumerate(zip(axes, image.views, strict=False)):
            color = COLORS[number % len(COLORS)]
            ax.set_title(f"view {number + 1}" if on_top else "", color=color)
            show(ax, as_image(view))
            sheet.below(ax, _size_of(view))
            if view.ndim == 3:
                frame(ax, color)
            box: Any = np.nan if image.boxes is None else image.boxes[number]
            if image.original is not None and np.isfinite(box).all():
                # Mirrored or not, without the black beside an image that is too small.
                corners = np.sort(np.reshape(box, (2, 2)), axis=0).clip(0, 1)
                mark(whole, corners.ravel().tolist(), color)
    return sheet


def _size_of(view: np.ndarray) -> str:
    height, width = view.shape[-3:-1]
    return f"{len(view)} × " * (view.ndim == 4) + f"{width} × {height} px"
