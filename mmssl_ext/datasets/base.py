"""Base of the datasets: lazy decoding, seeded randomness and unreadable images."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from torch.utils.data import Dataset

from mmssl_ext.errors import UserValueError
from mmssl_ext.files import head_of, size_of
from mmssl_ext.registry import TRANSFORMS

from .listing import PackedPaths
from .seeds import SUBSTITUTE, AugmentationSeed, SampleSeed
from .transforms.bands import check_no_rgb, decoders
from .transforms.decode import UnreadableImageError
from .transforms.random import check_choice

Transform = Callable[[dict], dict]
MAX_SUBSTITUTES = 20


def build_pipeline(pipeline: Sequence[dict | Transform]) -> list[Transform]:
    """Build transforms from config dicts; callables are kept as they are.

    Raises:
        UserValueError: Bands are decoded for a transform that needs RGB.
    """
    built = [TRANSFORMS.build(t) if isinstance(t, dict) else t for t in pipeline]
    if any(decoders(built)):
        check_no_rgb(built)
    return built


def class_names(classes: Sequence[str]) -> tuple[str, ...]:
    """Return names of classes; one string is no list of them."""
    if isinstance(classes, str):
        raise UserValueError(
            f"classes={classes!r} is one string; give a list of class names, one "
            f"class as ({classes!r},)."
        )
    return tuple(classes)


class SSLDataset(Dataset):
    """Images with optional labels, read one by one when asked for.

    A subclass finds its images, calls ``super().__init__`` and implements
    :meth:`describe`. An item is whatever the last transform of the pipeline returns,
    with :class:`PackViews` ``dict(inputs=..., data_samples=DataSample)``. A transform
    with ``check_images(paths)`` is told here which images there are.

    Args:
        size: Number of images found, or the numbers of those to take.
        pipeline: Transforms, as config dicts or callables ``dict -> dict``.
        labels: Class index of each image found, or None.
        classes: Class names, or None.
        on_error: What to do with an unreadable image: ``"raise"`` an error that names
            it, or ``"skip"`` it, i.e. return another image in its place and list the
            path in ``skipped`` of the item's data sample.
        max_images: Use only so many images, evenly spaced over the whole set.
    """

    remedy = "Delete or replace this file"  # for an unreadable image

    def __init__(
        self,
        size: int | np.ndarray,
        pipeline: Sequence[dict | Transform] = (),
        labels: np.ndarray | None = None,
        classes: Sequence[str] | None = None,
        on_error: str = "raise",
        max_images: int | None = None,
    ) -> None:
        check_choice("on_error", on_error, "raise", "skip")
        if max_images is not None and max_images < 1:
            raise UserValueError(
                f"max_images={max_images!r} must be at least 1, or None for all images."
            )
        rows = size if isinstance(size, np.ndarray) else np.arange(size)
        count = len(rows) if max_images is None else min(len(rows), max_images)
        self._rows = rows[np.arange(count) * len(rows) // max(count, 1)]
        self.labels = None if labels is None else np.asarray(labels)[self._rows]
        self._metainfo = {} if classes is None else {"classes": class_names(classes)}
        self.pipeline = build_pipeline(pipeline)
        self.on_error = on_error
        self.augmentation_seed = AugmentationSeed()
        for step in self.pipeline:
            if hasattr(step, "check_images"):
                infos = (self.describe(int(row)) for row in self._rows)
                step.check_images(str(info["img_path"]) for info in infos)

    @property
    def metainfo(self) -> dict[str, Any]:
        """A copy of the meta information; holds ``classes`` where they are known."""
        return dict(self._metainfo)

    def renumber(self, labels: np.ndarray, classes: Sequence[str]) -> None:
        """Take other class numbers: ``labels`` (one per image), named ``classes``."""
        self.labels = np.asarray(labels)
        self._metainfo["classes"] = tuple(classes)

    def __len__(self) -> int:
        return len(self._rows)

    def set_augmentation_seed(self, seed: int, epoch: int) -> None:
        """Make all random numbers depend only on (seed, epoch, sample index, view).

        Call it before the iteration over the loader starts; it reaches persistent
        workers too. Without it a sample gets others each time that it is asked for.
        """
        self.augmentation_seed.set(seed, epoch)

    set_draw_key = set_augmentation_seed  # its name in version 0.1

    def describe(self, row: int) -> dict[str, Any]:
        """Return ``img_path`` of image ``row`` (and ``img`` if it is in memory)."""
        raise NotImplementedError

    def read(self, row: int) -> dict[str, Any]:
        """Return ``img_bytes`` of image ``row`` where it is no file of its own."""
        return {}

    def file_size(self, row: int) -> int:
        """Return the number of bytes of image ``row``, -1 where it is missing."""
        return size_of(self.describe(row)["img_path"])

    def file_head(self, row: int, most: int) -> bytes:
        """Return the first bytes of image ``row``, none where it is missing."""
        return head_of(self.describe(row)["img_path"], most)

    def name(self, row: int) -> str:
        """Return the name by which :meth:`fingerprint` knows image ``row``."""
        root = os.path.join(getattr(self, "root", ""), "")
        return str(self.describe(row)["img_path"]).removeprefix(root)

    def fingerprint(self) -> int:
        """A number that follows from which images there are and in which order.

        It is positive, below 2^63, and stays when the root folder moves.
        """
        digest = hashlib.sha256()
        for row in self._rows:
            name = self.name(int(row))
            digest.update(name.encode("utf-8", "surrogateescape") + b"\0")
        return 1 + int.from_bytes(digest.digest()[:8], "big") // 2 % (2**63 - 1)

    def get_data_info(self, index: int) -> dict[str, Any]:
        """Return path, index and label of a sample without decoding its image."""
        info = self.describe(int(self._rows[index]))
        info["sample_idx"] = int(index)
        if self.labels is not None:
            info["gt_label"] = int(self.labels[index])
        return info

    def __getitem__(self, index: int) -> Any:
        """Return item ``index``.

        The substitute of an unreadable image is augmented as the sample it stands for,
        and carries its own path, label and ``sample_idx``.

        Raises:
            UnreadableImageError: With ``on_error="raise"`` for the first unreadable
                image, with ``"skip"`` when the substitutes were unreadable as well.
        """
        if not -len(self) <= index < len(self):
            raise IndexError(
                f"Sample {index} was asked for, but the dataset has {len(self)}."
            )
        index = int(index) % len(self)
        seed = self.augmentation_seed.sample(index)
        try:
            return self._run(index, seed, ())
        except UnreadableImageError as error:
            if self.on_error == "raise":
                raise UnreadableImageError(
                    f'{error} {self.remedy}, or set on_error="skip" in the dataset '
                    "to go on without it."
                ) from error
            return self._substitute(index, seed, error)

    def _run(self, index: int, seed: SampleSeed, skipped: tuple[str, ...]) -> Any:
        results = self.get_data_info(index)
        results.update(self.read(int(self._rows[index])))
        results.update(skipped=skipped, sample_seed=seed, rng=seed.stream())
        for transform in self.pipeline:
            results = transform(results)
        return results

    def _substitute(
        self, index: int, seed: SampleSeed, error: UnreadableImageError
    ) -> Any:
        # Deterministic also without a seed, so that an evaluation repeats itself.
        key = self.augmentation_seed.get() or (0, 0)
        rng = SampleSeed(key, index).stream(SUBSTITUTE)
        errors, skipped = [error], [self.get_data_info(index)["img_path"]]
        for _ in range(MAX_SUBSTITUTES):
            other = int(rng.integers(len(self)))
            try:
                return self._run(other, seed, tuple(skipped))
            except UnreadableImageError as other_error:
                errors.append(other_error)
                skipped.append(self.get_data_info(other)["img_path"])
        listing = "\n  ".join(str(e) for e in errors[:5])
        raise UnreadableImageError(
            f'{len(errors)} images in a row could not be read, so on_error="skip" '
            f"gives up. Is the dataset complete and mounted? The first:\n  {listing}"
        ) from error


class PathDataset(SSLDataset):
    """Images that are files of their own, by their paths below the folder ``root``."""

    def __init__(self, root: str, paths: Iterable[str], *options: Any) -> None:
        self.root = root
        self._paths = paths if isinstance(paths, PackedPaths) else PackedPaths(paths)
        super().__init__(len(self._paths), *options)

    def describe(self, row: int) -> dict[str, Any]:
        """Return ``img_path`` of image ``row``."""
        return {"img_path": os.path.join(self.root, self._paths[row])}
