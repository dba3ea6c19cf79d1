"""Every view of a few training images, exactly as the network receives it."""

from __future__ import annotations

import copy
import logging
import textwrap
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.logging import print_log
from mmengine.registry import init_default_scope

from mmssl_ext.datasets.base import SSLDataset
from mmssl_ext.datasets.look import warn_of_unread
from mmssl_ext.datasets.seeds import AugmentationSeed
from mmssl_ext.datasets.transforms.color import (
    ColorJitter,
    GaussianBlur,
    RandomGrayscale,
    RandomSolarize,
)
from mmssl_ext.datasets.transforms.decode import UnreadableImageError
from mmssl_ext.datasets.transforms.geometry import RandomFlip, RandomResizedCrop
from mmssl_ext.datasets.transforms.patches import CutPatches
from mmssl_ext.datasets.transforms.random import RandomTransform
from mmssl_ext.datasets.transforms.views import MakeViews
from mmssl_ext.engine.config.checks import check_config
from mmssl_ext.engine.monitor.augmentation_seed import seeded_datasets
from mmssl_ext.errors import ConfigError, UserValueError
from mmssl_ext.registry import DATASETS, MODELS
from mmssl_ext.visualization.curves import BLUE, FAINT, GREEN, INK, ORANGE, PINK

from .learned_features import collate
from .method_figures import patch_boxes, to_images
from .sheet import MARGIN, TOP, WIDTH, Box, Sheet, shortened, write_sheet

MAX_IMAGES = 32  # more would be a picture that no viewer opens
_PER_LINE = 5  # views beside the original; further ones start a new line
_GAP, _LINE = 14, 14  # pixels between pictures; of a line of text
_COLORS = (BLUE, ORANGE, GREEN, PINK, "#6e5494", "#8a6d00")


class Draw(NamedTuple):
    """What a random transform drew for one image.

    Attributes:
        transform: Whose draw it is.
        params: What :meth:`RandomTransform.draw` returned; None leaves the image.
        size: (width, height) of the image before it.
    """

    transform: RandomTransform
    params: Any
    size: tuple[int, int]


@dataclass
class Record:
    """What happened to one image on its way through a pipeline.

    Attributes:
        original: The image that the views are cut from, H x W x 3.
        draws: Of each view, in the order of application.
    """

    original: np.ndarray | None = None
    draws: list[list[Draw]] = field(default_factory=list)


class Seen(NamedTuple):
    """One image as it is shown.

    Attributes:
        number: Its position in the dataset.
        path: Of its file.
        original: H x W x 3, or None where the pipeline hides it.
        views: uint8 arrays, H x W x 3 each, or P x H x W x 3 for P patches.
        draws: Of each view; empty where they are not known.
        boxes: Where each view was cut, V x 4, as a batch has it; or None.
    """

    number: int
    path: str
    original: np.ndarray | None
    views: list[np.ndarray]
    draws: list[list[Draw]]
    boxes: np.ndarray | None


def recorded(dataset: SSLDataset) -> tuple[SSLDataset, Record]:
    """Copy a dataset such that its pipeline writes down what it draws.

    Pixels and draws are those of the dataset; the record is that of the item that was
    made last. The copy has a draw key of its own.
    """
    record = Record()
    twin = copy.copy(dataset)
    twin.augmentation_seed = AugmentationSeed()
    twin.pipeline = [_watched(transform, record) for transform in dataset.pipeline]
    return twin, record


def _watched(transform: Any, record: Record) -> Callable[[dict], dict]:
    if not isinstance(transform, MakeViews):

        def run(results: dict) -> dict:
            results = transform(results)
            if "img" in results and "views" not in results:
                record.original = np.asarray(results["img"]).copy()
            return results

        return run
    twin = copy.copy(transform)
    logs: list[list[Draw]] = [[] for _ in transform.pipelines]
    twin.pipelines = [
        [_noting(t, log) for t in pipeline]
        for pipeline, log in zip(transform.pipelines, logs, strict=True)
    ]

    def make_views(results: dict) -> dict:
        for log in logs:
            log.clear()
        record.original = np.asarray(results["img"]).copy()
        results = twin(results)
        record.draws = [list(log) for log in logs]
        return results

    return make_views


def _noting(transform: Any, log: list[Draw]) -> Any:
    if not isinstance(transform, RandomTransform):
        return transform
    twin = copy.copy(transform)

    def draw(rng: np.random.Generator, size: tuple[int, int]) -> Any:
        params = transform.draw(rng, size)
        log.append(Draw(transform, params, size))
        return params

    vars(twin)["draw"] = draw  # shadows the method; encode() and apply() stay
    return twin


