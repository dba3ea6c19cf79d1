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


@DATASETS.register_module()
class CIFAR10(SSLDataset):
    """CIFAR-10 in the official layout ``root/cifar-10-batches-py``, held in memory.

    Args:
        root: Folder that holds, or will hold, ``cifar-10-batches-py``.
        pipeline: See :class:`SSLDataset`.
        split: ``"train"`` (50,000 images) or ``"test"`` (10,000).
        download: Download the data where they are missing.
        verify_md5: Compare the checksums of the official files. False is for copies
            that were packed anew. The files are pickles, of which only plain data and
            arrays are read: no code in them runs.
        on_error: See :class:`SSLDataset`.
        max_images: See :class:`SSLDataset`.

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
        if split not in ("train", "test"):
            raise UserValueError(f'split must be "train" or "test", but is {split!r}.')
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
        files = source.train_list if split == "train" else source.test_list
        _check_complete(folder)
        batches = [_read_batch(folder, n, m if verify_md5 else "") for n, m in files]
        meta = source.meta["md5"] if verify_md5 else ""
        self.split = split
        self.images = np.concatenate([images for images, _ in batches])
        super().__init__(
            len(self.images),  # N x 32 x 32 x 3, uint8
            pipeline,
            labels=np.concatenate([labels for _, labels in batches]),
            classes=_read_classes(folder, source.meta["filename"], meta),
            on_error=on_error,
            max_images=max_images,
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


def _check_complete(folder: str) -> None:
    names = [name for name, _ in tv.CIFAR10.train_list + tv.CIFAR10.test_list]
    for name in (*names, tv.CIFAR10.meta["filename"]):
        if not os.path.isfile(os.path.join(folder, name)):
            raise UserValueError(
                f"CIFAR-10 in '{folder}' is incomplete: it has no file {name}. Delete "
                f"the folder and set download=True."
            )


def _read_batch(folder: str, name: str, md5: str) -> tuple[np.ndarray, np.ndarray]:
    """Images (n x 32 x 32 x 3, uint8) and labels (n, int64) of one file."""
    content = _read(folder, name, md5)
    pixels, labels = content.get("data"), content.get("labels")
    if not isinstance(pixels, np.ndarray) or pixels.dtype != np.uint8:
        raise _damaged(folder, name, "its 'data' is no array of bytes")
    if pixels.ndim != 2 or pixels.shape[1] != 3 * 32 * 32:
        raise _damaged(folder, name, f"its 'data' has the shape {pixels.shape}")
    if not isinstance(labels, list) or len(labels) != len(pixels):
        raise _damaged(folder, name, f"its 'labels' are no list of {len(pixels)}")
    if not all(isinstance(label, int) and 0 <= label < 10 for label in labels):
        raise _damaged(folder, name, "its 'labels' are not all 0 to 9")
    images = np.asarray(pixels).reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    return images, np.array(labels, np.int64)


def _read_classes(folder: str, name: str, md5: str) -> list[str]:
    classes = _read(folder, name, md5).get("label_names")
    if not isinstance(classes, list) or len(classes) != 10:
        raise _damaged(folder, name, "its 'label_names' are no list of 10")
    if not all(isinstance(name, str) for name in classes):
        raise _damaged(folder, name, "its 'label_names' are not all text")
    return classes


def _read(folder: str, name: str, md5: str) -> dict:
    """Content of one file, whose bytes are read once and verified before use.

    Any checksum is right where ``md5`` is empty.
    """
    path = os.path.join(folder, name)
    try:
        with open(path, "rb") as file:
            data = file.read()
    except OSError as error:
        raise _damaged(folder, name, str(error.strerror)) from error
    if md5 and hashlib.md5(data, usedforsecurity=False).hexdigest() != md5:
        raise UserValueError(
            f"CIFAR-10 in '{folder}' differs from the official files: {name} has "
            f"another checksum. Delete the folder and set download=True; or, for a "
            f"copy of the data that was packed anew, set verify_md5=False."
        )
    try:
        content = load_plain(data, encoding="latin1")
    except pickle.UnpicklingError as error:
        raise _damaged(folder, name, str(error)) from error
    if not isinstance(content, dict):
        raise _damaged(folder, name, "it is no dict")
    return content


def _damaged(folder: str, name: str, why: str) -> ValueError:
    return ValueError(
        f"'{os.path.join(folder, name)}' cannot be read as a part of CIFAR-10: {why}. "
        f"Delete the folder and set download=True, or copy it again."
    )
