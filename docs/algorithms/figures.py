"""Draw the figures of MoCo, CO2 and SimSiam beside their READMEs.

    python tools/train.py configs/mocov2/mocov2_r18_demo.py
    python docs/algorithms/figures.py mocov2 --runs work_dirs
    python benchmarks/methods.py
    python docs/algorithms/figures.py co2 --runs work_dirs/methods
    python docs/algorithms/figures.py simsiam-log simsiam   # trains twice, minutes

Those of the other methods are `tools/visualize.py`'s.
"""

import argparse
import csv
import json
import os
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure, SubFigure
from mmengine.hooks import Hook
from mmengine.registry import init_default_scope
from PIL import Image
from torch import Tensor

from mmssl_ext.datasets import ImageFolder
from mmssl_ext.engine.weights.strict import load_strictly
from mmssl_ext.evaluation import embedding_health
from mmssl_ext.imports import quietly
from mmssl_ext.models.schedules import schedule
from mmssl_ext.models.targets import OwnTarget
from mmssl_ext.registry import MODELS
from mmssl_ext.run.launch import build_runner, load_config, prepare
from mmssl_ext.visualization.curves import BLUE, FAINT, INK, ORANGE
from mmssl_ext.visualization.pictures.images import to_images

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = ROOT / "configs"
DEMO = Path(os.environ.get("DEMO_ROOT", "data/demo")) / "imagenet"
BATCH = 64
VIEWS = ("query view", "key view")
STRIDES = {"strides": (1, 2, 2, 1)}  # those of the chain


