"""Masks of the subjects of images: files beside them, or a saliency.

A mask is an array H x W of an upright image, float32 from 0 (background) to 1. Those of
a COCO file are in :mod:`.coco_masks`.
"""

from __future__ import annotations

import functools
import hashlib
import os
import re
from collections.abc import Callable, Iterable, Iterator

import cv2
import numpy as np
from PIL import Image

from mmssl_ext.errors import UserValueError
from mmssl_ext.files import size_of
from mmssl_ext.text import shown

from ..listing import name_below, some
from ..reading import NoImageError, read_file
from .decode import opened, reason_of

_SIDE = 64  # pixels of the copy that the saliency looks at
_RIM = 6  # of them at each edge are taken for background
_NOISE = 20.0  # variance of a colour, so that a plain rim does not make all salient
_SUFFIXES = (".png", ".npz")
_LABELS = (
    20  # of 255; the largest value of a subject is more, the number of a class less
)
_NUMBERS = "buif"  # numpy's letters of booleans, whole numbers and floats
_ALPHA = ("LA", "La", "PA", "RGBA", "RGBa")
_WRITE = "write a gray PNG, 0 for the background to 255 for the subject"


class MaskError(UserValueError):
    """A mask is missing or cannot be used."""


def border_saliency(img: np.ndarray) -> np.ndarray:
    """What is unlike the colours at the edges of an image: a mask without labels.

    The Mahalanobis distance of a pixel's colour (CIELAB, on a copy of 64 x 64) from
    those of the rim, smoothed and cut by Otsu's threshold. A subject that the frame
    cuts off, or that has its background's colours, is missed.

    Args:
        img: Upright RGB, uint8, H x W x 3.
    """
    height, width = img.shape[:2]
    copy = cv2.resize(img, (_SIDE, _SIDE), interpolation=cv2.INTER_AREA)
    copy = cv2.GaussianBlur(copy, (0, 0), 1.0)
    lab = cv2.cvtColor(copy, cv2.COLOR_RGB2LAB).astype(np.float64)
    rim = np.ones((_SIDE, _SIDE), bool)
    rim[_RIM:-_RIM, _RIM:-_RIM] = False
    away = lab - lab[rim].mean(0)
    inverse = np.linalg.inv(np.cov(lab[rim].T) + _NOISE * np.eye(3))
    distance = np.sqrt(np.einsum("hwi,ij,hwj->hw", away, inverse, away))
    distance = cv2.GaussianBlur(distance, (0, 0), 2.0)
    levels = np.rint(255 * distance / max(distance.max(), 1e-6)).astype(np.uint8)
    level, _ = cv2.threshold(levels, 0, 255, cv2.THRESH_BINARY + cv2.THRESH_OTSU)
    soft = (levels > level).astype(np.float32)
    return cv2.resize(soft, (width, height), interpolation=cv2.INTER_LINEAR)


#: Methods that need no labels, by name.
SALIENCY: dict[str, Callable[[np.ndarray], np.ndarray]] = {"border": border_saliency}


class MaskFolder:
    """Masks in files: ``FOLDER/a/b.png`` belongs to ``ROOT/a/b.jpg``.

    ``FOLDER/a/b.jpg.png`` will do, too. Gray of 8 bits, 255 is the subject, or of 16,
    65535, of 2 and 4 bits 3 and 15; ``.npz`` holds one array of 0 to 1, or booleans.

    Args:
        folder: Of the masks; ``root`` itself where they lie beside the images.
        root: Of the images.
    """

    def __init__(self, folder: str, root: str) -> None:
        if not os.path.isdir(folder):
            raise MaskError(
                f"The folder of masks '{shown(folder)}' (seen from '{os.getcwd()}') "
                "does not exist; correct masks of LoadMask."
            )
        self.folder, self.root = folder, root

    def __call__(self, path: str, size: tuple[int, int]) -> np.ndarray | None:
        """The mask of an image, None where there is no file."""
        found = next(filter(os.path.isfile, self._files(path)), None)
        return None if found is None else _read(found)

    def lacking(self, paths: Iterable[str]) -> list[str]:
        """Those of the images of a set that have no mask."""

        @functools.cache  # listing a folder is faster than asking for each file
        def names(folder: str) -> frozenset[str]:
            try:
                return frozenset(os.listdir(folder))
            except OSError:
                return frozenset()

        return [
            path
            for path in paths
            if not any(
                os.path.basename(file) in names(os.path.dirname(file))
                for file in self._files(path)
            )
        ]

    def digest(self) -> str:
        """Which masks there are: their names and sizes."""
        found = []
        for folder, _, names in os.walk(self.folder):
            files = (os.path.join(folder, n) for n in names if n.endswith(_SUFFIXES))
            found += [f"{os.path.relpath(x, self.folder)} {size_of(x)}" for x in files]
        listing = "\0".join(sorted(found)).encode("utf-8", "surrogateescape")
        return hashlib.sha256(listing).hexdigest()[:32]

    def wanted(self, path: str) -> str:
        """What was looked for of an image, as a part of a sentence."""
        return f"a file '{shown(next(self._files(path)))}', or .npz"

    def _files(self, path: str) -> Iterator[str]:
        name = name_below(self.root, path)
        for stem in (os.path.splitext(name)[0], name):
            for suffix in _SUFFIXES:
                file = os.path.join(self.folder, stem + suffix)
                if file != path:
                    yield file


