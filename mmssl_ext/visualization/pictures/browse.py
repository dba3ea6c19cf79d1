"""Every view of a few training images, exactly as the network receives it."""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from mmengine.config import Config
from mmengine.dataset import default_collate
from mmengine.device import get_device
from mmengine.registry import init_default_scope

from mmssl_ext.datasets.base import SSLDataset
from mmssl_ext.datasets.look import warn_of_unread
from mmssl_ext.datasets.transforms.color import (
    ColorJitter,
    GaussianBlur,
    RandomGrayscale,
    RandomSolarize,
)
from mmssl_ext.datasets.transforms.geometry import RandomFlip, RandomResizedCrop
from mmssl_ext.datasets.transforms.patches import CutPatches
from mmssl_ext.datasets.transforms.random import RandomTransform
from mmssl_ext.datasets.transforms.views import MakeViews, PackViews
from mmssl_ext.engine.config.checks import check_config
from mmssl_ext.errors import ConfigError, UserValueError
from mmssl_ext.registry import DATASETS, MODELS

from .images import check_num, own_dataset, readable, to_images, with_pipeline
from .patches import as_image
from .sheet import COLORS, Sheet, check_png, frame, mark, shortened, show, write_png
from .subject import spread

_PER_LINE = 5  # views beside the original; further ones start a new line


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
class Seen:
    """One image as it is shown.

    Attributes:
        original: The image that the views are cut from, H x W x 3; or None where the
            pipeline hides it.
        draws: Of each view, in the order of application.
        number: Its position in the dataset.
        path: Of its file.
        views: uint8 arrays, H x W x 3 each, or P x H x W x 3 for P patches.
        boxes: Where each view was cut, V x 4, as a batch has it; or None.
    """

    original: np.ndarray | None = None
    draws: dict[int, list[Draw]] = field(default_factory=lambda: defaultdict(list))
    number: int = 0
    path: str = ""
    views: list[np.ndarray] = field(default_factory=list)
    boxes: np.ndarray | None = None


class Recorder:
    """A dataset with the pixels and draws of another one, which writes these down.

    Attributes:
        dataset: With a draw key of its own.
        seen: Original and draws of the item that was made last.
    """

    def __init__(self, dataset: SSLDataset) -> None:
        self.seen = Seen()
        steps: list[Any] = []
        for transform in dataset.pipeline:
            if isinstance(transform, (MakeViews, PackViews)):
                steps.append(self._begin)
            if isinstance(transform, MakeViews):
                transform = copy.copy(transform)
                transform.pipelines = [
                    [self._noting(step, number) for step in view]
                    for number, view in enumerate(transform.pipelines)
                ]
            steps.append(transform)
        self.dataset = with_pipeline(dataset, steps)

    def _begin(self, results: dict) -> dict:
        if "views" not in results:
            self.seen = Seen(np.asarray(results["img"]).copy())
        return results

    def _noting(self, transform: Any, number: int) -> Any:
        if not isinstance(transform, RandomTransform):
            return transform
        twin = copy.copy(transform)

        def draw(rng: np.random.Generator, size: tuple[int, int]) -> Any:
            params = transform.draw(rng, size)
            self.seen.draws[number].append(Draw(transform, params, size))
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

    The draws are those of a training run with this seed in this epoch.

    Args:
        dataset: The training set.
        preprocessor: ``MultiViewPreprocessor``, which normalises.
        indices: Positions in the dataset; images that cannot be read are left out.
        seed: Of the run.
        epoch: From 0.

    Raises:
        FileNotFoundError: None can be read.
    """
    recorder = Recorder(dataset)
    recorder.dataset.set_augmentation_seed(seed, epoch)
    for index, item in readable(recorder.dataset, indices):
        inputs = preprocessor(default_collate([item]))["inputs"]
        views = inputs if isinstance(inputs, (list, tuple)) else [inputs]
        seen, recorder.seen = recorder.seen, Seen()
        mean, std = preprocessor.mean, preprocessor.std
        seen.number, seen.path = index, str(item["data_samples"].img_path)
        seen.views = [to_images(view, mean, std)[0] for view in views]
        seen.boxes = item["boxes"].numpy() if "boxes" in item else None
        yield seen


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
    out = Path(out)
    check_png(out)
    check_num(num)
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
    indices = spread(range(len(dataset)), num)
    seen = list(network_inputs(dataset, preprocessor, indices, seed, epoch - 1))
    run = (
        f"Seed {seed}, epoch {epoch}: a training run with this seed draws the same for "
        "these images in this epoch."
        if is_keyed(cfg)
        else f"Seed {seed}; training draws anew each time, since the config does not "
        "key its draws by epoch (AugmentationSeedHook)."
    )
    sheet = draw_views(Path(cfg.filename or "config").stem, seen, run)
    return write_png(sheet.pixels(), out)


def is_keyed(cfg: Config) -> bool:
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


def draw_views(name: str, seen: Sequence[Seen], run: str) -> Sheet:
    """Draw images and their views, with what was drawn for them below."""
    lines = [-(-max(len(image.views), 1) // _PER_LINE) for image in seen]
    sheet = Sheet(
        f"{name}: every view as the network receives it",
        (
            f"{run} Frames: what a view is cut from.",
            "Jitter: factors of brightness, contrast and saturation, and the shift of "
            "the hue (1 is a full turn). Sizes in pixels.",
        ),
        sum(lines),
        1 + min(max(len(image.views) for image in seen), _PER_LINE),
    )
    sheet.axes[0, 0].set_title("original")
    for number, ax in enumerate(sheet.axes[0, 1:]):
        ax.set_title(f"view {number + 1}", color=COLORS[number])
    for image, count, end in zip(seen, lines, np.cumsum(lines), strict=True):
        whole, text = sheet.axes[end - count, 0], f"image {image.number}"
        if image.original is not None:
            height, width = image.original.shape[:2]
            text += f": {width} × {height} px"
            show(whole, image.original)
        sheet.below(whole, text, shortened(Path(image.path).name, 60))
        for number, view in enumerate(image.views):
            line, column = divmod(number, _PER_LINE)
            ax, color = sheet.axes[end - count + line, 1 + column], COLORS[number % 6]
            show(ax, as_image(view))
            words = [w for draw in image.draws[number] if (w := describe(draw))]
            sheet.below(ax, _size_of(view, number), *words)
            if view.ndim == 3:
                frame(ax, color)
            if image.original is not None and (box := place_of(image, number)):
                mark(whole, box, color)
    return sheet


def _size_of(view: np.ndarray, number: int) -> str:
    height, width = view.shape[-3:-1]
    patches = f"{len(view)} × " if view.ndim == 4 else ""
    name = f"view {number + 1}: " if number >= _PER_LINE else ""
    return f"{name}{patches}{width} × {height} px"


def place_of(image: Seen, number: int) -> list[float] | None:
    """The box of a view in its image; of patches that of the crop they are from."""
    cut: Any = None if image.boxes is None else image.boxes[number]
    if image.views[number].ndim == 4 and (draws := image.draws[number]):
        crop = draws[0]
        if isinstance(crop.transform, RandomResizedCrop):
            cut = crop.transform.locate(crop.params, crop.size)
    if cut is None or np.isnan(cut).any():
        return None
    # Mirrored or not, and without the black beside an image that is too small.
    return np.clip(np.sort(np.reshape(cut, (2, 2)), axis=0), 0, 1).ravel().tolist()