class Seen:
    """What a model with a queue makes of the demo scenes, in training mode.

    Attributes:
        query, key: Unit rows of 256 test scenes, 256 x D.
        queue: Keys of 1,024 training scenes, K x D.
        views: Query and key view of the test scenes, 256 x H x W x 3 each.
        others: Key views of the training scenes, K x H x W x 3.
    """

    def __init__(self, name: str, checkpoint: Path | None) -> None:
        cfg = load_config(CONFIGS / name, dict(STRIDES))
        init_default_scope("mmssl_ext")
        torch.manual_seed(0)
        model = MODELS.build(cfg.model)
        if checkpoint is None:
            with quietly():
                model.init_weights()
        else:
            load_strictly(model, checkpoint)
        # Look, and leave it as it is.
        model.target.momentum = schedule(1.0, "momentum")
        self.pipeline = cfg.train_dataloader.dataset.pipeline
        self.model = model.train()
        length = len(model.negatives)
        others = [self._look(batch)[1] for batch in self._batches("train", length)]
        self.queue = model.negatives.clone()
        self.others = np.concatenate(others)[: length // BATCH * BATCH]
        found = []
        for batch in self._batches("test", 256):
            views = self._look(batch)
            embeddings = model.last_embeddings
            found.append((embeddings["query"], embeddings["key"], *views))
        queries, keys, first, second = zip(*found, strict=True)
        self.query, self.key = torch.cat(queries), torch.cat(keys)
        self.views = np.concatenate(first), np.concatenate(second)

    def _batches(self, split: str, count: int) -> list[list[Tensor]]:
        dataset = ImageFolder(str(DEMO / split), self.pipeline)
        dataset.set_augmentation_seed(0, 0)
        # Classes in turn, as the scenes were drawn.
        order = np.random.default_rng(0).permutation(len(dataset))
        items = (dataset[int(i)]["inputs"] for i in islice(order, count))
        batches = []
        while chunk := list(islice(items, BATCH)):
            batches.append([torch.stack(view) for view in zip(*chunk, strict=True)])
        return batches

    @torch.no_grad()
    def _look(self, batch: list[Tensor]) -> tuple[np.ndarray, np.ndarray]:
        prepared = self.model.data_preprocessor({"inputs": batch})["inputs"]
        self.model(prepared, mode="loss")
        preprocessor = self.model.data_preprocessor
        first, second = (
            to_images(view, preprocessor.mean, preprocessor.std) for view in prepared
        )
        return first, second


def profiles(seen: Seen, temperature: float) -> tuple[Tensor, Tensor]:
    """How queries (Q) and keys (P) see the queue, 256 x K each."""
    return tuple(
        (rows @ seen.queue.T / temperature).softmax(1)
        for rows in (seen.query, seen.key)
    )


def divergence(q: Tensor, p: Tensor) -> Tensor:
    """Symmetric KL of rows, in nats."""
    return ((p - q) * (p.log() - q.log())).sum(1) / 2


def save(pixels: np.ndarray, path: Path) -> None:
    """Write a PNG of few colours, which is small."""
    image = Image.fromarray(pixels).quantize(256, dither=Image.Dither.NONE)
    image.save(path, optimize=True)
    print(f"{path.relative_to(ROOT)}: {path.stat().st_size / 1000:.0f} kB")


def plots(count: int, height: float = 3.3) -> tuple[Figure, list]:
    """A figure of 1,350 pixels width with axes side by side."""
    figure = Figure(figsize=(9, height), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = list(figure.subplots(1, count))
    for ax in axes:
        ax.spines[["top", "right"]].set_visible(False)
        ax.tick_params(labelsize=10, colors=INK)
    return figure, axes


def pixels_of(figure: Figure) -> np.ndarray:
    """Render a figure as H x W x 3."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3]


def title(ax, text: str) -> None:
    """A title on the left, like those of the report."""
    ax.set_title(text, loc="left", fontsize=12, fontweight="bold", color=INK)


def mocov2(runs: Path) -> None:
    """Loss of a run, and cosines before and after it."""
    run = runs / "mocov2_r18_demo"
    (log,) = run.glob("*/vis_data/scalars.json")
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    points = [(row["step"], row["loss"]) for row in rows if "loss" in row]
    with (CONFIGS / "mocov2" / "mocov2.csv").open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["config", "seed", "step", "loss_instance"])
        for step, loss in points:
            writer.writerow(["mocov2_r18_demo.py", 0, step, f"{loss:.4f}"])
    figure, (left, right) = plots(2)
    x, y = zip(*points, strict=True)
    left.plot(x, y, color=BLUE, lw=2)
    chance, full = np.log(1025), 1024 / BATCH
    left.axhline(chance, color=FAINT, ls="--", lw=1)
    left.text(x[-1], chance - 0.1, "ln(K + 1): cannot tell the key from the queue",
              fontsize=10, color=FAINT, ha="right", va="top")  # fmt: skip
    left.axvline(full, color=FAINT, ls=":", lw=1.2)
    left.text(full + 15, 0.2, "queue full of real keys", fontsize=10, color=FAINT)
    left.set_ylim(0, chance * 1.08)
    left.set_xlabel("step", fontsize=11)
    left.set_ylabel("loss (nats)", fontsize=11)
    title(left, "Training loss")
    bins = np.linspace(-0.8, 1, 61)
    name = "mocov2/mocov2_r18_demo.py"
    for checkpoint, style in ((None, ":"), (run / "epoch_30.pth", "-")):
        seen = Seen(name, checkpoint)
        when = "before" if checkpoint is None else "after"
        pairs = (seen.query * seen.key).sum(1)
        negatives = (seen.query @ seen.queue.T).flatten()
        print(when, f"positives {pairs.mean():.3f}, queue {negatives.mean():.3f}")
        for cosines, color, what in (
            (pairs, BLUE, "its key"),
            (negatives, ORANGE, "the queue"),
        ):
            share = np.histogram(cosines.clamp(-0.8, 1), bins)[0] / len(cosines)
            right.stairs(100 * share, bins, color=color, ls=style, lw=2,
                         label=f"{what}, {when}")  # fmt: skip
    right.set_xlabel("cosine of a query and ...", fontsize=11)
    right.set_ylabel("share (%)", fontsize=11)
    right.legend(fontsize=10, frameon=False, loc="upper left")
    title(right, "Similarities")
    save(pixels_of(figure), CONFIGS / "mocov2" / "mocov2.png")


def co2(runs: Path) -> None:
    """Profiles of one query and its key over the queue, without and with the term."""
    figure = Figure(figsize=(9, 6), dpi=150)
    figure.set_layout_engine("constrained", rect=(0.015, 0.01, 0.97, 0.98))
    FigureCanvasAgg(figure)
    figure.suptitle("How a query and its key see the queue", x=0.01, ha="left",
                    fontsize=12, fontweight="bold", color=INK)  # fmt: skip
    text = (
        "Share of the softmax (tau_con = 0.05) over 1,024 other scenes that goes to "
        "each of the ten most similar to the key."
    )
    figure.supxlabel(text, x=0.01, ha="left", fontsize=9, color=FAINT)
    parts = figure.subfigures(2)
    names = {"mocov2": "MoCo v2, without the term", "co2": "CO2, with the term"}
    for part, (method, name) in zip(parts, names.items(), strict=True):
        checkpoint = runs / f"{method}-seed0" / "pretrain" / "epoch_10.pth"
        seen = Seen(f"{method}/{method}_r18_demo.py", checkpoint)
        draw_profiles(part, seen, *profiles(seen, 0.05), name)
    save(pixels_of(figure), CONFIGS / "co2" / "co2.png")


def draw_profiles(part: SubFigure, seen: Seen, q: Tensor, p: Tensor, name: str) -> None:
    """The two views of a scene, and pairs of bars above the scenes they stand for."""
    own = divergence(q, p)
    text = f"divergence of this scene {own[0]:.2f} nats; of 256 scenes {own.mean():.2f}"
    part.suptitle(f"{name}: {text}", x=0.01, ha="left", fontsize=10, color=INK)
    top = p[0].argsort(descending=True)[:10]
    if 100 * max(q[0, top].max(), p[0, top].max()) > 1.05:
        raise ValueError("Raise the limit of both rows, so that they compare.")
    rows = [[VIEWS[0], *["bars"] * 10], [VIEWS[1], *map(str, range(10))]]
    axes = part.subplot_mosaic(rows, height_ratios=[1.3, 1])
    images = {label: views[0] for label, views in zip(VIEWS, seen.views, strict=True)}
    images |= {str(i): seen.others[j] for i, j in enumerate(top)}
    for label, image in images.items():
        axes[label].imshow(image)
        axes[label].set(xticks=[], yticks=[])
        axes[label].spines[:].set_visible(False)
    bars = axes["bars"]
    for shift, profile, label, color in zip(
        (0.7, 0.3), (q, p), VIEWS, (ORANGE, BLUE), strict=True
    ):
        bars.bar(np.arange(10) + shift, 100 * profile[0, top], 0.36, color=color)
        for spine in axes[label].spines.values():
            spine.set(visible=True, color=color, lw=2)
        axes[label].set_xlabel(label, color=color, fontsize=9)
    bars.set(xlim=(0, 10), ylim=(0, 1.05), xticks=[], yticks=[0, 0.5, 1])
    bars.yaxis.set_major_formatter("{x:.1f} %")
    bars.tick_params(labelsize=8, labelcolor=FAINT, length=0)
    bars.grid(axis="y", color=FAINT, alpha=0.3)
    bars.set_axisbelow(True)
    bars.spines[:].set_visible(False)


def simsiam_log() -> None:
    """Train with and without the stopped gradient; keep loss, spread and rank."""
    rows: list[list] = []

    class Recorder(Hook):
        """The figures of every fourth step."""

        def __init__(self, variant: str) -> None:
            self.variant = variant

        def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
            if runner.iter % 4 == 0:
                health = embedding_health(runner.model.last_embeddings["query"])
                figures = float(outputs["loss"]), *map(float, health.values())
                rows.append([self.variant, runner.iter + 1, *figures[:3]])

    for variant in ("stopped", "flowing"):
        options = {
            "max_epochs": 6,
            "default_hooks.knn": None,
            "default_hooks.report": None,
        }
        cfg = load_config(CONFIGS / "simsiam" / "simsiam_r18_demo.py", options)
        prepared = prepare(cfg, work_dir=f"work_dirs/simsiam-{variant}")
        cfg.experiment_name = f"simsiam-{variant}"
        runner = build_runner(prepared)
        runner.register_hook(Recorder(variant))
        if variant == "flowing":
            runner.model.target = OwnTarget()
        runner.train()
    with (CONFIGS / "simsiam" / "simsiam.csv").open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["gradient", "step", "loss", "std_ratio", "effective_rank"])
        for *names, loss, std, rank in rows:
            writer.writerow([*names, f"{loss:.4f}", f"{std:.4f}", f"{rank:.3f}"])


def simsiam(runs: Path) -> None:
    """Loss and rank of the embeddings with and without the stopped gradient."""
    with (CONFIGS / "simsiam" / "simsiam.csv").open() as file:
        rows = list(csv.DictReader(file))
    figure, (left, right) = plots(2)
    for variant, color, style, label in (
        ("stopped", BLUE, "-", "gradient stopped (SimSiam)"),
        ("flowing", ORANGE, "--", "gradient through both sides"),
    ):
        mine = [row for row in rows if row["gradient"] == variant]
        steps = [int(row["step"]) for row in mine]
        for ax, name in ((left, "loss"), (right, "effective_rank")):
            ax.plot(steps, [float(row[name]) for row in mine], color=color, ls=style,
                    lw=2, label=label)  # fmt: skip
    left.set_ylabel("loss (-1 is its minimum)", fontsize=11)
    left.legend(fontsize=10, frameon=False)
    right.set_ylabel("effective rank (of at most 64)", fontsize=11)
    right.set_ylim(0)
    for ax in (left, right):
        ax.set_xlabel("step", fontsize=11)
    title(left, "Training loss")
    title(right, "Directions that the embeddings span")
    save(pixels_of(figure), CONFIGS / "simsiam" / "simsiam.png")


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument(
        "names", nargs="+", choices=["mocov2", "co2", "simsiam", "simsiam-log"]
    )
    parser.add_argument("--runs", type=Path, default=Path("work_dirs"))
    args = parser.parse_args()
    for name in args.names:
        if name == "simsiam-log":
            simsiam_log()
        else:
            globals()[name](args.runs)


if __name__ == "__main__":
    main()