def describe(draw: Draw) -> str | None:
    """What a draw does, in a few words; None where it leaves the image as it is."""
    transform, params, _ = draw
    if params is None:
        return None
    if isinstance(transform, RandomResizedCrop):
        left, upper, right, lower = params
        return f"crop {right - left} × {lower - upper} at {left}, {upper}"
    if isinstance(transform, ColorJitter):
        *factors, hue = params.factors
        numbers = [f"{factor:.2f}" for factor in factors] + [f"{hue:+.3f}"]
        return f"jitter {' '.join(numbers)}".replace("-", "−")
    if isinstance(transform, GaussianBlur):
        return f"blur {params:.1f} px"
    if isinstance(transform, CutPatches):
        return f"{len(params)} patches of {transform.size} px, shuffled"
    names = {RandomFlip: "flip", RandomGrayscale: "gray", RandomSolarize: "solarize"}
    return names.get(type(transform), type(transform).__name__)


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
        if not given.get("pipeline"):
            raise ConfigError(
                "--images needs train_dataloader.dataset.pipeline in the config, which "
                "makes the views."
            )
        given = {"type": "ImageFolder", "root": str(images)} | {
            "pipeline": given.pipeline
        }
    check_config({"train_dataloader": {"dataset": given}})
    init_default_scope(cfg.get("default_scope", "mmssl_ext"))
    dataset = DATASETS.build(given)
    for part in seeded_datasets(dataset):
        if isinstance(part, SSLDataset):
            return part
    raise ConfigError(
        f"train_dataloader.dataset is a {type(dataset).__name__}, whose draws are not "
        "known; only datasets of this package can be browsed."
    )


