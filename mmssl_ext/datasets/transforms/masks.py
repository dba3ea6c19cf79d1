"""Masks of the subjects of images: files beside them, a COCO file, or a saliency.

A mask is an array H x W of an upright image, float32 from 0 (background) to 1.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from mmssl_ext.errors import UserError, UserValueError
from mmssl_ext.files import read_json
from mmssl_ext.text import shown

from ..listing import name_below
from ..reading import read_file
from .decode import opened, reason_of

_SIDE = 64  # pixels of the copy that the saliency looks at
_RIM = 6  # of them at each edge are taken for background
_NOISE = 20.0  # variance of a colour, so that a plain rim does not make all salient


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

    ``FOLDER/a/b.jpg.png`` will do, too. Gray of 8 bits, 255 is the subject; ``.npz``
    holds one array of 0 to 1, or booleans.

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
        name = name_below(self.root, path)
        for stem in (os.path.splitext(name)[0], name):
            for suffix in (".png", ".npz"):
                file = os.path.join(self.folder, stem + suffix)
                if file != path and os.path.isfile(file):
                    return _read(file)
        return None


def _read(file: str) -> np.ndarray:
    try:
        if file.endswith(".npz"):
            with np.load(file, allow_pickle=False) as found:
                values = found[found.files[0]]
        else:
            with opened(read_file(file)[0]) as img:
                values = np.asarray(img.convert("L")) / np.float32(255)
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


class CocoMasks:
    """Masks of a COCO file: all objects of an image together are its subject.

    Args:
        ann_file: The file, with ``segmentation`` as polygons or run lengths.
        root: Of the images, from which the file's ``file_name`` starts.
    """

    def __init__(self, ann_file: str, root: str) -> None:
        try:
            from pycocotools import mask
        except ImportError as error:
            raise UserError(
                "Masks of a COCO file need pycocotools: run `pip install pycocotools`."
            ) from error
        self._tools: Any = mask
        found = read_json(ann_file)
        if not found.get("images"):
            raise MaskError(
                f"'{shown(ann_file)}' (seen from '{os.getcwd()}') is no COCO file of "
                "images; correct masks of LoadMask."
            )
        self.ann_file, self.root = ann_file, root
        self._images = {
            str(i["file_name"]): (i["id"], int(i["width"]), int(i["height"]))
            for i in found["images"]
        }
        self._objects: dict[Any, list[Any]] = defaultdict(list)
        for annotation in found.get("annotations", ()):
            if annotation.get("segmentation"):
                self._objects[annotation["image_id"]].append(annotation["segmentation"])

    def __call__(self, path: str, size: tuple[int, int]) -> np.ndarray | None:
        """The mask of an image, None where the file has no object of it."""
        name = name_below(self.root, path)
        known = self._images.get(name, self._images.get(Path(name).name))
        if known is None or not (objects := self._objects.get(known[0])):
            return None
        _, width, height = known
        whole = np.zeros((height, width), bool)
        for shape in objects:
            if isinstance(shape, list) or isinstance(shape["counts"], list):
                shape = self._tools.frPyObjects(shape, height, width)
            decoded = self._tools.decode(shape)  # H x W, or H x W x parts
            whole |= decoded.reshape(height, width, -1).any(-1)
        return whole.astype(np.float32)


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
