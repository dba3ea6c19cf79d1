"""The picture of README and of the home page: what `make demo-full` shows, in one look.

Accuracy of the neighbours over the epochs, from `results/demo_knn_cpu.csv`; maps of the
backbone as colours, untrained and pretrained; boxes of a detector that began with
random and with pretrained weights, on the first images of the validation set. Run:

    python benchmarks/collect.py work_dirs/demo demo_chain_cpu
    python benchmarks/collect.py work_dirs/demo/pretrain demo_knn_cpu
    python benchmarks/demo_picture.py work_dirs/demo data/demo
"""

import argparse
import copy
from collections.abc import Sequence
from pathlib import Path

import common
import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from PIL import Image
from plot import GRID, MUTED, OTHER, OURS, STYLE, read
from torch import nn

from mmssl_ext import load_backbone
from mmssl_ext.visualization.pictures.pca import principal_components, to_colors
from mmssl_ext.visualization.predictions import read_panels

FIGURE = common.REPOSITORY / "docs/_static/demo.png"
NAME, TRANSFER, SOURCE = "demo_knn_cpu", "coco", "ascl"
CLASSES = ("striped_disk", "latticed_arrow", "dotted_star", "wavy_heart")
SIZE = 192  # pixels of a scene that the backbone sees
SCENES = 3  # of the detector


def maps(backbone: nn.Module, images: torch.Tensor) -> np.ndarray:
    """Colours of the cells of N images, N x H x W x 3."""
    with torch.no_grad():
        cells = backbone(images)[-1].permute(0, 2, 3, 1).double().numpy()
    scores, _ = principal_components(cells.reshape(-1, cells.shape[-1]))
    return to_colors(scores).reshape(*cells.shape[:3], 3)


def untrained(backbone: nn.Module, seed: int = 0) -> nn.Module:
    """The same network with new weights."""
    torch.manual_seed(seed)
    other = copy.deepcopy(backbone)
    for module in other.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
            module.reset_parameters()
    return other


def show(ax: Axes, picture: Image.Image | np.ndarray, label: str = "") -> None:
    """Show a picture without axes, with a label on its left."""
    ax.imshow(picture, interpolation="nearest")
    ax.set_xticks([])
    ax.set_yticks([])
    for spine in ax.spines.values():
        spine.set_visible(False)
    if label:
        ax.set_ylabel(label, rotation=0, ha="right", va="center", color=MUTED, size=8)


def draw_curve(ax: Axes) -> None:
    """Accuracy over the epochs."""
    rows = read(NAME)
    x = [int(row["epoch"]) for row in rows]
    y = [float(row["backbone_top1"]) for row in rows]
    ax.plot(x, y, "o-", color=OURS, clip_on=False)
    ax.axhline(y[0], color=OTHER, lw=1, ls="--")
    start, end = f"untrained, {y[0]:.0f} %", f"{y[-1]:.0f} %"
    ax.annotate(start, (x[-1], y[0] - 2), color=OTHER, size=8, ha="right", va="top")
    ax.annotate(end, (x[-1], y[-1] - 4), color=OURS, ha="right", va="top")
    ax.set_ylim(0, 100)
    ax.set_xticks(x)
    ax.grid(color=GRID)
    ax.set_xlabel("epoch of pretraining, no labels")
    ax.set_ylabel("neighbours of the right class, %")
    ax.set_title("Features", pad=6)


def draw(work_dir: Path, scenes: Path, path: Path) -> None:
    """Draw the picture."""
    files = [sorted((scenes / name).glob("*.jpg"))[0] for name in CLASSES]
    backbone = load_backbone(work_dir / "pretrain").eval()
    backbone.preprocess.size = SIZE
    batch = torch.stack([backbone.preprocess(file) for file in files])
    rows = {
        "scene": [Image.open(file) for file in files],
        "untrained": maps(untrained(backbone), batch),
        "pretrained": maps(backbone, batch),
    }
    names = (f"{TRANSFER}-{source}-seed0/predictions" for source in ("random", SOURCE))
    before, after = (
        [*read_panels(work_dir / name, legends=False).values()][:SCENES]
        for name in names
    )
    boxes = {
        "labels": [one[0] for one in before],
        "from random": [one[-1] for one in before],
        "from pretrained": [one[-1] for one in after],
    }
    figure = plt.figure(figsize=(11, 3.3), layout="constrained")
    left, middle, right = figure.subfigures(1, 3, width_ratios=(3, 4.6, 3.9))
    draw_curve(left.subplots())
    for part, title, pictures in (
        (middle, "What the cells of its map hold, as colours", rows),
        (right, "A detector, 600 steps later", boxes),
    ):
        grid = part.subplots(3, len(next(iter(pictures.values()))), squeeze=False)
        for axes, (label, line) in zip(grid, pictures.items(), strict=True):
            for i, (ax, picture) in enumerate(zip(axes, line, strict=True)):
                show(ax, picture, "" if i else label)
        part.suptitle(title, size=10, weight="bold")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    print(f"Wrote {path}")


def main(args: Sequence[str] | None = None) -> None:
    """Draw."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("work_dir", type=Path, help="of make demo-full")
    parser.add_argument("scenes", type=Path, help="folder of the demo scenes")
    parser.add_argument("--out", type=Path, default=FIGURE)
    chosen = parser.parse_args(args)
    matplotlib.use("Agg")
    with plt.rc_context(STYLE):
        draw(chosen.work_dir, chosen.scenes / "imagenet/test", chosen.out)


if __name__ == "__main__":
    main()
