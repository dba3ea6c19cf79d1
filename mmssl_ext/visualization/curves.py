"""Figures of a run: loss, kNN accuracy, and small ones of other measures.

Every function returns a free-standing matplotlib figure, or None where the log holds
nothing to draw; nothing touches pyplot or needs a display.
"""

from __future__ import annotations

import io
import math
import re
import textwrap
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import MaxNLocator, StrMethodFormatter

from mmssl_ext.files import drafted
from mmssl_ext.text import printable

from .logs import RunLog
from .panels import Panel, number

INK, FAINT = "#24292f", "#6e7781"
# Okabe and Ito's palette, told apart with every kind of colour blindness; the line
# styles say the same once more.
BLUE, ORANGE, GREEN, PINK = "#0072b2", "#d55e00", "#009e73", "#cc79a7"
COLORS = {
    **{"ink": INK, "faint": FAINT, "blue": BLUE},
    **{"orange": ORANGE, "green": GREEN, "pink": PINK},
}

_COLORS = (BLUE, ORANGE, GREEN, PINK)
_STYLES = tuple(zip(_COLORS, ("--", "-.", ":", (0, (6, 1, 1, 1))), strict=True))
_DOTS = (0, (1, 2))
_MAX_POINTS = 300
SIZE = (4.7, 3.1)
"""Inches of every figure: 338 units of 1/72, as wide as a phone shows it in pixels.

So the sizes of its letters are pixels there, and nearly so in the columns of a wide
screen.
"""
_TEXT, _TITLE = 12, 13.5  # points
_TITLE_LETTERS = 34  # per line


def loss_figure(log: RunLog, queue_length: int | None = None) -> Figure | None:
    """Draw the total loss and its terms.

    Of a term that is logged before its weight (``raw_x``), that one as "raw x".

    Args:
        log: The run.
        queue_length: Number of negatives K; adds the line ln(K + 1), the instance
            loss of an encoder that cannot tell the positive from the negatives.
    """
    if not log.train:
        return None
    figure, axes = new_figure(SIZE)
    keys = log.train_keys()
    terms = _terms(log, keys)
    x, total = _over_time(log, "loss")
    _line(axes, x, total, INK, label="total")
    if len(terms) > 1:  # a single term is the total
        for i, (label, key) in enumerate(terms.items()):
            color, style = _STYLES[i % len(_STYLES)]
            _line(axes, *_over_time(log, key), color, style, label)
        legend_below(figure)
    if queue_length:
        chance = math.log(queue_length + 1)
        _mark(axes, chance, f"chance level: ln({queue_length:,} + 1) = {chance:.2f}")
    axes.set_title("Training loss", loc="left")
    axes.set_xlabel(_time_label(log))
    axes.set_ylabel("loss (nats)" if queue_length else "loss")
    axes.xaxis.set_major_locator(ticks(1, 2, 5))
    axes.yaxis.set_major_locator(ticks())
    axes.margins(y=0.12)
    if not any(value < 0 for value in total):  # SimSiam's is
        axes.set_ylim(bottom=0)
    return figure


def _terms(log: RunLog, keys: Iterable[str]) -> dict[str, str]:
    """Which losses are drawn: label and key of each, before its weight if it has one.

    A log names them ``loss_x`` and ``raw_x``.
    """
    found = {}
    raw = {k.removeprefix("raw_"): k for k in keys if k.startswith("raw_")}
    weighted = {k.removeprefix("loss_"): k for k in keys if k.startswith("loss_")}
    for name in dict.fromkeys([*weighted, *raw]):
        first, second = weighted.get(name), raw.get(name)
        if first and (not second or _over_time(log, first) == _over_time(log, second)):
            found[name] = first
        elif second:
            found[f"raw {name}"] = second
    return found


def knn_figure(log: RunLog) -> Figure | None:
    """Draw kNN top-1 of backbone and embedding, the start of the backbone marked."""
    names = [n for n in ("backbone", "embedding") if log.knn_series(n)[1]]
    if not names:
        return None
    figure, axes = new_figure(SIZE)
    looks = {"backbone": (BLUE, "-", "o"), "embedding": (ORANGE, "--", "s")}
    alignment = dict.fromkeys(names, "center")
    if len(names) > 1:  # the higher number goes up, the lower down: they never touch
        low, high = sorted(names, key=lambda name: log.knn_series(name)[1][-1])
        alignment = {low: "top", high: "bottom"}
    for name in names:
        x, y = log.knn_series(name)
        color, style, marker = looks[name]
        axes.plot(
            x,
            y,
            color=color,
            linestyle=style,
            linewidth=1.8,
            marker=marker,
            markersize=5 if len(x) <= 30 else 0,
            label=name,
        )
        axes.annotate(
            f"{y[-1]:.1f}",
            (x[-1], y[-1]),
            xytext=(7, 0),
            textcoords="offset points",
            va=alignment[name],
            fontsize=_TEXT,
            fontweight="bold",
            color=color,
        )
    before = log.knn_before()
    if before is not None:
        label = f"start: {before:.1f}"
        axes.axhline(before, color=FAINT, linewidth=1.3, linestyle=_DOTS, label=label)
    legend_below(figure)
    axes.set_title("kNN accuracy on held-out images", loc="left")
    axes.set_xlabel("epoch (0: before training)")
    axes.set_ylabel("top-1 accuracy (%)")
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True, steps=[1, 2, 5, 10]))
    axes.yaxis.set_major_locator(ticks())
    axes.margins(x=0.1, y=0.18)
    return figure


