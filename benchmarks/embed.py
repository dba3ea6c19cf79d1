"""Features of a folder: throughput against what the work itself takes, and memory.

``parts`` is the work without anything around it: each file (a drawn photograph, JPEG of
640 x 480 pixels) is decoded, resized and cut, one after the other, then the batches go
through the network. ``alone`` is ``mmssl_ext.embed`` in this process, from the call to
the result, ``whole`` the same as a user gets it, with its own number of workers. They
take turns; ``share`` is the time of the parts over that of the whole: 0.9 or more is
wanted, and workers on processors of their own make it more than 1.

Peak memory is that of one call in a fresh process, less the features, for 1,000 and
10,000 images: it should not grow. The files are links to a few hundred drawn ones. Run:

    python benchmarks/embed.py [--images 512] [--memory 1000 10000]
"""

import argparse
import logging
import multiprocessing as mp
import os
import tempfile
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import common
import numpy as np
import torch
from mmengine.logging import MMLogger
from mmpretrain.models import ResNet
from PIL import Image

import mmssl_ext
from mmssl_ext.fit import pooled

BATCH = 32
BLOCKS = 5
DRAWN = 200  # files that differ


def draw(folder: Path, images: int) -> Path:
    """A folder of so many JPEG files of 640 x 480 pixels."""
    rng = np.random.default_rng(0)
    source = folder / "drawn"
    if not source.exists():
        source.mkdir()
        for i in range(DRAWN):
            grid = rng.integers(0, 256, (48, 64, 3), dtype=np.uint8)
            image = Image.fromarray(grid).resize((640, 480), Image.Resampling.BICUBIC)
            image.save(source / f"{i}.jpg", quality=90)
    target = folder / f"images{images}"
    target.mkdir()
    for i in range(images):
        os.link(source / f"{i % DRAWN}.jpg", target / f"{i:06}.jpg")
    return target


def save_weights(folder: Path, depth: int) -> Path:
    """A file of an untrained ResNet."""
    path = folder / f"r{depth}.pth"
    torch.manual_seed(0)
    torch.save(ResNet(depth).state_dict(), path)
    return path


def parts(weights: Path, photos: Path) -> np.ndarray:
    """The features, by nothing but the work."""
    backbone = mmssl_ext.load_backbone(weights)
    preprocess, rows = backbone.preprocess, []
    files = sorted(photos.iterdir())
    with torch.inference_mode():
        for start in range(0, len(files), BATCH):
            batch = files[start : start + BATCH]
            pixels = [preprocess.pixels({"img_path": str(path)}) for path in batch]
            images = preprocess.normalise(torch.stack(pixels))
            rows.append(pooled(backbone(images)))
    return torch.cat(rows).numpy()


def whole(weights: Path, photos: Path, workers: int | None = None) -> np.ndarray:
    """The features, as a user gets them."""
    options = {"batch_size": BATCH, "workers": workers, "device": "cpu"}
    return mmssl_ext.embed(weights, photos, **options).features


def fresh_peak(weights: Path, photos: Path) -> int:
    """Peak extra bytes of one call in a fresh process, without the features."""
    with ProcessPoolExecutor(1, mp.get_context("spawn")) as pool:
        return pool.submit(_peak, weights, photos).result()


def _peak(weights: Path, photos: Path) -> int:
    MMLogger.get_current_instance().setLevel(logging.ERROR)
    torch.set_num_threads(1)
    found: list[np.ndarray] = []
    peak = common.peak_memory(lambda: found.append(whole(weights, photos, 0)))
    return peak - found[0].nbytes


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=512)
    parser.add_argument("--depth", type=int, default=18)
    parser.add_argument("--memory", type=int, nargs="*", default=[1000, 10_000])
    args = parser.parse_args()
    MMLogger.get_current_instance().setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        weights, photos = save_weights(folder, args.depth), draw(folder, args.images)
        np.testing.assert_allclose(whole(weights, photos), parts(weights, photos), 1e-4)
        arms = {
            "parts": lambda: parts(weights, photos),
            "alone": lambda: whole(weights, photos, 0),
            "whole": lambda: whole(weights, photos),
        }
        seconds = common.time_arms(arms, BLOCKS, 1, warmups=0)
        peaks = {n: fresh_peak(weights, draw(folder, n + 1)) for n in args.memory}
    row = {
        "backbone": f"ResNet-{args.depth}",
        "images": args.images,
        "threads": torch.get_num_threads(),
    }
    for arm in ("alone", "whole"):
        share, low, high = common.ratio(seconds["parts"], seconds[arm])
        row |= {
            f"{arm}_share": round(share, 3),
            f"{arm}_share_low": round(low, 3),
            f"{arm}_share_high": round(high, 3),
        }
    row |= {f"{x}_img_per_s": round(args.images / min(seconds[x]), 1) for x in arms}
    row |= {f"peak_mb_{n}": round(peak / 1e6, 1) for n, peak in peaks.items()}
    common.write_rows("embed_cpu", [row])


if __name__ == "__main__":
    main()
