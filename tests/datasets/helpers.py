"""Small images, pipelines and loaders shared by the tests of this folder."""

from __future__ import annotations

import os
import pickle
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.dataset import default_collate
from PIL import Image
from torch.utils.data import DataLoader

from mmssl_ext.datasets import SSLDataset

VIEW = [
    {"type": "RandomResizedCrop", "size": 24},
    {"type": "ColorJitter"},
    {"type": "RandomGrayscale"},
    {"type": "GaussianBlur"},
    {"type": "RandomFlip"},
]
TWO_VIEWS = [
    {"type": "DecodeImage"},
    {"type": "MakeViews", "views": [VIEW, VIEW]},
    {"type": "PackViews"},
]
EVALUATION = [
    {"type": "DecodeImage"},
    {"type": "ResizeShort", "size": 20},
    {"type": "CenterCrop", "size": 16},
    {"type": "PackViews"},
]


def picture(seed: int = 0, size: tuple[int, int] = (48, 40)) -> Image.Image:
    """A smooth random image of (width, height) pixels."""
    rng = np.random.default_rng(seed)
    grid = rng.integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return Image.fromarray(grid).resize(size, Image.Resampling.BICUBIC)


def write_folder(root: Path, count: int = 8) -> list[Path]:
    root.mkdir(parents=True, exist_ok=True)
    paths = [root / f"{i:03d}.png" for i in range(count)]
    for i, path in enumerate(paths):
        picture(i).save(path)
    return paths


def loader(dataset: SSLDataset, **kwargs: Any) -> DataLoader:
    kwargs = {"batch_size": 2, "collate_fn": default_collate, **kwargs}
    return DataLoader(dataset, **kwargs)


def png_header(width: int, height: int) -> bytes:
    """A valid but empty PNG that claims so many pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + check

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + data


def write_broken(folder: Path) -> dict[str, Path]:
    """One file of each kind that cannot be read; ``missing`` does not exist."""
    folder.mkdir(parents=True, exist_ok=True)
    picture(1, (200, 200)).save(folder / "whole.jpg")
    whole = (folder / "whole.jpg").read_bytes()
    os.remove(folder / "whole.jpg")
    contents = {
        "truncated": whole[: len(whole) // 2],
        "text": b"this is no image\n" * 20,
        "empty": b"",
        "bomb": png_header(30000, 30000),
        "damaged": png_header(64, 64),
    }
    paths = {name: folder / f"{name}.jpg" for name in (*contents, "missing")}
    for name, content in contents.items():
        paths[name].write_bytes(content)
    return paths


def write_cifar(root: Path, per_batch: int = 6) -> np.ndarray:
    """CIFAR-10 in the official layout with random pixels; returns those of train."""
    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    kept = []
    for name in [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]:
        data = rng.integers(0, 256, (per_batch, 3072), dtype=np.uint8)
        batch = {"data": data, "labels": rng.integers(0, 10, per_batch).tolist()}
        (folder / name).write_bytes(pickle.dumps(batch))
        kept.append(data)
    meta = {"label_names": [f"class{i}" for i in range(10)]}
    (folder / "batches.meta").write_bytes(pickle.dumps(meta))
    return np.concatenate(kept[:5]).reshape(-1, 3, 32, 32)


def natural(seed: int, size: tuple[int, int] = (160, 120)) -> np.ndarray:
    """Smooth fields, edges, flat and saturated parts, some noise: H x W x 3, uint8."""
    rng = np.random.default_rng(seed)
    img = np.asarray(picture(seed, size)).astype(float)
    height, width = img.shape[:2]
    rows, columns = np.indices((height, width))
    for _ in range(6):
        y, x, angle = rng.uniform(0, height), rng.uniform(0, width), rng.uniform(0, 6.3)
        side = (rows - y) * np.cos(angle) + (columns - x) * np.sin(angle)
        inside = (side > 0) & (side < rng.uniform(4, 30))
        colour = rng.choice([0, 20, 128, 235, 255], 3)  # often saturated
        img[inside] = colour if rng.random() < 0.6 else 0.5 * img[inside] + colour / 2
    img[rows < height // 3] += rng.normal(0, 6, (height, width, 3))[rows < height // 3]
    return np.clip(img, 0, 255).astype(np.uint8)
