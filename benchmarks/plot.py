"""Two figures from the tables in benchmarks/results: ratios, and how costs grow.

    ratios.png    times by which a peer is slower, with 95 % intervals and our goals;
                  below it the cost of the methods' steps in steps of MoCo
    scaling.png   time and memory against size on logarithmic axes, with exponents

Tables that do not exist are left out. Run: python benchmarks/plot.py
"""

import csv
from pathlib import Path
from typing import Any

import common
import matplotlib
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

Rows = list[dict[str, str]]

INK, MUTED, GRID = "#1f2933", "#5f6b76", "#dfe3e8"
OURS, OTHER, THIRD = "#1f6fb4", "#c4572b", "#3a8f5c"
BAR, GOAL = "#9cc3e4", "#c4572b"
STYLE = {
    "font.size": 9,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "figure.facecolor": "white",
    "axes.facecolor": "white",
    "savefig.facecolor": "white",
}

ARMS = {  # names in the tables -> names in the figures
    "ours": "ours, all in the worker",
    "ours_pil": "ours, all in the worker by PIL",
    "ours_device": "ours, augmenting on the device",
    "limit": "decoding and crops alone",
    "ours_crops": "ours, eight crops",
    "ours_crops_device": "ours, eight crops, the rest on the device",
    "mmpretrain": "mmpretrain",
    "mmpretrain_crops": "mmpretrain, eight crops",
    "torchvision_v1": "torchvision v1 (PIL)",
    "torchvision_v2": "torchvision v2 (tensors)",
    "lightly": "lightly",
}
METHODS = {
    "co2": "CO2",
    "densecl": "DenseCL",
    "regionclm": "RegionCL-M",
    "detco": "DetCo",
    "interclr": "InterCLR",
    "interclr_fast": "InterCLR, exact=False",
    "mmpretrain": "mmpretrain's MoCo",
    "moco": "MoCo",
}


def read(name: str) -> Rows:
    """Rows of a table; none if it does not exist."""
    path = common.RESULTS / f"{name}.csv"
    if not path.is_file():
        return []
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


Bar = tuple[str, float, float, float, float | None]  # label, value, low, high, goal


def pipeline_bars() -> list[Bar]:
    """The input pipeline: processor time per sample."""
    rows = [r for r in read("pipeline_cpu") if r["speedup"]]
    return [
        _bar(f"{ARMS[r['arm']]} vs {ARMS[r['peer']]}", r, r.get("goal", ""))
        for r in rows
        if r["arm"] != "ours_pil"
    ]


def loss_bars() -> list[Bar]:
    """The losses and InterCLR's branch, on one thread."""
    found = []
    goals = {"256": "3", "1568": "4"}
    for r in read("queue_loss_cpu"):
        kept = r["allocator"] != "glibc"
        if r["arm"] == "ours" and (kept or r["threads"] == "1"):
            where = ", memory kept" if kept else ""
            label = f"queue loss, N = {int(r['n']):,}{where} vs mmpretrain"
            found.append(_bar(label, r, goals.get(r["n"], "")))
    for r in read("dense_loss_cpu"):
        if r["threads"] == "1" and r["arm"] == "ours":
            found.append(_bar("dense loss of DenseCL vs mmpretrain", r))
    names = {"exact": "", "fast": ", exact=False"}
    for r in read("inter_branch_cpu"):
        if r["arm"] in names:
            label = f"InterCLR's branch{names[r['arm']]} vs reference"
            found.append(_bar(label, r, "20"))
    return found


def step_bars() -> list[Bar]:
    """Steps of the methods in steps of MoCo, ResNet-50 at 224 px."""
    found = []
    for r in read("step_cpu"):
        over = r["ratio"].removesuffix("_over_moco")
        if r["depth"] == "50" and over in METHODS:
            values = (float(r[key]) for key in ("value", "low", "high"))
            found.append((METHODS[over], *values, None))
    return found  # type: ignore[return-value]


def _bar(label: str, r: dict[str, str], goal: str = "") -> Bar:
    values = [float(r[key]) for key in ("speedup", "speedup_low", "speedup_high")]
    return (label, values[0], values[1], values[2], float(goal) if goal else None)


