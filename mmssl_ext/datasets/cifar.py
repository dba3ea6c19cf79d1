"""CIFAR-10 (Krizhevsky, "Learning multiple layers of features from tiny images")."""

from __future__ import annotations

import hashlib
import os
import pickle
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from mmengine.dist import barrier, get_local_rank
from torchvision import datasets as tv

from mmssl_ext.errors import UserValueError
from mmssl_ext.pickles import load_plain
from mmssl_ext.registry import DATASETS

from .base import SSLDataset
from .transforms.random import check_choice


@DATASETS.register_module()
class CIFAR10(SSLDataset):
    """CIFAR-10 in the official layout ``root/cifar-10-batches-py``, held in memory.

    Args:
        root: Folder that holds, or will hold, ``cifar-10-batches-py``.
        split: ``"train"`` (50,000 images) or ``"test"`` (10,000).
        download: Download the data where they are missing.
        verify_md5: Compare the checksums of the official files. False is for copies
            that were packed anew. The files are pickles, of which only plain data and
            arrays are read: no code in them runs.
        pipeline, on_error, max_images: See :class:`SSLDataset`.

    Raises:
        FileNotFoundError: The data are missing and ``download`` is False.
        ValueError: A file is missing, has another checksum, is damaged or holds more
            than data.
    """

    def __init__(
        self,
        root: str,
        pipeline: Sequence[Any] = (),
        split: str = "train",
        download: bool = False,
        verify_md5: bool = True,
        on_error: str = "raise",
        max_images: int | None = None,
    ) -> None:
        check_choice("split", split, "train", "test")
        source = tv.CIFAR10
        folder = os.path.join(os.fspath(root), source.base_folder)
        if download and get_local_rank() == 0:
            source(root, download=True)
        if download:
            barrier()
        elif not os.path.isdir(folder):
            raise FileNotFoundError(
                f"CIFAR-10 was not found: there is no folder '{folder}'. Correct "
                f"`root` of the dataset, or set download=True to fetch it (170 MB)."
            )
        meta = (source.meta["filename"], source.meta["md5"])
        for name, _ in (*source.train_list, *source.test_list, meta):
            if not os.path.isfile(os.path.join(folder, name)):
                raise UserValueError(
                    f"CIFAR-10 in '{folder}' is incomplete: it has no file {name}. "
                    f"Delete the folder and set download=True."
                )
        listed = source.train_list if split == "train" else source.test_list
        parts = [_read(folder, name, md5 * verify_md5, _batch) for name, md5 in listed]
        images, labels = map(np.concatenate, zip(*parts, strict=True))
        self.split = split
        self.images = images  # N x 32 x 32 x 3
        classes = _read(folder, meta[0], meta[1] * verify_md5, _classes)
        super().__init__(len(images), pipeline, labels, classes, on_error, max_images)

    def describe(self, row: int) -> dict[str, Any]:
        """Return image ``row`` and its name, e.g. ``cifar10/train/00017``."""
        name = f"cifar10/{self.split}/{row:05d}"
        return {"img_path": name, "img": self.images[row]}

    def file_size(self, row: int) -> int:
        """Return the number of bytes of image ``row``."""
        return self.images[row].nbytes

    def file_head(self, row: int, most: int) -> bytes:
        """Return the first bytes of image ``row``."""
        return self.images[row].tobytes()[:most]


def _read(folder: str, name: str, md5: str, take: Callable[[dict], Any]) -> Any:
    """Take from one of the official files; it is verified unless ``md5`` is empty."""
    path = os.path.join(folder, name)
    try:
        with open(path, "rb") as file:
            data = file.read()
        if md5 and hashlib.md5(data, usedforsecurity=False).hexdigest() != md5:
            raise UserValueError(
                f"CIFAR-10 in '{folder}' differs from the official files: {name} has "
                f"another checksum. Delete the folder and set download=True; or, for a "
                f"copy of the data that was packed anew, set verify_md5=False."
            )
        return take(load_plain(data, encoding="latin1"))
    except UserValueError:
        raise
    except (OSError, pickle.UnpicklingError, KeyError, TypeError, ValueError) as error:
        raise UserValueError(
            f"The CIFAR-10 file '{path}' cannot be read: {error}. Delete the folder "
            "and set download=True, or pack the copy anew."
        ) from error


def _batch(content: dict) -> tuple[np.ndarray, np.ndarray]:
    """Images n x 32 x 32 x 3 and classes n."""
    pixels, labels = content["data"], content["labels"]
    if getattr(pixels, "dtype", None) != np.uint8:
        raise ValueError("its 'data' is no array of bytes")
    images = np.asarray(pixels).reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    if len(labels) != len(images) or any(x not in range(10) for x in labels):
        raise ValueError("its 'labels' are not one number from 0 to 9 for each image")
    return images, np.array(labels, np.int64)


def _classes(content: dict) -> list[str]:
    names = content["label_names"]
    if len(names) != 10 or not all(isinstance(name, str) for name in names):
        raise ValueError("its 'label_names' are not ten names")
    return list(names)
