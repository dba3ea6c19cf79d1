"""All methods on the demo scenes in one figure: `results/methods.png`, from the CSV.

A dot per seed, the methods by their mean, a line at the mean of random weights, and
what a step costs. Run:

    python benchmarks/plot_methods.py
"""

import hashlib
import json
from pathlib import Path
from statistics import fmean

import common
import matplotlib
import matplotlib.pyplot as plt
from cells_trainings import METHODS
from matplotlib.axes import Axes
from plot import BAR, GRID, INK, MUTED, OTHER, OURS, STYLE, read, save

NAME, COST = "demo_methods_seeds_cpu", "demo_methods_cost_cpu"
PANELS = {"knn": "kNN of frozen features", "linear": "linear probe"}
MARKERS = "oDs^v"  # of the seeds
KEY = "Figures"  # in the file


def scores() -> dict[str, dict[str, dict[int, float]]]:
    """Percent by transfer, method and seed, of methods with all of PANELS."""
    found: dict[str, dict[str, dict[int, float]]] = {name: {} for name in PANELS}
    for row in read(NAME):
        if row["transfer"] in PANELS:
            seeds = found[row["transfer"]].setdefault(row["method"], {})
            seeds[int(row["seed"])] = float(row["value"])
    whole = set.intersection(*(set(methods) for methods in found.values()))
    return {
        name: {method: methods[method] for method in METHODS if method in whole}
        for name, methods in found.items()
    }


def costs() -> dict[str, float]:
    """A step of each method in steps of MoCo v2."""
    return {row["method"]: float(row["value"]) for row in read(COST)}


def digest() -> str:
    """Of all that the figure shows; stands in the file, by which a test compares."""
    shown = json.dumps([scores(), costs()], sort_keys=True)
    return hashlib.sha256(shown.encode()).hexdigest()


def draw(path: Path) -> None:
    """Draw methods.png; nothing where no method has been measured."""
    found = scores()
    if not found["knn"]:
        return
    order = sorted(found["knn"], key=lambda name: fmean(found["knn"][name].values()))
    figure, axes = plt.subplots(
        *(1, len(PANELS) + 1),
        figsize=(10.5, 1.4 + 0.25 * len(order)),
        sharey=True,
        layout="constrained",
        width_ratios=(*(3 for _ in PANELS), 2),
    )
    _draw_cost(axes[-1], order)
    for ax, (transfer, title) in zip(axes, PANELS.items(), strict=False):
        _draw_panel(ax, [found[transfer][name] for name in order])
        ax.set_title(title, pad=6)
        ax.set_xlabel("held-out scenes, percent right")
    axes[0].set_yticks(range(len(order)), [METHODS[name] for name in order])
    random = order.index("random") if "random" in order else None
    for height, label in enumerate(axes[0].get_yticklabels()):
        label.set_color(MUTED if height == random else INK)
    if random is not None:
        for ax, transfer in zip(axes, PANELS, strict=False):
            mean = fmean(found[transfer]["random"].values())
            ax.axvline(mean, color=OTHER, lw=1, ls="--", zorder=1)
            ax.annotate(
                " random weights",
                (mean, 1),
                xycoords=("data", "axes fraction"),
                color=OTHER,
                fontsize=8,
                va="top",
            )
    handles, labels = axes[0].get_legend_handles_labels()
    axes[0].legend(handles, labels, loc="lower right", frameon=False, fontsize=8)
    save(figure, path, dpi=130, metadata={KEY: digest()})


def _draw_panel(ax: Axes, values: list[dict[int, float]]) -> None:
    for height, seeds in enumerate(values):
        ends = min(seeds.values()), max(seeds.values())
        ax.hlines(height, *ends, color=OURS, alpha=0.5, lw=1.5, zorder=2)
    for seed in sorted({seed for seeds in values for seed in seeds}):
        points = [(found[seed], y) for y, found in enumerate(values) if seed in found]
        x, y = zip(*points, strict=True)
        marker = MARKERS[seed % len(MARKERS)]
        ax.plot(x, y, marker, color=OURS, ms=5, label=f"seed {seed}", zorder=3)
    ax.set_ylim(-0.7, len(values) - 0.3)
    ax.grid(color=GRID, zorder=0)


def _draw_cost(ax: Axes, order: list[str]) -> None:
    found = {name: value for name, value in costs().items() if name in order}
    for height, name in enumerate(order):
        if name in found:
            ax.barh(height, found[name], 0.55, color=BAR, zorder=2)
            ax.text(
                found[name] + 0.04, height, f"{found[name]:.2f}", va="center", size=8
            )
    ax.set_xlim(0, 1.15 * max(found.values(), default=1))
    ax.grid(color=GRID, axis="x", zorder=0)
    ax.set_title("time of a step", pad=6)
    ax.set_xlabel("MoCo v2's step = 1")


def main() -> None:
    """Draw."""
    matplotlib.use("Agg")
    with plt.rc_context(STYLE):
        draw(common.RESULTS / "methods.png")


if __name__ == "__main__":
    main()
