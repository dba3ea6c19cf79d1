"""A network, the images to show it with, and what it makes of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mmssl_ext.datasets.base import SSLDataset
from mmssl_ext.datasets.transforms.bands import DecodeBands, decoders
from mmssl_ext.datasets.transforms.decode import DecodeImage
from mmssl_ext.datasets.transforms.geometry import (
    CenterCrop,
    RandomResizedCrop,
    ResizeShort,
)
from mmssl_ext.datasets.transforms.views import MakeViews, PackViews
from mmssl_ext.errors import ConfigError, UserValueError
from mmssl_ext.evaluation.features import evaluating, preserved_rng
from mmssl_ext.upstream import embed

from .images import OF_BANDS, check_num, readable, to_pixels, with_pipeline
from .sheet import Sheet, shortened

_CLASSES = 10  # at most, of the images that are searched or embedded
_THUMB = 96  # pixels
_STAGES = ("res2", "res3", "res4", "res5")  # the field's names of layer1 to layer4


@dataclass
class Options:
    """What a user may choose of the pictures."""

    num: int | None = None  # images shown; None: 4 of a method's picture, else 6
    most: int = 1000  # images that are searched and embedded, at most
    #: Short side of the images that become maps; None: larger than the crops of
    #: training, so that the maps have more cells.
    size: int | None = None
    patch: tuple[float, float] = (0.5, 0.5)  # place (x, y) of a cell in the image
    seed: int = 0  # of the views, the points and the untrained network

    def __post_init__(self) -> None:
        if self.num is not None:
            check_num(self.num)
        if self.most < 3:
            raise UserValueError(f"--max-images {self.most}: at least 3 are needed.")
        if self.size is not None and not 16 <= self.size <= 4096:
            raise UserValueError(
                f"--size {self.size}: a short side of 16 to 4096 pixels."
            )
        if not all(0 <= place <= 1 for place in self.patch):
            raise UserValueError(
                f"--patch {' '.join(map(str, self.patch))}: fractions of width and "
                "height, from 0 to 1."
            )


class Subject:
    """A model, the images to show it with and the pipeline it was trained with.

    Args:
        model: In eval mode while it is drawn.
        dataset: The images; it is not changed.
        pipeline: Transforms of training; the first two views serve the matches.
        options: What the user chose.
        untrained: The same network with its initial weights, to compare with.
        folders: Whether the first folder below the root may be taken for the class.
    """

    def __init__(
        self,
        model: Any,
        dataset: SSLDataset,
        pipeline: Sequence[Any],
        options: Options | None = None,
        untrained: Any = None,
        folders: bool = False,
    ) -> None:
        self.model, self.untrained = model, untrained
        self.name = type(model).__name__
        self.options = options or Options()
        self.num = self.options.num or 6
        self.dataset = with_pipeline(dataset, ())
        self.classes = _classes(dataset, folders)  # name of that of each image
        self.pipeline = pipeline
        self.decode = next(decoders(pipeline), None) or DecodeImage()
        self.crop = _crop(pipeline)
        self.size = self.options.size or (3 if self.crop < 128 else 2) * self.crop
        self._unreadable: dict[int, str] = {}

    def sheet(self, title: str, *grid: Any) -> Sheet:
        """An empty sheet, see Sheet; small, since reports hold six."""
        title = f"{self.name}: {title[0].lower()}{title[1:]}"
        captions, *rest = grid
        if isinstance(self.decode, DecodeBands):
            captions = (*captions, OF_BANDS)
        return partial(Sheet, scale=1)(title, captions, *rest)

    def file(self, index: int, letters: int = 32) -> str:
        """File name of an image, without its middle where it is long."""
        name = Path(self.dataset.get_data_info(index)["img_path"]).name
        return shortened(name, letters)

    def label(self, index: int) -> str:
        """Its class where that is known, else its file name."""
        return shortened(self.classes[index]) if self.classes else self.file(index)

    def items(
        self, indices: Sequence[int], pipeline: Sequence[Any], most: int | None = None
    ) -> dict[int, Any]:
        """What a pipeline makes of those images that can be read, by index."""
        dataset = with_pipeline(self.dataset, pipeline)
        dataset.set_augmentation_seed(self.options.seed, 0)
        return dict(readable(dataset, indices, most, self._unreadable))

    def tensors(self, indices: Sequence[int], *steps: Any) -> dict[int, Tensor]:
        """The same images C x H x W, as the pipeline decodes them."""
        items = self.items(indices, [self.decode, *steps, PackViews()])
        return {index: item["inputs"] for index, item in items.items()}

    def thumbs(self, indices: Sequence[int]) -> dict[int, np.ndarray]:
        """Small square images by index."""
        found = self.tensors(indices, ResizeShort(_THUMB), CenterCrop(_THUMB))
        return {i: self.pixels(image) for i, image in found.items()}

    def pixels(self, image: Tensor) -> np.ndarray:
        """One of the images of :meth:`tensors` as it is drawn, uint8 H x W x 3."""
        return to_pixels(image, self.model.data_preprocessor)

    def spread(self, count: int) -> list[int]:
        """Indices of images, spread evenly over all."""
        return spread(range(len(self.dataset)), count)

    @cached_property
    def shown(self) -> dict[int, Tensor]:
        """The images whose maps are shown; of classes two each, side by side."""
        count, pairs = self.num, []
        members = {k: v for k, v in self._members.items() if len(v) > 1}
        if count > 3 and len(members) > 1:
            pairs = spread(list(members.values()), count // 2)
        chosen = [i for pair in pairs for i in (pair[0], pair[len(pair) // 2])]
        chosen += [i for i in self.spread(count) if i not in chosen]
        return self.tensors(chosen[:count], ResizeShort(self.size))

    @cached_property
    def maps(self) -> list[dict[str, np.ndarray]]:
        """Their feature maps by stage."""
        return [feature_maps(self.model, image) for image in self.shown.values()]

    @property
    def searched(self) -> list[int]:
        """Images to search or embed; of ten classes where there are more."""
        groups = spread(list(self._members.values()), _CLASSES)
        found = sorted(index for group in groups for index in group)
        return spread(found or range(len(self.dataset)), self.options.most)

    @property
    def pooled(self) -> tuple[list[int], Tensor]:
        """Indices and unit features, n x C, of the images that are searched."""
        return self._pooled[0], self._pooled[1]

    @property
    def pooled_untrained(self) -> Tensor | None:
        """Features of the same images by the untrained network, where there is one."""
        return self._pooled[2] if self.untrained is not None else None

    @cached_property
    def _pooled(self) -> tuple[list[int], Tensor, Tensor]:
        indices: list[int] = []
        rows: tuple[list[Tensor], list[Tensor]] = [], []
        chosen, steps = self.searched, (ResizeShort(self.crop), CenterCrop(self.crop))
        for start in range(0, len(chosen), 256):  # images of 256 at a time
            images = self.tensors(chosen[start : start + 256], *steps)
            indices += images
            for model, found in zip((self.model, self.untrained), rows, strict=True):
                if model is not None:
                    with undisturbed(model):
                        found.append(pooled_features(model, list(images.values())))
        trained, untrained = (torch.cat(found or [torch.empty(0)]) for found in rows)
        return indices, trained, untrained

    @property
    def _members(self) -> dict[str, list[int]]:
        """Images by class, in the order of their names."""
        return members_of(self.classes or ())


def members_of(classes: Sequence[str]) -> dict[str, list[int]]:
    """Numbers of the members of each class, in the order of their names."""
    members: dict[str, list[int]] = {name: [] for name in sorted(set(classes))}
    for index, name in enumerate(classes):
        members[name].append(index)
    return members


def spread(values: Sequence[Any], count: int) -> list[Any]:
    """So many of some values, in steps as even as can be."""
    count = min(count, len(values))
    return [values[i * len(values) // count] for i in range(count)]


def _classes(dataset: SSLDataset, by_folder: bool) -> list[str] | None:
    if dataset.labels is not None:
        names = dataset.metainfo.get("classes")
        return [str(names[i]) if names else str(i) for i in dataset.labels.tolist()]
    if not by_folder:
        return None
    paths = [dataset.name(int(row)) for row in dataset._rows]
    tops = [path.split("/")[0] if "/" in path else "" for path in paths]
    return tops if len(set(tops)) > 1 and all(tops) else None


def _crop(pipeline: Sequence[Any]) -> int:
    """Side of the first view, or 224 where it is not known."""
    for transform in pipeline:
        for step in transform.pipelines[0] if isinstance(transform, MakeViews) else ():
            if isinstance(step, RandomResizedCrop):
                return min(step.size)
    return 224


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """Evaluate a model without gradients; leave modes and generators as they were."""
    with torch.no_grad(), preserved_rng(), evaluating(model):
        yield


def feature_maps(model: Any, image: Tensor) -> dict[str, np.ndarray]:
    """Feature maps of one image by the query backbone, h x w x C, by stage.

    A ResNet gives its last two stages, another backbone its last one. The model is in
    eval mode, the image C x H x W as it was decoded.

    Raises:
        ConfigError: The backbone returns no maps.
    """
    layers = list(getattr(model.backbone, "res_layers", ()))
    known = 0 < len(layers) <= len(_STAGES)
    names = _STAGES[: len(layers)] if known else (*layers[:-1], "last stage")
    found: dict[str, Tensor] = {}
    with ExitStack() as stack:
        if len(layers) > 1:
            handle = getattr(model.backbone, layers[-2]).register_forward_hook(
                lambda module, args, output: found.update({names[-2]: output})
            )
            stack.callback(handle.remove)
        data = model.data_preprocessor({"inputs": image[None]}, False)
        last = model(data["inputs"], mode="tensor")
    last = last[-1] if isinstance(last, (list, tuple)) else last
    if last.ndim != 4:
        raise ConfigError(
            f"{type(model.backbone).__name__} returns {tuple(last.shape)}, no feature "
            "maps N x C x H x W; pictures of maps need a convolutional backbone."
        )
    found[names[-1]] = last
    return {k: m[0].movedim(0, -1).float().cpu().numpy() for k, m in found.items()}


def pooled_features(model: Any, images: Sequence[Tensor], batch: int = 64) -> Tensor:
    """Unit rows of the globally pooled backbone features, n x C, on the host.

    Images, C x H x W as they were decoded, of one size in a row go in one ``batch`` of
    the model, which is in eval mode.
    """
    rows = []
    for _, alike in groupby(images, key=lambda image: image.shape):
        for inputs in torch.stack(list(alike)).split(batch):
            data = model.data_preprocessor({"inputs": inputs}, False)
            rows.append(embed(model, data["inputs"])["backbone"].float().cpu())
    return nn.functional.normalize(torch.cat(rows), dim=1)


def unit(cells: np.ndarray) -> np.ndarray:
    """Divide the features in the last dimension by their length."""
    length = np.linalg.norm(cells, axis=-1, keepdims=True)
    return cells / np.maximum(length, 1e-12)