def _read(file: str) -> np.ndarray:
    try:
        if file.endswith(".npz"):
            values = _array(file)
        else:
            with opened(read_file(file)[0]) as img:
                values = shares_of(img)
    except Exception as error:  # as an image's decoder, it raises almost anything
        raise MaskError(
            f"The mask '{shown(file)}' cannot be read: {reason_of(error)}."
        ) from error
    values = values.astype(np.float32)
    if values.ndim != 2 or not (values.min() >= 0 and values.max() <= 1):
        raise MaskError(
            f"The mask '{shown(file)}' must be H x W with values of 0 to 1, but is "
            f"{values.shape} with {values.min():g} to {values.max():g}."
        )
    return values


def _array(file: str) -> np.ndarray:
    """The one array of an .npz file.

    Raises:
        NoImageError: It holds none, several, or one that is empty or of no numbers.
    """
    with np.load(file, allow_pickle=False) as found:
        if len(found.files) != 1:
            names = some(found.files, quote="'")
            raise NoImageError(
                f"it holds {len(found.files)} arrays ({names}); write the mask alone"
            )
        values = found[found.files[0]]
    if values.dtype.kind not in _NUMBERS:
        raise NoImageError(
            f"its values are of the type {values.dtype}; write numbers of 0 to 1"
        )
    if not values.size:
        raise NoImageError(
            f"its array of the shape {values.shape} is empty; write H x W values"
        )
    return values


def shares_of(img: Image.Image) -> np.ndarray:
    """The shares of the subject that an image file says, H x W of 0 to 1.

    Raises:
        NoImageError: It is no gray image, or its values are labels.
    """
    if img.mode in _ALPHA or "transparency" in img.info:
        raise NoImageError(f"it has an alpha channel; {_WRITE}")
    if img.mode == "P":
        raise NoImageError(f"it has a palette, as maps of labels do; {_WRITE}")
    if img.mode == "1":
        return np.asarray(img)
    coarse = re.search(r"'L;([24])", str(getattr(img, "tile", "")))
    full, values = 255, np.asarray(img)
    if coarse:  # 2 or 4 bits, whose numbers PIL has spread over 0 to 255
        full = 2 ** int(coarse[1]) - 1
        values = values // (255 // full)
    elif img.mode.startswith("I"):
        full = 65535
        if values.min() < 0 or values.max() > full:
            raise NoImageError(f"it holds values outside 0..{full}; {_WRITE}")
    elif img.mode == "RGB" and (values == values[..., :1]).all():
        values = values[..., 0]
    elif img.mode != "L":
        raise NoImageError(f"it is no gray image, but {img.mode}; {_WRITE}")
    _refuse_labels(values, full)
    return values / np.float32(full)


def _refuse_labels(values: np.ndarray, full: int) -> None:
    """Refuse numbers of classes: the subject would be almost nothing of itself."""
    few = _LABELS * full // 255 if full >= 255 else full - 1
    top = int(values.max())
    if 0 < top <= few:
        raise NoImageError(
            f"it holds values 0 to {top} of {full}, as maps of labels do; write 0 and "
            f"{full}"
        )
    is_low = (values > 0) & (values <= few)
    # VOC's maps have the rims of their objects, thin lines, as 255.
    is_thin = top == full and is_low.sum() > (values == full).sum()
    if is_thin and not ((values > few) & (values < full)).any():
        raise NoImageError(
            f"it holds values 0 to {values[is_low].max()} and {full}, as maps of "
            f"labels do; write 0 and {full}"
        )


def fitted(mask: np.ndarray, path: str, size: tuple[int, int]) -> np.ndarray:
    """A mask in the size (width, height) of its image.

    Raises:
        MaskError: It is of another shape, not only of another scale.
    """
    height, width = mask.shape
    if (width, height) == size:
        return mask
    # As tall as it must be, up to a pixel of the smaller of both.
    if abs(width * size[1] - height * size[0]) > max(width, height, *size):
        raise MaskError(
            f"The mask of '{shown(path)}' has {width} x {height} pixels, which is not "
            f"the shape of its image of {size[0]} x {size[1]}; masks belong to upright "
            "images."
        )
    return cv2.resize(mask, size, interpolation=cv2.INTER_LINEAR)
