"""What the cells of a backbone's map tell: their place, their image, their class.

Of the pretrainings that `methods.py` has finished, and of new weights: how much of the
variance of the cells, at unit length, follows from the place alone, from the image
alone and from neither; and the mIoU of a linear map, by ridge regression, from a cell
to the class in its middle. Training and validation scenes are those of the
segmentation, at their size. A picture shows the cells as colours. Run:

    python benchmarks/cell_contents.py work_dirs/methods data/demo
"""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

import common
import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import torch
from cells_trainings import METHODS
from collect import PRETRAIN, settings
from demo_picture import maps, show, untrained
from PIL import Image
from plot import STYLE, save
from recipe import UNTRAINED
from torch import Tensor, nn
from torch.nn.functional import normalize, one_hot

from mmssl_ext import load_backbone
from mmssl_ext.engine.monitor.result import RESULT_FILE
from mmssl_ext.evaluation.health import embedding_health

NAME = "cell_contents_cpu"
SOURCES = (
    *("random", "mocov2", "mocov2_112", "lcloss_mocov2"),
    *("byol", "byol_112", "pixpro"),
)
TRAIN, TEST, CLASSES, IGNORED = 1000, 400, 9, 255
RIDGE = 1e-2  # of the mean diagonal entry
SHOWN = 5


def shares(cells: Tensor) -> tuple[float, float, float]:
    """Of the variance of N x P x D cells: by place, by image, by neither; sum 1.

    Those of a two-way analysis of variance without repetitions.
    """
    cells = cells.double()
    centred = cells - cells.mean((0, 1))
    total = centred.square().sum(2).mean()
    place = centred.mean(0).square().sum(1).mean() / total
    image = centred.mean(1).square().sum(1).mean() / total
    return float(place), float(image), float(1 - place - image)


def linear_miou(
    train: tuple[Tensor, Tensor], test: tuple[Tensor, Tensor], classes: int = CLASSES
) -> float:
    """Percent, mean over the classes that occur, of cells M x D with labels M."""
    (x, y), (x_test, y_test) = (
        (cells.double()[labels != IGNORED], labels[labels != IGNORED])
        for cells, labels in (train, test)
    )
    mean, std = x.mean(0), x.std(0).clamp(min=1e-12)
    x, x_test = ((part - mean) / std for part in (x, x_test))
    target = one_hot(y, classes).double()
    gram = x.T @ x
    gram.diagonal().add_(RIDGE * gram.diagonal().mean())
    weight = torch.linalg.solve(gram, x.T @ (target - target.mean(0)))
    found = (x_test @ weight + target.mean(0)).argmax(1)
    ious = []
    for label in range(classes):
        union = ((found == label) | (y_test == label)).sum()
        if (y_test == label).any():
            ious.append(((found == label) & (y_test == label)).sum() / union)
    return 100 * float(torch.stack(ious).mean())


class Scenes:
    """Scenes of the Cityscapes layout with their classes."""

    def __init__(self, root: Path, split: str, count: int) -> None:
        self.files = sorted((root / "leftImg8bit" / split).glob("*/*.png"))[:count]
        truth = root / "gtFine" / split
        self.truths = [
            truth
            / file.parent.name
            / file.name.replace("leftImg8bit", "gtFine_demoIds")
            for file in self.files
        ]

    def images(self, backbone: nn.Module) -> Tensor:
        """N x 3 x H x W, at their size."""
        backbone.preprocess.size = Image.open(self.files[0]).height
        return torch.stack([backbone.preprocess(file) for file in self.files])

    def labels(self, rows: int) -> Tensor:
        """Class in the middle of each cell, N x (rows * rows)."""
        found = torch.from_numpy(
            np.stack([np.asarray(Image.open(file)) for file in self.truths])
        ).long()
        middles = ((torch.arange(rows) + 0.5) * found.shape[1] / rows).long()
        return found[:, middles][:, :, middles].flatten(1)


def cells_of(backbone: nn.Module, images: Tensor) -> Tensor:
    """Of the last stage, N x h x w x D."""
    with torch.no_grad():
        parts = [backbone(part)[-1] for part in images.split(50)]
    return torch.cat(parts).permute(0, 2, 3, 1)