def network_inputs(
    dataset: SSLDataset,
    preprocessor: Any,
    indices: Iterable[int],
    seed: int,
    epoch: int,
) -> Iterator[Seen]:
    """Make images as training does, up to the network, and turn them into pixels.

    The draws are those of a training run with this seed in this epoch.

    Args:
        dataset: The training set.
        preprocessor: ``MultiViewPreprocessor``, which normalises.
        indices: Positions in the dataset.
        seed: Of the run.
        epoch: From 0.

    Raises:
        UnreadableImageError: As the dataset raises it.
    """
    twin, record = recorded(dataset)
    twin.set_augmentation_seed(seed, epoch)
    for index in indices:
        item = twin[index]
        inputs = preprocessor(collate([item]))["inputs"]
        views = inputs if isinstance(inputs, (list, tuple)) else [inputs]
        shown = [to_images(v, preprocessor.mean, preprocessor.std)[0] for v in views]
        path = str(item["data_samples"].img_path)
        draws = [list(log) for log in record.draws] or [[] for _ in shown]
        boxes = item["boxes"].numpy() if "boxes" in item else None
        yield Seen(index, path, record.original, shown, draws, boxes)


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
        UserError: The config cannot be used.
        ValueError: An option is of no use.
        FileNotFoundError: The images are missing, or none can be read.
    """
    if not 1 <= num <= MAX_IMAGES:
        raise UserValueError(
            f"--num {num}: a picture shows 1 to {MAX_IMAGES} images, a row for each."
        )
    if epoch < 1:
        raise UserValueError(f"--epoch {epoch}: epochs count from 1, as in the log.")
    if seed is None:
        seed = (cfg.get("randomness") or {}).get("seed") or 0
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
    seen: list[Seen] = []
    unreadable = []
    count = min(num, len(dataset))
    for index in np.arange(count) * len(dataset) // count:
        try:
            seen += network_inputs(dataset, preprocessor, [int(index)], seed, epoch - 1)
        except UnreadableImageError as error:
            unreadable.append(str(error))
    if not seen:
        whose = "the training set" if images is None else images
        raise FileNotFoundError(
            f"None of {count} images of {whose} can be read. {unreadable[0]}"
        )
    if unreadable:
        print_log(
            f"{len(unreadable)} images were left out. {unreadable[0]}",
            logger="current",
            level=logging.WARNING,
        )
    name = Path(cfg.filename or "config").stem
    return write_sheet(_grid(name, seen, seed, epoch, _is_keyed(cfg)), out)


def _is_keyed(cfg: Config) -> bool:
    """Whether training keys its draws by seed and epoch."""
    hooks = [
        *(cfg.get("default_hooks") or {}).values(),
        *(cfg.get("custom_hooks") or ()),
    ]
    keyed = any(
        h and str(h.get("type", "")).endswith(("AugmentationSeedHook", "DrawKeyHook"))
        for h in hooks
    )
    return keyed and bool((cfg.get("train_cfg") or {}).get("by_epoch", True))


def _grid(name: str, seen: Sequence[Seen], seed: int, epoch: int, keyed: bool) -> Sheet:
    """Draw a row per image: the original and its views."""
    views = max(len(s.views) for s in seen)
    columns = 1 + min(views, _PER_LINE)
    width = min(280.0, (WIDTH - 2 * MARGIN - (columns - 1) * _GAP) / columns)
    letters = int(width / 5.6)
    tops, heights, y = [], [], float(TOP + 4)
    for image in seen:
        height = max(_height(v, width) for v in [image.original, *image.views])
        lines = 1 + max([len(_text(d, letters)) for d in image.draws], default=0)
        lines = max(lines, 1 + len(_origin(image, letters)))
        tops.append(y)
        heights.append((height, height + 12 + _LINE * lines))
        y += heights[-1][1] * -(-max(len(image.views), 1) // _PER_LINE)
    run = (
        f"Seed {seed}, epoch {epoch}: a training run with this seed draws the same for "
        "these images in this epoch."
        if keyed
        else f"Seed {seed}; training draws anew each time, since the config does not "
        "key its draws by epoch (AugmentationSeedHook)."
    )
    sheet = Sheet(
        y + 6,
        f"{name}: every view as the network receives it",
        (
            f"{run} Frames: what a view is cut from.",
            "Jitter: factors of brightness, contrast and saturation, and the shift of "
            "the hue (1 is a full turn). Sizes in pixels.",
        ),
    )
    sheet.head(MARGIN + width / 2, "original")
    for column in range(1, columns):
        x = MARGIN + column * (width + _GAP)
        sheet.head(x + width / 2, f"view {column}", _COLORS[(column - 1) % 6])
    for image, top, (height, pitch) in zip(seen, tops, heights, strict=True):
        whole = _boxed(image.original, Box(MARGIN, top, width, height))
        if image.original is not None:
            _image(sheet, image.original, whole)
        _write(sheet, MARGIN, top + height, image_size_text(image), INK)
        for i, name_ in enumerate(_origin(image, letters)):
            _write(sheet, MARGIN, top + height + _LINE * (i + 1), name_, FAINT)
        for number, view in enumerate(image.views):
            line, column = divmod(number, _PER_LINE)
            x, y = MARGIN + (column + 1) * (width + _GAP), top + line * pitch
            box = _boxed(view, Box(x, y, width, height))
            color = _COLORS[number % 6]
            if view.ndim == 4:
                for patch, place in zip(view, patch_boxes(len(view), box), strict=True):
                    _image(sheet, patch, place)
            else:
                _image(sheet, view, box)
                sheet.frame(box, color, 2)
            sides = view.shape[-3:-1]
            size = f"{sides[1]} × {sides[0]} px"
            if view.ndim == 4:
                size = f"{len(view)} × {size}"
            size = f"view {number + 1}: {size}" if number >= _PER_LINE else size
            _write(sheet, x, y + height, size, INK)
            for i, words in enumerate(_text(image.draws[number], letters)):
                _write(sheet, x, y + height + _LINE * (i + 1), words, FAINT)
            _outline(sheet, image, whole, number, color)
    return sheet


def _outline(sheet: Sheet, image: Seen, box: Box, number: int, color: str) -> None:
    """Frame on the original what a view is cut from."""
    cut = _cut(image, number)
    if image.original is None or cut is None or np.isnan(cut).any():
        return
    # Mirrored or not, and without the black beside an image that is too small.
    corners = np.clip(np.sort(np.reshape(cut, (2, 2)), axis=0), 0, 1)
    left, upper, right, lower = (corners * (box.width, box.height)).ravel()
    frame = Box(box.x + left, box.y + upper, right - left, lower - upper)
    sheet.frame(frame, "white", 3.5)
    sheet.frame(frame, color, 2, inset=0.75)


def _cut(image: Seen, number: int) -> Sequence[float] | None:
    """The box of a view; of patches that of the crop that they are from."""
    if image.views[number].ndim == 4:
        draws = image.draws[number]
        if draws and isinstance(draws[0].transform, RandomResizedCrop):
            return draws[0].transform.locate(draws[0].params, draws[0].size)
    return None if image.boxes is None else image.boxes[number]


def image_size_text(image: Seen) -> str:
    """Position in the dataset and size of the original."""
    if image.original is None:
        return f"image {image.number}"
    height, width = image.original.shape[:2]
    return f"image {image.number}: {width} × {height} px"


def _origin(image: Seen, letters: int) -> list[str]:
    path = Path(image.path)
    return [shortened(path.name, letters)]


def _text(draws: Sequence[Draw], letters: int) -> list[str]:
    parts = [text for draw in draws if (text := describe(draw))]
    return [line for part in parts for line in textwrap.wrap(part, letters)]


def _height(pixels: np.ndarray | None, width: float) -> float:
    if pixels is None:
        return width
    height, length = pixels.shape[-3:-1]
    return min(width * height / length, 1.5 * width)


def _boxed(pixels: np.ndarray | None, box: Box) -> Box:
    """The largest part of a box, from its upper left, with the shape of an image."""
    if pixels is None:
        return box
    height, width = pixels.shape[-3:-1]
    scale = min(box.width / width, box.height / height)
    return Box(box.x, box.y, width * scale, height * scale)


def _image(sheet: Sheet, pixels: np.ndarray, box: Box) -> None:
    """Draw an image; where it is enlarged, its pixels stay squares."""
    sheet.image(pixels, box, smooth=pixels.shape[1] > box.width)


def _write(sheet: Sheet, x: float, y: float, text: str, color: str) -> None:
    sheet.text(x, y + 11, text, 10, color=color)
