"""Pictures of what a network has learned, from a model and some images."""

from __future__ import annotations

import copy
import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.logging import print_log
from torch import Tensor

from mmssl_ext.datasets.base import SSLDataset, build_pipeline
from mmssl_ext.datasets.draws import DrawKey
from mmssl_ext.datasets.folder import ImageFolder
from mmssl_ext.datasets.look import warn_of_unread
from mmssl_ext.datasets.transforms.decode import DecodeImage, UnreadableImageError
from mmssl_ext.datasets.transforms.geometry import (
    CenterCrop,
    RandomResizedCrop,
    ResizeShort,
)
from mmssl_ext.datasets.transforms.views import MakeViews, PackViews
from mmssl_ext.engine.weights.strict import load_strictly
from mmssl_ext.errors import ConfigError, UserError, UserValueError
from mmssl_ext.evaluation.features import preserved_rng
from mmssl_ext.files import write_bytes, write_text
from mmssl_ext.models.memory import FeatureBank
from mmssl_ext.registry import MODELS

from . import KINDS, METHOD
from . import learned_figures as figures
from .learned_features import (
    chance_of,
    collate,
    cosines,
    distances,
    feature_maps,
    first_filters,
    flat_embedding,
    mutual_matches,
    nearest,
    pooled_features,
    principal_components,
    to_colors,
    undisturbed,
)
from .method_figures import to_images
from .method_pictures import draw_picture, training_pipeline
from .sheet import Sheet, check_png, png_bytes, write_sheet

FOLDER, INDEX = "pictures", "index.json"
CLASSES = 10  # at most, of the images that are searched or embedded
_THUMB = 96  # pixels
_NEIGHBOURS = 6
_PIECES = 14  # images beside the points of an embedding


class Picture(NamedTuple):
    """One drawn picture.

    Attributes:
        kind: One of :data:`KINDS`.
        title: One line.
        caption: What it shows, and how a good and a bad one look.
        sheet: The drawing.
    """

    kind: str
    title: str
    caption: str
    sheet: Sheet


@dataclass
class Options:
    """What a user may choose of the pictures.

    Attributes:
        num: Images whose maps are shown.
        most: Images that are searched and embedded, at most.
        size: Short side of the images that become maps; None: larger than the crops
            of training, so that the maps have more cells.
        patch: Place (x, y) of the cell to compare with, as fractions of the image.
        method: ``tsne`` or ``umap``.
        seed: Of the views, of the points and of the network that is compared with.
        bank: Embed the feature bank of the model instead of the images.
    """

    num: int = 6
    most: int = 1000
    size: int | None = None
    patch: tuple[float, float] = (0.5, 0.5)
    method: str = "tsne"
    seed: int = 0
    bank: bool = False

    def __post_init__(self) -> None:
        if not 1 <= self.num <= 32:
            raise UserValueError(
                f"--num {self.num}: a picture shows 1 to 32 images, a row or column "
                "for each."
            )
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