def draw_bars(ax: Axes, bars: list[Bar], title: str, label: str) -> None:
    """Horizontal bars with intervals, goals and figures."""
    top = max(max(bar[3], bar[4] or 0) for bar in bars)
    for y, (_, value, low, high, goal) in enumerate(bars):
        ax.barh(y, value, 0.62, color=BAR, zorder=2)
        ax.plot([low, high], [y, y], color=OURS, lw=2, solid_capstyle="butt", zorder=3)
        if goal is not None:
            ax.plot([goal, goal], [y - 0.4, y + 0.4], color=GOAL, lw=2, zorder=4)
        x = max(high, value, goal or 0) + 0.012 * top
        text = f"{value:.2f}" if value < 10 else f"{value:.1f}"
        ax.text(x, y, text, va="center", ha="left", fontsize=9, zorder=5)
    ax.axvline(1, color=MUTED, lw=1, ls=(0, (3, 2)), zorder=3)
    ax.set_yticks(range(len(bars)), [bar[0] for bar in bars])
    ax.set_ylim(len(bars) - 0.4, -0.6)
    ax.set_xlim(0, 1.1 * top)
    ax.grid(axis="x", color=GRID, zorder=0)
    ax.tick_params(axis="y", length=0)
    ax.set_title(title, pad=8)
    ax.set_xlabel(label)


def ratios(path: Path) -> None:
    """Draw ratios.png."""
    panels = [
        (
            pipeline_bars(),
            "Input pipeline: times faster than the peer",
            "processor time per sample, peer's over ours (more is better)",
        ),
        (
            loss_bars(),
            "Losses and InterCLR's branch: times faster than the peer",
            "forward and backward, one thread (memory kept: all), peer's over ours "
            "(more is better)",
        ),
        (
            step_bars(),
            "Training steps, ResNet-50, 224 px, 8 images",
            "time of a step over that of our MoCo (less is better)",
        ),
    ]
    panels = [panel for panel in panels if panel[0]]
    if not panels:
        return
    heights = [len(bars) + 2.4 for bars, *_ in panels]
    figure, axes = plt.subplots(
        len(panels),
        figsize=(9, 0.29 * sum(heights) + 0.6),
        height_ratios=heights,
        squeeze=False,
        layout="constrained",
    )
    for ax, (bars, title, label) in zip(axes[:, 0], panels, strict=True):
        draw_bars(ax, bars, title, label)
    handles = [
        plt.Rectangle((0, 0), 1, 1, color=BAR, label="median"),
        plt.Line2D([], [], color=OURS, lw=2, label="95 % interval"),
        plt.Line2D([], [], color=GOAL, lw=2, label="goal"),
        plt.Line2D([], [], color=MUTED, lw=1, ls=(0, (3, 2)), label="equal"),
    ]
    figure.legend(
        handles=handles,
        loc="outside upper right",
        ncols=len(handles),
        frameon=False,
        fontsize=9,
    )
    save(figure, path)


QUEUE, IMAGES = "queue K, with N = 256 rows", "images in the bank"
PANELS = {  # (what, variable) -> title, label of x; the unit stands in the table
    ("peak memory of the loss", "N and K"): (
        "Peak memory of the loss",
        "queue K, with N = K / 256 rows",
    ),
    ("peak memory of the loss", "K"): ("Peak memory of the loss", QUEUE),
    ("time of the loss", "K"): ("Time of the loss", QUEUE),
    ("time of the loss", "N"): ("Time of the loss", "rows N, with K = 65,536"),
    ("time of the loss", "D"): (
        "Time of the loss",
        "embedding D, with N = 256, K = 65,536",
    ),
    ("time of a step of MoCo", "K"): ("Step of MoCo, small network", "queue K"),
    ("time of InterCLR's branch", "images"): ("InterCLR's branch, 32 queries", IMAGES),
    ("memory of InterCLR's bank", "images"): ("InterCLR's bank and labels", IMAGES),
    ("throughput of the loader", "workers"): ("Loader, two views of 224 px", "workers"),
}
CURVES = {
    "ours": ("ours", OURS, "o"),
    "mmpretrain": ("mmpretrain", OTHER, "s"),
    "exact": ("exact", OURS, "o"),
    "fast": ("exact=False", THIRD, "D"),
    "worker": ("all in the worker", OURS, "o"),
    "device": ("rest on the device", THIRD, "D"),
}


