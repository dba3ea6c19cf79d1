"""CIFAR-10 (Krizhevsky, "Learning multiple layers of features from tiny images")."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from mmengine.dist import barrier, get_local_rank
from torchvision import datasets as tv

from mmssl_ext.registry import DATASETS

from .base import SSLDataset


class _AnyMD5(tv.CIFAR10):
    """CIFAR-10 in the official layout, whatever the checksums of its files."""

    train_list = [[name, None] for name, _ in tv.CIFAR10.train_list]  # noqa: RUF012
    test_list = [[name, None] for name, _ in tv.CIFAR10.test_list]  # noqa: RUF012
    meta = {**tv.CIFAR10.meta, "md5": None}  # noqa: RUF012


@DATASETS.register_module()
class CIFAR10(SSLDataset):
    """CIFAR-10 in the official layout ``root/cifar-10-batches-py``, held in memory.

    Args:
        root: Folder that holds, or will hold, ``cifar-10-batches-py``.
        pipeline: See :class:`SSLDataset`.
        split: ``"train"`` (50,000 images) or ``"test"`` (10,000).
        download: Download the data where they are missing.
        verify_md5: Compare the checksums of the official files. False is for copies
            that were packed anew. The files are pickles, which can run code when
            they are loaded, so switch it off only for files that you trust.
        on_error: See :class:`SSLDataset`.
        max_images: See :class:`SSLDataset`.

    Raises:
        FileNotFoundError: The data are missing and ``download`` is False.
        ValueError: A file is missing or has another checksum.
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
            raise ValueError(f'split must be "train" or "test", but is {split!r}.')
        source = tv.CIFAR10 if verify_md5 else _AnyMD5
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
        try:
            data = source(root, train=split == "train")
        except RuntimeError as error:
            raise ValueError(
                f"CIFAR-10 in '{folder}' is incomplete, or differs from the official "
                f"files. Delete the folder and set download=True; or, for a copy that "
                f"you trust, set verify_md5=False."
            ) from error
        self.split = split
        self.images = data.data  # N x 32 x 32 x 3, uint8
        super().__init__(
            len(self.images),
            pipeline,
            labels=np.asarray(data.targets, np.int64),
            classes=data.classes,
            on_error=on_error,
            max_images=max_images,
        )

    def describe(self, row: int) -> dict[str, Any]:
        """Return image ``row`` and its name, e.g. ``cifar10/train/00017``."""
        name = f"cifar10/{self.split}/{row:05d}"
        return {"img_path": name, "img": self.images[row]}