class Source:
    """Images to draw, with their names and, where known, their classes.

    Args:
        dataset: Whose images; it is not changed.
        classes: Whether the first folder below the root may be taken for the class.
    """

    def __init__(self, dataset: SSLDataset, classes: bool = False) -> None:
        self._dataset = copy.copy(dataset)
        self._dataset._draw_key = DrawKey()  # draws here count for nobody else
        self._dataset.on_error = "raise"
        self.classes = _classes(dataset, classes)
        self._unreadable: dict[int, str] = {}

    def __len__(self) -> int:
        return len(self._dataset)

    @property
    def dataset(self) -> SSLDataset:
        """The images, for another pipeline."""
        return copy.copy(self._dataset)

    def name(self, index: int) -> str:
        """File name of an image."""
        return Path(self._dataset.get_data_info(index)["img_path"]).name

    def some(self, count: int) -> list[int]:
        """Numbers of images, spread evenly over all that can be read."""
        count = min(count, len(self))
        return [int(i) for i in np.arange(count) * len(self) // max(count, 1)]

    def many(self, count: int) -> list[int]:
        """As :meth:`some`, but of ten classes where there are more."""
        if self.classes is None:
            return self.some(count)
        names = sorted(set(self.classes))
        if len(names) > CLASSES:
            names = [names[i * len(names) // CLASSES] for i in range(CLASSES)]
        kept = set(names)
        found = [i for i, name in enumerate(self.classes) if name in kept]
        count = min(count, len(found))
        return [found[int(i)] for i in np.arange(count) * len(found) // max(count, 1)]

    def tensors(
        self, indices: Sequence[int], *transforms: Callable[[dict], dict]
    ) -> dict[int, Tensor]:
        """Images 3 x H x W of uint8 by number; those that cannot be read are left out.

        Raises:
            FileNotFoundError: None of them can be read.
        """
        dataset = self.dataset
        dataset.pipeline = [*transforms, PackViews()]
        found, reason = {}, ""
        for index in indices:
            try:
                found[index] = dataset[index]["inputs"]
            except UnreadableImageError as error:
                reason = reason or str(error)
                if index not in self._unreadable:
                    self._unreadable[index] = str(error)
                    _warn(f"An image is left out. {error}")
        if indices and not found:
            raise FileNotFoundError(
                f"None of {len(indices)} images can be read. {reason}"
            )
        return found


def _classes(dataset: SSLDataset, by_folder: bool) -> list[str] | None:
    if dataset.labels is not None:
        names = dataset.metainfo.get("classes")
        return [str(names[i]) if names else str(i) for i in dataset.labels.tolist()]
    if not by_folder:
        return None
    paths = [dataset.name(int(row)) for row in dataset._rows]
    tops = [path.split("/")[0] if "/" in path else "" for path in paths]
    return tops if len(set(tops)) > 1 and all(tops) else None


@dataclass
class Subject:
    """A model, the images to show it with and the pipeline it was trained with.

    Attributes:
        model: In eval mode while it is drawn.
        source: The images.
        pipeline: Transforms of training; the first two views serve the matches.
        evaluation: Transforms of the kNN evaluation, or None.
        options: What the user chose.
        random: The same network with its initial weights, to compare with.
    """

    model: Any
    source: Source
    pipeline: Sequence[Any]
    evaluation: Sequence[Any] | None = None
    options: Options = field(default_factory=Options)
    random: Any = None
    _pooled: dict[int, Tensor] | None = None
    _maps: tuple[list[int], list[np.ndarray], list[dict]] | None = None

    def __post_init__(self) -> None:
        self.name = type(self.model).__name__
        first = next((t for t in self.pipeline if isinstance(t, DecodeImage)), None)
        self.decode = first or DecodeImage()
        self.crop = _crop(self.pipeline)
        factor = 3 if self.crop < 128 else 2
        self.size = self.options.size or factor * self.crop

    def labels(self, indices: Sequence[int]) -> list[str]:
        """File names."""
        return [self.source.name(i) for i in indices]

    def maps(self) -> tuple[list[int], list[np.ndarray], list[dict]]:
        """Numbers, images and feature maps by stage of the images to be shown."""
        if self._maps is None:
            wanted = self._related(self.options.num)
            images = self.source.tensors(wanted, self.decode, ResizeShort(self.size))
            maps = [feature_maps(self.model, image) for image in images.values()]
            shown = [image.movedim(0, -1).numpy() for image in images.values()]
            self._maps = list(images), shown, maps
        return self._maps

    def _related(self, count: int) -> list[int]:
        """Images spread evenly; of classes two images each, next to each other."""
        classes = self.source.classes
        if classes is None or count < 4:
            return self.source.some(count)
        members: dict[str, list[int]] = {}
        for i, name in enumerate(classes):
            members.setdefault(name, []).append(i)
        names = [name for name in sorted(members) if len(members[name]) > 1]
        wanted = count // 2
        if len(names) < 2:
            return self.source.some(count)
        names = [names[i * len(names) // wanted] for i in range(wanted)]
        chosen = [i for n in dict.fromkeys(names) for i in _two(members[n])]
        rest = [i for i in self.source.some(count) if i not in chosen]
        return (chosen + rest)[:count]

    def pooled(self) -> tuple[list[int], Tensor]:
        """Numbers and unit features, n x C, of the images that are searched."""
        if self._pooled is None:
            chosen = self.source.many(self.options.most)
            steps = self.evaluation or [
                self.decode,
                ResizeShort(self.crop),
                CenterCrop(self.crop),
            ]
            self._pooled = {}
            for start in range(0, len(chosen), 256):  # images of 256 at a time
                part = chosen[start : start + 256]
                images = self.source.tensors(part, *steps)
                rows = pooled_features(self.model, list(images.values()))
                self._pooled |= dict(zip(images, rows, strict=True))
        return list(self._pooled), torch.stack(list(self._pooled.values()))

    def thumbs(self, indices: Sequence[int]) -> dict[int, np.ndarray]:
        """Small square images by number."""
        steps = (self.decode, ResizeShort(_THUMB), CenterCrop(_THUMB))
        found = self.source.tensors(indices, *steps)
        return {i: image.movedim(0, -1).numpy() for i, image in found.items()}


def _two(members: Sequence[int]) -> list[int]:
    return [members[0], members[len(members) // 2]]


def _crop(pipeline: Sequence[Any]) -> int:
    """Side of the first view, or 224 where it is not known."""
    for transform in pipeline:
        for step in transform.pipelines[0] if isinstance(transform, MakeViews) else ():
            if isinstance(step, RandomResizedCrop):
                return min(step.size)
    return 224


def _pca(subject: Subject) -> figures.Drawn:
    indices, images, maps = subject.maps()
    sets = {stage: [m[stage] for m in maps] for stage in maps[0]}
    if subject.random is not None:
        stage = list(sets)[-1]
        tensors = [torch.from_numpy(i).movedim(-1, 0) for i in images]
        with undisturbed(subject.random):
            found = [feature_maps(subject.random, i)[stage] for i in tensors]
        sets[f"{stage}, untrained"] = found
    colors, shares, cells = {}, {}, {}
    for stage, found in sets.items():
        rows = np.concatenate([m.reshape(-1, m.shape[-1]) for m in found])
        scores, shares[stage] = principal_components(rows)
        ends = np.cumsum([m.shape[0] * m.shape[1] for m in found])[:-1]
        colors[stage] = [
            part.reshape(*m.shape[:2], 3)
            for part, m in zip(np.split(to_colors(scores), ends), found, strict=True)
        ]
        cells[stage] = round(images[0].shape[1] / found[0].shape[1], 1)
    labels = subject.labels(indices)
    return figures.pca_sheet(subject.name, images, colors, shares, labels, cells)


def _similarity(subject: Subject) -> figures.Drawn:
    indices, images, found = subject.maps()
    maps = [list(m.values())[-1] for m in found]  # h x w x C
    x, y = subject.options.patch
    rows = []
    for i in range(0, len(maps), 2)[:3]:
        height, width = maps[i].shape[:2]
        cell = min(int(y * height), height - 1), min(int(x * width), width - 1)
        # Its own image, the next one (of the same class where these are known), others.
        order = [(i + k) % len(maps) for k in range(len(maps))][:5]
        rows.append((order, cell, [cosines(maps[i][cell], maps[k]) for k in order]))
    classes = subject.source.classes
    labels = [
        classes[index] if classes else name
        for index, name in zip(indices, subject.labels(indices), strict=True)
    ]
    return figures.similarity_sheet(subject.name, images, labels, rows)


def _matches(subject: Subject) -> figures.Drawn:
    dataset = copy.copy(_enlarged(subject))
    dataset._draw_key = DrawKey()  # the key of the images themselves stays as it is
    dataset.set_draw_key(subject.options.seed, 0)
    preprocessor = subject.model.data_preprocessor
    pairs, grids, found, errors, names = [], [], [], [], []
    chances = []
    for index in subject.source.some(max(subject.options.num, 1)):
        try:
            item = dataset[index]
        except UnreadableImageError as error:
            _warn(f"An image is left out. {error}")
            continue
        views = preprocessor(collate([item]))["inputs"]
        if not isinstance(views, (list, tuple)) or len(views) < 2 or views[1].ndim != 4:
            raise ConfigError(
                "Matches need two views of whole images; the pipeline of the config "
                "makes none."
            )
        pixels = [
            to_images(v, preprocessor.mean, preprocessor.std)[0] for v in views[:2]
        ]
        maps = [
            list(
                feature_maps(subject.model, torch.from_numpy(p).movedim(-1, 0)).values()
            )
            for p in pixels
        ]
        first, second = (m[-1] for m in maps)
        shape = (first.shape[:2], second.shape[:2])
        matches = mutual_matches(first, second)
        boxes = item.get("boxes", torch.full((2, 4), torch.nan))[:2]
        far = None
        if boxes.isfinite().all():
            far = distances(matches, shape, boxes)
            chances.append((chance_of(matches, shape, boxes), len(far)))
        pairs.append((pixels[0], pixels[1]))
        grids.append(shape)
        found.append(matches)
        errors.append(far)
        names.append(subject.source.name(index))
    if not pairs:
        raise FileNotFoundError("None of the images can be read.")
    chance = None
    if chances:
        total = sum(count for _, count in chances)
        chance = sum(c * count for c, count in chances) / max(total, 1)
    return figures.matches_sheet(
        subject.name, pairs, grids, found, errors, names, chance
    )


def _enlarged(subject: Subject) -> SSLDataset:
    """The images with the pipeline of training, whose first views become larger."""
    dataset = subject.source.dataset
    factor = subject.size / subject.crop
    pipeline: list[Any] = []
    for transform in subject.pipeline:
        if isinstance(transform, MakeViews):
            transform = copy.copy(transform)
            transform.pipelines = [
                [_larger(step, factor) if v < 2 else step for step in steps]
                for v, steps in enumerate(transform.pipelines)
            ]
        pipeline.append(transform)
    dataset.pipeline = pipeline
    return dataset


def _larger(step: Any, factor: float) -> Any:
    if not isinstance(step, RandomResizedCrop):
        return step
    step = copy.copy(step)
    height, width = step.size
    step.size = round(height * factor), round(width * factor)
    return step


def _neighbours(subject: Subject) -> figures.Drawn:
    indices, features = subject.pooled()
    if len(indices) < 3:
        raise ConfigError(
            f"Neighbours need at least 3 images, but there are {len(indices)}."
        )
    count = min(_NEIGHBOURS, len(indices) - 1)
    chosen = _queries(indices, subject.source.classes, subject.options.num)
    found, cosine = nearest(features, chosen, count)
    classes, agreement = None, None
    if subject.source.classes is not None:
        classes = [subject.source.classes[i] for i in indices]
        all_found, _ = nearest(features, range(len(indices)), count)
        names = np.array(classes)
        agreement = float((names[all_found] == names[:, None]).mean())
    wanted = dict.fromkeys([*chosen, *found.ravel().tolist()])
    small = subject.thumbs([indices[i] for i in wanted])
    thumbs = {i: small[indices[i]] for i in wanted}
    return figures.neighbours_sheet(
        subject.name,
        thumbs,
        chosen,
        found,
        cosine,
        [subject.source.name(i) for i in indices],
        classes,
        len(indices),
        agreement,
    )


def _queries(
    indices: Sequence[int], classes: Sequence[str] | None, count: int
) -> list[int]:
    """Rows to show the neighbours of: of as many classes as can be, else spread."""
    count = min(count, len(indices))
    if classes is not None:
        firsts: dict[str, list[int]] = {}
        for row, index in enumerate(indices):
            firsts.setdefault(classes[index], []).append(row)
        groups = list(firsts.values())
        if len(groups) >= count:
            return [
                (g := groups[i * len(groups) // count])[len(g) // 2]
                for i in range(count)
            ]
    return [i * len(indices) // count for i in range(count)]


def _embedding(subject: Subject) -> figures.Drawn:
    options = subject.options
    if options.bank:
        indices, features = _bank(subject)
        what = f"the bank's features of {len(indices):,} images"
    else:
        indices, features = subject.pooled()
        what = f"the pooled backbone features of {len(indices):,} images"
    if len(indices) < 8:
        raise ConfigError(
            f"An embedding needs at least 8 images, but there are {len(indices)}."
        )
    points, how = flat_embedding(features, options.method, options.seed)
    classes = subject.source.classes
    rows = figures.spread_out(points, _PIECES)
    small = subject.thumbs([indices[i] for i in rows])
    thumbs = {i: small[indices[i]] for i in rows}
    names = None if classes is None else [classes[i] for i in indices]
    return figures.embedding_sheet(subject.name, points, names, thumbs, how, what)


def _bank(subject: Subject) -> tuple[list[int], Tensor]:
    banks = [m for m in subject.model.modules() if isinstance(m, FeatureBank)]
    bank = next((bank for bank in banks if len(bank)), None)
    if bank is None:
        raise ConfigError(
            f"--bank: {subject.name} has no feature bank that is filled; InterCLR has "
            "one after its warm-up."
        )
    if int(bank.fingerprint) != subject.source.dataset.fingerprint():
        raise ConfigError(
            f"--bank: the bank holds {len(bank):,} images of the training set, and "
            f"--images has others ({len(subject.source):,}); give the folder that the "
            "model was trained on."
        )
    indices = subject.source.many(subject.options.most)
    return indices, bank.read(torch.tensor(indices, device=bank.features.device)).cpu()


def _filters(subject: Subject) -> figures.Drawn:
    sets = {"trained": subject.model}
    if subject.random is not None:
        sets["untrained"] = subject.random
    found = {title: first_filters(m.backbone) for title, m in sets.items()}
    known = {title: weights for title, weights in found.items() if weights is not None}
    if not known:
        raise ConfigError(
            f"The first convolution of {type(subject.model.backbone).__name__} does "
            "not take red, green and blue, so its filters are no colours."
        )
    return figures.filters_sheet(subject.name, known)


DRAWINGS: dict[str, Callable[[Subject], figures.Drawn]] = {
    "pca": _pca,
    "similarity": _similarity,
    "matches": _matches,
    "neighbours": _neighbours,
    "embedding": _embedding,
    "filters": _filters,
}

_TITLES = {
    "pca": "Feature maps as colours",
    "similarity": "Where is what a cell shows?",
    "matches": "The same place in two views",
    "neighbours": "Nearest neighbours",
    "embedding": "Which images are alike",
    "filters": "Filters of the first convolution",
}


def draw(subject: Subject, kind: str) -> Picture:
    """Draw one kind; the model's modes and all generators stay as they were.

    Raises:
        ConfigError: There is nothing of this kind to draw; the sentence says why.
        FileNotFoundError: No image can be read.
    """
    with undisturbed(subject.model):
        sheet, caption = DRAWINGS[kind](subject)
    return Picture(kind, _TITLES[kind], caption, sheet)


def save(
    pictures: Sequence[tuple[Picture, np.ndarray]],
    folder: str | Path,
    checkpoint: str | None,
    epoch: int,
) -> Path:
    """Write pictures, their pixels given, and the index that describes them.

    The index is written last; pictures of an earlier index that are not among these
    are deleted.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    entries = []
    for picture, pixels in pictures:
        file = f"{picture.kind}.png"
        write_bytes(folder / file, png_bytes(pixels))
        size = {"width": pixels.shape[1], "height": pixels.shape[0]}
        entries.append(
            {"file": file, "kind": picture.kind}
            | {"title": picture.title, "caption": picture.caption}
            | size
        )
    index = {"checkpoint": checkpoint, "epoch": epoch, "pictures": entries}
    write_text(folder / INDEX, json.dumps(index, indent=1) + "\n")
    for kind in set(KINDS) - {picture.kind for picture, _ in pictures}:
        (folder / f"{kind}.png").unlink(missing_ok=True)
    return folder / INDEX


def write_pictures(
    cfg: Config,
    checkpoint: str | Path,
    images: str | Path,
    out: str | Path,
    kinds: Sequence[str] = (METHOD,),
    num: int | None = None,
    seed: int = 0,
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
        kinds: Of :data:`KINDS`, ``method``, or ``all``.
        num: Images whose maps or views are shown; 4 for ``method``, else 6.
        seed: Of the views and of the embedding.
        compare: ``random`` to show the untrained network beside it where that helps.
        **options: Further ones of :class:`Options`.

    Returns:
        The files.

    Raises:
        UserError: Config or checkpoint cannot be used, or have nothing to draw.
        ValueError: An option is of no use.
        FileNotFoundError: The folder is missing or holds no image that can be read.
    """
    out, everything = Path(out), "all" in kinds
    wanted = [METHOD, *KINDS] if everything else list(dict.fromkeys(kinds))
    if unknown := [kind for kind in wanted if kind not in (METHOD, *KINDS)]:
        raise UserValueError(
            f"--kind {unknown[0]}: choose of {', '.join((METHOD, *KINDS))}, all."
        )
    if len(wanted) == 1:
        check_png(out)
    elif out.suffix:
        raise UserValueError(
            f"Several kinds make several files; let --out be a folder, not {out}."
        )
    chosen = Options(num=6 if num is None else num, seed=seed, **options)
    files = []
    if METHOD in wanted:
        wanted.remove(METHOD)
        try:
            sheet = draw_picture(
                cfg, checkpoint, images, 4 if num is None else num, seed
            )
            files.append(write_sheet(sheet, _file(out, METHOD)))
        except (UserError, ValueError) as error:
            if not everything or "nothing to draw" not in str(error):
                raise
            _warn(f"{error} The other kinds are drawn.")
    if not wanted:
        return files
    subject = _subject(cfg, checkpoint, images, chosen, compare == "random")
    for kind in wanted:
        try:
            picture = draw(subject, kind)
        except ConfigError as error:
            if not everything:
                raise
            _warn(f"No picture '{kind}': {error}")
            continue
        files.append(write_sheet(picture.sheet, _file(out, kind)))
    return files


def _file(out: Path, kind: str) -> Path:
    return out if out.suffix else out / f"{kind}.png"


def _subject(
    cfg: Config,
    checkpoint: str | Path,
    images: str | Path,
    options: Options,
    compare: bool,
) -> Subject:
    pipeline = training_pipeline(cfg)
    dataset = ImageFolder(str(images))
    warn_of_unread(dataset)
    source = Source(dataset, classes=True)
    model = MODELS.build(cfg.model).to(get_device()).eval()
    load_strictly(model, checkpoint)
    if not hasattr(model, "backbone"):
        raise ConfigError(f"{type(model).__name__} has no backbone to look into.")
    random = None
    if compare:
        with preserved_rng():
            torch.manual_seed(options.seed)
            random = MODELS.build(cfg.model)
            vars(random)["_dump_init_info"] = lambda: None  # a line for every tensor
            random.init_weights()
        random = random.to(get_device()).eval()
    hook = (cfg.get("default_hooks") or {}).get("knn") or {}
    knn = (hook.get("query_dataloader") or {}).get("dataset") or {}
    return Subject(
        model,
        source,
        build_pipeline(pipeline),
        evaluation_steps(build_pipeline(knn.get("pipeline") or ())),
        options,
        random,
    )


def evaluation_steps(pipeline: Sequence[Any]) -> list[Any] | None:
    """The transforms before PackViews, where these decode an image; else None."""
    steps = [t for t in pipeline if not isinstance(t, PackViews)]
    return steps if any(isinstance(t, DecodeImage) for t in steps) else None


def _warn(text: str) -> None:
    print_log(text, logger="current", level=logging.WARNING)
