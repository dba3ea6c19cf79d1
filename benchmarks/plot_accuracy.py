"""Accuracy over epochs and over time, `results/accuracy_time.png`, from its CSV.

python benchmarks/plot_accuracy.py
"""

from pathlib import Path

import common
import matplotlib
import matplotlib.pyplot as plt
from plot import GRID, INK, OTHER, OURS, STYLE, THIRD, Rows, read, save

NAME = "accuracy_time_cpu"
ARMS = {  # name, colour, line
    "ours": ("mmssl_ext", OURS, "-"),
    "mmpretrain": ("mmpretrain", OTHER, "-"),
    "lightly": ("lightly", THIRD, "-"),
    "ours_symmetric": ("mmssl_ext, both directions", OURS, "--"),
    "solo": ("solo-learn, both directions", INK, "--"),
}


def draw(rows: Rows, path: Path) -> None:
    """Draw accuracy_time.png; nothing without rows."""
    if not rows:
        return
    figure, axes = plt.subplots(
        1, 2, figsize=(9, 3.6), sharey=True, layout="constrained"
    )
    for arm, (label, colour, line) in ARMS.items():
        seeds = sorted({row["seed"] for row in rows if row["arm"] == arm})
        for seed in seeds:
            run = [row for row in rows if (row["arm"], row["seed"]) == (arm, seed)]
            y = [float(row["knn_top1"]) for row in run]
            look = dict(color=colour, ls=line, marker="o", ms=3.5, lw=1.4)
            name = label if seed == seeds[0] else None
            axes[0].plot([int(row["epoch"]) for row in run], y, **look)
            minutes = [float(row["cpu_s"]) / 60 for row in run]
            axes[1].plot(minutes, y, label=name, **look)
    axes[0].set_xlabel("epoch")
    axes[0].set_ylabel("kNN top-1, %")
    axes[0].set_title("Per epoch", pad=6)
    axes[1].set_xlabel("minutes of one processor")
    axes[1].set_title("Per time", pad=6)
    axes[1].legend(loc="lower right", frameon=False, fontsize=8)
    for ax in axes:
        ax.grid(color=GRID)
    save(figure, path, dpi=130)


def main() -> None:
    """Draw."""
    matplotlib.use("Agg")
    with plt.rc_context(STYLE):
        draw(read(NAME), common.RESULTS / "accuracy_time.png")


if __name__ == "__main__":
    main()
