"""CIFAR-10 (Krizhevsky, "Learning multiple layers of features from tiny images")."""

from __future__ import annotations

import hashlib
import os
import pickle
from collections.abc import Sequence
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
        files = [_File(folder, name, md5, verify_md5) for name, md5 in listed]
        self.split = split
        self.images = np.concatenate([f.images() for f in files])  # N x 32 x 32 x 3
        labels = np.concatenate([f.labels() for f in files])
        classes = _File(folder, *meta, verify_md5).classes()
        super().__init__(
            len(self.images), pipeline, labels, classes, on_error, max_images
        )

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


class _File:
    """One of the official files, whose bytes are read once and verified before use."""

    def __init__(self, folder: str, name: str, md5: str, verify: bool) -> None:
        self.path = os.path.join(folder, name)
        try:
            with open(self.path, "rb") as file:
                data = file.read()
        except OSError as error:
            raise self._damaged(str(error.strerror)) from error
        if verify and hashlib.md5(data, usedforsecurity=False).hexdigest() != md5:
            raise UserValueError(
                f"CIFAR-10 in '{folder}' differs from the official files: {name} has "
                f"another checksum. Delete the folder and set download=True; or, for a "
                f"copy of the data that was packed anew, set verify_md5=False."
            )
        try:
            self.content = load_plain(data, encoding="latin1")
        except pickle.UnpicklingError as error:
            raise self._damaged(str(error)) from error
        if not isinstance(self.content, dict):
            raise self._damaged("it is no dict")

    def images(self) -> np.ndarray:
        """Return the images, n x 32 x 32 x 3."""
        pixels = self.content.get("data")
        is_bytes = isinstance(pixels, np.ndarray) and pixels.dtype == np.uint8
        if not is_bytes or pixels.ndim != 2 or pixels.shape[1] != 3 * 32 * 32:
            raise self._damaged("its 'data' is no array of bytes, n x 3,072")
        return np.asarray(pixels).reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)

    def labels(self) -> np.ndarray:
        """Return the class of each image, n."""
        labels, count = self.content.get("labels"), len(self.content["data"])
        whole = isinstance(labels, list) and len(labels) == count
        if not whole or any(type(x) is not int or not 0 <= x < 10 for x in labels):
            raise self._damaged(f"its 'labels' are no list of {count} numbers 0 to 9")
        return np.array(labels, np.int64)

    def classes(self) -> list[str]:
        """Return the names of the ten classes."""
        names = self.content.get("label_names")
        whole = isinstance(names, list) and len(names) == 10
        if not whole or any(type(name) is not str for name in names):
            raise self._damaged("its 'label_names' are no list of 10 names")
        return names

    def _damaged(self, why: str) -> UserValueError:
        return UserValueError(
            f"'{self.path}' cannot be read as a part of CIFAR-10: {why}. Delete the "
            "folder and set download=True, or copy it again."
        )