def scaling(path: Path) -> None:
    """Draw scaling.png."""
    rows, fits = read("scale_cpu"), read("scale_fit_cpu")
    measured = {(r["what"], r["variable"]) for r in rows}
    panels = [key for key in PANELS if key in measured]
    if not panels:
        return
    columns = min(3, len(panels))
    lines = -(-len(panels) // columns)
    figure, axes = plt.subplots(
        lines,
        columns,
        figsize=(3.7 * columns, 3.0 * lines),
        squeeze=False,
        layout="constrained",
    )
    for ax in axes.flat[len(panels) :]:
        ax.set_visible(False)
    for ax, panel in zip(axes.flat, panels, strict=False):
        _draw_panel(ax, panel, rows, fits)
    figure.suptitle(
        "How costs grow (fitted power of the size in brackets)",
        x=0.01,
        ha="left",
        fontsize=11,
        fontweight="bold",
    )
    save(figure, path)


def _draw_panel(ax: Axes, panel: tuple[str, str], rows: Rows, fits: Rows) -> None:
    title, x_label = PANELS[panel]
    rows = [r for r in rows if (r["what"], r["variable"]) == panel]
    fits = [r for r in fits if (r["what"], r["variable"]) == panel]
    powers = {r["arm"]: r["exponent"] for r in fits}
    for arm in dict.fromkeys(r["arm"] for r in rows):
        points = [r for r in rows if r["arm"] == arm]
        x = [float(r["size"]) for r in points]
        y = [float(r["value"]) for r in points]
        name, colour, marker = CURVES[arm]
        label = f"{name} ({powers[arm]})" if arm in powers else name
        ax.plot(x, y, color=colour, marker=marker, ms=4.5, lw=1.6, label=label)
    ax.grid(color=GRID, zorder=0)
    ax.set_title(title, pad=6)
    ax.set_xlabel(x_label)
    ax.set_ylabel(rows[0]["unit"])
    if panel[1] == "workers":
        ax.set_xticks(sorted({int(r["size"]) for r in rows}))
        ax.set_ylim(0, 1.35 * max(float(r["value"]) for r in rows))
    else:
        ax.set_xscale("log")
        ax.set_yscale("log")
        _tick(ax, [float(r["size"]) for r in rows])
        low, high = ax.get_ylim()
        # A whole decade at least, or noise looks like growth; room for the legend.
        ax.set_ylim(low, max(high, 10 * low) * (high / low) ** 0.3)
        few = ax.get_ylim()[1] / ax.get_ylim()[0] < 100
        ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if few else (1,)))
        ax.yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:,g}"))
        ax.yaxis.set_minor_formatter(NullFormatter())
    ax.legend(loc="upper left", frameon=False, fontsize=8.5, handlelength=1.6)


def _tick(ax: Axes, sizes: list[float]) -> None:
    ticks = sorted(set(sizes))
    labels = [_short(size) for size in ticks]
    ax.set_xticks(ticks, labels)
    ax.xaxis.set_minor_formatter(NullFormatter())
    ax.tick_params(axis="x", which="minor", length=0)


def _short(size: float) -> str:
    # Queues are powers of two: 65,536 is 64k; numbers of images are decimal.
    for unit, name in ((2**20, "M"), (2**10, "k")):
        if size >= unit and int(size) & (int(size) - 1) == 0:
            return f"{size / unit:g}{name}"
    for unit, name in ((1e6, "M"), (1e3, "k")):
        if size >= unit:
            return f"{size / unit:.3g}{name}"
    return f"{size:g}"


def save(figure: Any, path: Path, dpi: int = 150, **given: Any) -> None:
    """Write a figure and let go of it."""
    figure.savefig(path, dpi=dpi, **given)
    plt.close(figure)
    print(f"Wrote {path}")


def main() -> None:
    """Draw both."""
    matplotlib.use("Agg")
    with plt.rc_context(STYLE):
        ratios(common.RESULTS / "ratios.png")
        scaling(common.RESULTS / "scaling.png")


if __name__ == "__main__":
    main()