def panel_figures(log: RunLog, panels: Iterable[Panel]) -> list[tuple[Panel, Figure]]:
    """Draw one small figure for each of the panels that the log has the values of."""
    drawn = []
    for panel in _known(log, panels):
        figure, axes = new_figure(SIZE)
        _draw_panel(axes, log, panel)
        drawn.append((panel, figure))
    return drawn


def panels_figure(log: RunLog, panels: Iterable[Panel]) -> Figure | None:
    """Draw the same as small multiples of one figure."""
    known = _known(log, panels)
    if not known:
        return None
    columns = min(2, len(known))
    rows = math.ceil(len(known) / columns)
    size = (SIZE[0] * columns, SIZE[1] * rows)
    figure = _canvas(size)
    for i, panel in enumerate(known):
        axes = figure.add_subplot(rows, columns, i + 1)
        _draw_panel(axes, log, panel)
        _style(axes)
    return figure


def save_png(figure: Figure, path: str | Path) -> None:
    """Write ``figure`` as PNG on white, two pixels per point of a usual screen."""
    _restyle(figure)
    with drafted(path) as draft:
        figure.savefig(draft, format="png", dpi=200, facecolor="white")


def to_svg(figure: Figure, name: str, label: str) -> str:
    """Return ``figure`` as an inline ``<svg>`` element that follows the page's theme.

    Its colours are the page's CSS variables ``--ink``, ``--faint``, ``--blue``,
    ``--orange``, ``--green`` and ``--pink``; its text stays text, and it names no
    outside address. The titles of its axes are left out: the page writes them.

    Args:
        figure: The figure.
        name: Different for every figure of a page; its element ids follow from it.
        label: What it shows, for those who do not see it.
    """
    _restyle(figure)
    for axes in figure.axes:
        axes.set_title("", loc="left")
    stream = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        no_metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(stream, format="svg", transparent=True, metadata=no_metadata)
    svg = stream.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<!--.*?-->|<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r' xmlns(:\w+)?="[^"]*"| (width|height)="[\d.]+pt"', "", svg)
    # Groups are numbered alike in every figure; only markers and clips need their id.
    svg = re.sub(r'<g id="[a-z]+\w*\.?\w*_\d+"', "<g", svg)
    svg = re.sub(r'font-family: [^;"]*;? ?', "", svg)  # the page has one for all
    for variable, color in COLORS.items():
        svg = svg.replace(color, f"var(--{variable})")
    svg = svg.replace("<svg", f'<svg role="img" aria-label="{escape(label)}"', 1)
    return re.sub(r"\s*\n\s*", "\n", svg).strip()


def _known(log: RunLog, panels: Iterable[Panel]) -> list[Panel]:
    return [p for p in panels if all(log.series(key)[1] for key in p.lines.values())]


def _draw_panel(axes: Axes, log: RunLog, panel: Panel) -> None:
    axes.margins(y=0.12)
    if panel.log_scale:
        # Linear from 0, an empty cluster, to 1; labels of both have room.
        axes.set_yscale("symlog", linthresh=1, linscale=0.5, subs=range(2, 10))
        axes.yaxis.set_major_formatter(StrMethodFormatter("{x:,g}"))
    else:
        axes.yaxis.set_major_locator(ticks())
    axes.xaxis.set_major_locator(ticks(1, 2, 5))
    ends = []
    for (name, key), color in zip(panel.lines.items(), _COLORS, strict=False):
        x, y = _over_time(log, key)
        _line(axes, x, y, color)
        if name:
            ends.append((x[-1], y[-1], f"{name} {number(y[-1])}", color))
    for value, label in panel.marks:
        _mark(axes, value, label)
    if panel.ymin is not None:
        axes.update_datalim([(0, panel.ymin)], updatex=False)  # the margin counts it
        axes.set_ylim(bottom=panel.ymin)
    if ends:
        _name_ends(axes, ends)
    axes.set_title(panel.title, loc="left")
    axes.set_xlabel(_time_label(log))
    axes.set_ylabel(panel.unit)