def backbones(out: Path, scenes: Scenes) -> dict[tuple[str, int], nn.Module]:
    """Of the runs of SOURCES that have ended, by method and seed; new ones beside."""
    found = {}
    for method in SOURCES[1:]:
        for folder in sorted(out.glob(f"{method}-seed*/pretrain")):
            seed = int(folder.parent.name.rpartition("-seed")[2])
            if (folder / RESULT_FILE).is_file():  # it has ended
                found[method, seed] = load_backbone(folder).eval()
    some = next(iter(found.values()))
    images = scenes.images(some)
    seeds = sorted({seed for _, seed in found})
    news = {("random", seed): adapted(untrained(some, seed), images) for seed in seeds}
    return news | found


def adapted(backbone: nn.Module, images: Tensor) -> nn.Module:
    """With the statistics of these images in its BatchNorm, as after a training."""
    norms = [m for m in backbone.modules() if isinstance(m, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = None  # the mean over all batches
        norm.training = True
    cells_of(backbone, images)
    return backbone.eval()


def recipe_of(out: Path, method: str, seed: int) -> str:
    """Of a pretraining."""
    if method == "random":
        return UNTRAINED
    return settings(out / f"{method}-seed{seed}", PRETRAIN)


def measure(
    found: dict[tuple[str, int], nn.Module], train: Scenes, test: Scenes
) -> list[dict]:
    """A row for each backbone."""
    rows = []
    for (method, seed), backbone in found.items():
        sets = []
        for scenes in (train, test):
            cells = cells_of(backbone, scenes.images(backbone))
            sets.append((cells.flatten(0, 2), scenes.labels(cells.shape[1]).flatten()))
        size = cells.shape[1]
        place, image, rest = shares(normalize(cells.flatten(1, 2), dim=2))
        rank = float(embedding_health(normalize(sets[1][0][::9]))["effective_rank"])
        rows.append(
            {
                **{"method": method, "seed": seed, "cells": f"{size} x {size}"},
                **{"place": round(100 * place, 1), "image": round(100 * image, 1)},
                **{"neither": round(100 * rest, 1)},
                "linear_miou": round(linear_miou(*sets), 1),
                "effective_rank": round(rank, 1),
            }
        )
    return rows


def draw(found: dict[tuple[str, int], nn.Module], scenes: Scenes, path: Path) -> None:
    """The scenes, and their cells as colours, a row for each method."""
    rows = {"scene": [np.asarray(Image.open(f)) for f in scenes.files]}
    for method in SOURCES:
        seeds = [seed for name, seed in found if name == method]
        if seeds:
            backbone = found[method, min(seeds)]
            rows[METHODS[method]] = maps(backbone, scenes.images(backbone))
    figure, axes = plt.subplots(
        *(len(rows), SHOWN),
        figsize=(1.1 * SHOWN + 1.5, 1.1 * len(rows)),
        layout="constrained",
    )
    for line, (label, pictures) in zip(axes, rows.items(), strict=True):
        for i, (ax, picture) in enumerate(zip(line, pictures, strict=True)):
            show(ax, picture, "" if i else label)
    save(figure, path, dpi=130)


def main(args: Sequence[str] | None = None) -> int:
    """Measure what has been trained."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path, help="of methods.py")
    parser.add_argument("scenes", type=Path, help="folder of the demo scenes")
    chosen = parser.parse_args(args)
    torch.set_num_threads(1)
    # A recipe leaves out where the scenes lie, if it is told.
    os.environ.setdefault("DEMO_ROOT", str(chosen.scenes))
    root = chosen.scenes / "cityscapes"
    train, test = Scenes(root, "train", TRAIN), Scenes(root, "val", TEST)
    found = backbones(chosen.out, train)
    rows = measure(found, train, test)
    for row in rows:
        row["recipe"] = recipe_of(chosen.out, row["method"], row["seed"])
    common.write_rows(NAME, rows)
    matplotlib.use("Agg")
    with plt.rc_context(STYLE):
        draw(found, Scenes(root, "val", SHOWN), common.RESULTS / "cell_contents.png")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
