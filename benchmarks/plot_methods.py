"""All methods on the demo scenes in one figure: `results/methods.png`, from the CSV.

A dot per seed, the methods by their mean, a line at the mean of random weights. Run:

    python benchmarks/plot_methods.py
"""

import hashlib
import json
from pathlib import Path
from statistics import fmean

import common
import matplotlib
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from plot import GRID, INK, MUTED, OTHER, OURS, STYLE, read
from tables import METHODS

NAME = "demo_methods_seeds_cpu"
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


def digest(found: dict) -> str:
    """Of all that the figure shows; stands in the file, by which a test compares."""
    return hashlib.sha256(json.dumps(found, sort_keys=True).encode()).hexdigest()


def draw(path: Path) -> None:
    """Draw methods.png; nothing where no method has been measured."""
    found = scores()
    order = sorted(found["knn"], key=lambda name: fmean(found["knn"][name].values()))
    if not order:
        return
    size = (9, 1.4 + 0.27 * len(order))
    figure, axes = plt.subplots(
        1, len(PANELS), figsize=size, sharey=True, layout="constrained"
    )
    for ax, (transfer, title) in zip(axes, PANELS.items(), strict=True):
        _draw_panel(ax, [found[transfer][name] for name in order])
        ax.set_title(title, pad=6)
        ax.set_xlabel("held-out scenes, percent right")
    axes[0].set_yticks(range(len(order)), [METHODS[name] for name in order])
    random = order.index("random") if "random" in order else None
    for height, label in enumerate(axes[0].get_yticklabels()):
        label.set_color(MUTED if height == random else INK)
    if random is not None:
        for ax, transfer in zip(axes, PANELS, strict=True):
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
    handles, labels = axes[-1].get_legend_handles_labels()
    if len(labels) > 1:
        axes[-1].legend(handles, labels, loc="lower right", frameon=False, fontsize=8)
    figure.savefig(path, dpi=150, metadata={KEY: digest(found)})
    plt.close(figure)
    print(f"Wrote {path}")


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


def main() -> None:
    """Draw."""
    matplotlib.use("Agg")
    with plt.rc_context(STYLE):
        draw(common.RESULTS / "methods.png")


if __name__ == "__main__":
    main()