def _name_ends(axes: Axes, ends: list[tuple[float, float, str, str]]) -> None:
    """Write (x, y, text, colour) beside the ends of lines, none upon another."""
    ends = sorted(ends, key=lambda end: end[1])
    axes.get_ylim()  # settles the limits
    to_axes = axes.transScale + axes.transLimits
    heights = to_axes.transform([end[:2] for end in ends])[:, 1]  # 0 to 1
    stack = 0.11 * np.arange(len(ends))  # as dense as the texts may be
    heights = np.maximum.accumulate(heights.clip(min=0.06) - stack)
    heights = heights.clip(max=1 - stack[-1]) + stack
    for (x, _, text, color), height in zip(ends, heights, strict=True):
        axes.annotate(
            text,
            (x, height),
            xycoords=("data", "axes fraction"),
            xytext=(5, 0),
            textcoords="offset points",
            va="center",
            fontsize=_TEXT,
            color=color,
        )


def new_figure(size: tuple[float, float]) -> tuple[Figure, Axes]:
    """Return an empty figure of a size in inches, and its axes."""
    figure = _canvas(size)
    return figure, figure.add_subplot()


def _canvas(size: tuple[float, float]) -> Figure:
    layout = ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.08)
    figure = Figure(figsize=size, layout=layout)
    FigureCanvasAgg(figure)
    return figure


def legend_below(figure: Figure) -> None:
    """Put the legend of a figure below its axes, in as few rows as it fits."""
    handles, labels = [], []
    for axes in figure.axes:
        found = axes.get_legend_handles_labels()
        handles += found[0]
        labels += found[1]
    # Inches of each entry: its line, gaps, and letters of three fifths of their height.
    widths = [(40 + 0.6 * _TEXT * len(label)) / 72 for label in labels]
    room = figure.get_size_inches()[0] - 0.2
    fits = sum(widths) < room
    figure.legend(
        handles,
        labels,
        loc="outside lower center",
        ncols=len(labels) if fits else max(1, int(room / max(widths, default=room))),
        frameon=False,
        fontsize=_TEXT,
        labelcolor=INK,
        handlelength=1.8,
        handletextpad=0.5,
        columnspacing=1.2,
    )


def _restyle(figure: Figure) -> None:
    for axes in figure.axes:
        _style(axes)
        legend = axes.get_legend()
        texts = [*axes.texts, *(legend.get_texts() if legend else ())]
        # Titles and names are the user's: no formulas, and nothing that no font has.
        for text in texts:
            text.set_text(printable(text.get_text()))
            text.set_parse_math(False)


def _style(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(FAINT)
    axes.tick_params(which="both", labelcolor=INK, labelsize=_TEXT, color=FAINT)
    axes.grid(axis="y", color=FAINT, alpha=0.2, linewidth=0.8)
    axes.set_axisbelow(True)
    for label in (axes.xaxis.label, axes.yaxis.label):
        label.set_color(INK)
        label.set_fontsize(_TEXT)
    title = textwrap.fill(printable(axes.get_title("left")), _TITLE_LETTERS)
    style: dict[str, Any] = {"color": INK, "fontsize": _TITLE, "fontweight": "bold"}
    axes.set_title(title, loc="left", parse_math=False, **style)


def ticks(*steps: float) -> MaxNLocator:
    """Few and round numbers, for letters of this size."""
    return MaxNLocator(5, steps=[*(steps or (1, 2, 2.5, 5)), 10])


def _mark(axes: Axes, value: float, label: str) -> None:
    """Draw a dotted level with its label at the right end."""
    axes.axhline(value, color=FAINT, linewidth=1.3, linestyle=_DOTS)
    axes.annotate(
        label,
        (1.0, value),
        xycoords=("axes fraction", "data"),
        xytext=(-2, 3),
        textcoords="offset points",
        ha="right",
        fontsize=_TEXT,
        color=FAINT,
    )


def _line(
    axes: Axes,
    x: Sequence[float],
    y: Sequence[float],
    color: str,
    style: Any = "-",
    label: str | None = None,
) -> None:
    xs, ys = thin(x, y)
    marker = "o" if len(xs) < 3 else None
    looks = {"color": color, "linestyle": style, "marker": marker}
    axes.plot(xs, ys, linewidth=1.5, label=label, **looks)


def thin(x: Sequence[float], y: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """Average neighbours until at most 300 points are left; NaN stays a gap."""
    step = max(math.ceil(len(x) / _MAX_POINTS), 1)
    starts = np.arange(0, len(x), step)
    counts = np.diff(np.append(starts, len(x)))
    means = [np.add.reduceat(np.asarray(v, float), starts) / counts for v in (x, y)]
    return means[0], means[1]


def _over_time(log: RunLog, key: str) -> tuple[list[float], list[float]]:
    """Return ``key`` over epochs done (with fractions), or iterations."""
    steps, values = log.series(key)
    per_epoch = log.iterations_per_epoch or 1
    return [step / per_epoch for step in steps], values


def _time_label(log: RunLog) -> str:
    return "epoch" if log.iterations_per_epoch else "iteration"
