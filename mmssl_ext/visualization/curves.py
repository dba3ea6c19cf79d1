"""Figures of a run: loss, kNN accuracy, and small ones of other measures.

Every function returns a free-standing matplotlib figure, or None where the log holds
nothing to draw; nothing touches pyplot or needs a display.
"""

from __future__ import annotations

import io
import math
import re
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from markupsafe import Markup, escape
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure, FigureBase
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.legend import Legend
from matplotlib.ticker import MaxNLocator, StrMethodFormatter

from mmssl_ext.files import drafted
from mmssl_ext.text import printable

from .logs import RunLog
from .panels import Panel, number

INK, FAINT = "#24292f", "#6e7781"
# Okabe and Ito's palette, told apart with every kind of colour blindness; the line
# styles say the same once more.
BLUE, ORANGE, GREEN, PINK = "#0072b2", "#d55e00", "#009e73", "#cc79a7"
_VARIABLES = {
    **{"ink": INK, "faint": FAINT, "blue": BLUE},
    **{"orange": ORANGE, "green": GREEN, "pink": PINK},
}

Look = tuple[str, Any]  # colour and style of a line
_LOOKS: list[Look] = [
    (BLUE, "--"),
    (ORANGE, "-."),
    (GREEN, ":"),
    (PINK, (0, (6, 1, 1, 1))),
]
_DOTS = (0, (1, 2))
_MAX_POINTS = 300
SIZE = (4.7, 3.1)
"""Inches of every figure: 338 units of 1/72, as wide as a phone shows it in pixels.

So the sizes of its letters are pixels there, and nearly so in the columns of a wide
screen.
"""
_TEXT, _TITLE = 12, 13.5  # points
_TITLE_LETTERS = 34  # per line


class Chart(NamedTuple):
    """A figure as a page shows it: its title, drawing, and what a panel says of it."""

    title: str
    svg: Markup
    value: str = ""
    meaning: str = ""
    expected: str = ""


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
    figure, axes = new_figure()
    _line(axes, log, "loss", (INK, "-"), "total")
    terms = _terms(log)
    if len(terms) > 1:  # a single term is the total
        for (label, key), look in zip(terms.items(), cycle(_LOOKS), strict=False):
            _line(axes, log, key, look, label)
        legend_below(axes)
    if queue_length:
        chance = math.log(queue_length + 1)
        _mark(axes, chance, f"chance level: ln({queue_length:,} + 1) = {chance:.2f}")
    unit = "loss (nats)" if queue_length else "loss"
    name_axes(axes, "Training loss", _time_label(log), unit)
    axes.margins(y=0.12)
    if not any(value < 0 for value in log.series("loss")[1]):  # SimSiam's is
        axes.set_ylim(bottom=0)
    return figure


def _terms(log: RunLog) -> dict[str, str]:
    """Which losses are drawn: label and key of each, before its weight if it has one.

    A log names them ``loss_x`` and ``raw_x``.
    """
    found = {}
    pairs = [key.split("_", 1) for row in log.train for key in row if "_" in key]
    names = [name for kind in ("loss", "raw") for k, name in pairs if k == kind]
    for name in dict.fromkeys(names):
        weighted, raw = log.series(f"loss_{name}"), log.series(f"raw_{name}")
        if raw[0] and raw != weighted:
            found[f"raw {name}"] = f"raw_{name}"
        else:
            found[name] = f"loss_{name}"
    return found


def knn_figure(log: RunLog) -> Figure | None:
    """Draw top-1 by kNN, with its start, and of the online linear probe."""
    figure, axes = new_figure()
    for name, (x, y), *look in (
        ("backbone", log.knn_series("backbone"), BLUE, "-", "o"),
        ("embedding", log.knn_series("embedding"), ORANGE, "--", "s"),
        ("linear probe", log.probe_series(), GREEN, ":", "^"),
    ):
        if y:
            (line,) = axes.plot(x, y, linewidth=1.8, label=f"{name}: {y[-1]:.1f}")
            line.set(**dict(zip(("color", "linestyle", "marker"), look, strict=True)))
            line.set_markersize(5 if len(x) <= 30 else 0)
    if not axes.lines:
        return None
    before = log.knn_before()
    if before is not None:
        label = f"start: {before:.1f}"
        axes.axhline(before, color=FAINT, linewidth=1.3, linestyle=_DOTS, label=label)
    legend_below(axes)
    title = f"{'A' if y else 'kNN a'}ccuracy on held-out images"  # y: of the probe
    name_axes(axes, title, "epoch (0: before training)", "top-1 accuracy (%)")
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True, steps=[1, 2, 5, 10]))
    axes.margins(y=0.12)
    return figure


def chart(figure: Figure, name: str, *said: str) -> Chart:
    """Return a figure for a page, see :func:`to_svg`, and what a panel says of it."""
    axes = figure.axes[0]
    title, axis = axes.get_title("left"), (axes.get_ylabel(), axes.get_xlabel())
    label = f"{title}: {' over '.join(filter(None, axis))}"
    return Chart(title, to_svg(figure, name, label), *said)


def panel_charts(log: RunLog, panels: Iterable[Panel]) -> list[Chart]:
    """Draw for a page what the log has of the panels, with last value and meaning."""
    charts = []
    for panel in panels:
        if figure := panels_figure(log, [panel]):
            last = [number(log.series(key)[1][-1]) for key in panel.lines.values()]
            said = (" / ".join(last), panel.meaning, panel.expected)
            charts.append(chart(figure, panel.key, *said))
    return charts


def panels_figure(log: RunLog, panels: Iterable[Panel]) -> Figure | None:
    """Draw those of the panels that the log has the values of, in two columns."""
    known = [p for p in panels if all(log.series(key)[1] for key in p.lines.values())]
    if not known:
        return None
    columns = min(2, len(known))
    rows = math.ceil(len(known) / columns)
    figure = _canvas((SIZE[0] * columns, SIZE[1] * rows))
    places = figure.subfigures(rows, columns, squeeze=False).flat
    for place, panel in zip(places, known, strict=False):
        place.set_facecolor("none")  # which matplotlib forgot below 3.9
        _draw_panel(place, log, panel)
    return figure


def save_pngs(figures: Mapping[str, Figure | None], folder: Path) -> None:
    """Write figures, as far as there are any, into a folder by their names."""
    for name, figure in figures.items():
        if figure is not None:
            folder.mkdir(exist_ok=True)
            save_png(figure, folder / f"{name}.png")


def save_png(figure: Figure, path: str | Path) -> None:
    """Write ``figure`` as PNG on white, two pixels per point of a usual screen."""
    _restyle(figure)
    with drafted(path) as draft:
        figure.savefig(draft, format="png", dpi=200, facecolor="white")


def to_svg(figure: Figure, name: str, label: str) -> Markup:
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
    titles = [axes.get_title("left") for axes in figure.axes]
    for axes in figure.axes:
        axes.set_title("", loc="left")
    stream = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        no_metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(stream, format="svg", transparent=True, metadata=no_metadata)
    for axes, title in zip(figure.axes, titles, strict=True):
        axes.set_title(title, loc="left")
    svg = stream.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<!--.*?-->|<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r' xmlns(:\w+)?="[^"]*"| (width|height)="[\d.]+pt"', "", svg)
    # Groups are numbered alike in every figure; only markers and clips need their id.
    svg = re.sub(r'<g id="[a-z]+\w*\.?\w*_\d+"', "<g", svg)
    svg = re.sub(r'font-family: [^;"]*;? ?', "", svg)  # the page has one for all
    for variable, color in _VARIABLES.items():
        svg = svg.replace(color, f"var(--{variable})")
    svg = svg.replace("<svg", f'<svg role="img" aria-label="{escape(label)}"', 1)
    return Markup(re.sub(r"\s*\n\s*", "\n", svg).strip())


def _draw_panel(figure: FigureBase, log: RunLog, panel: Panel) -> None:
    axes = figure.add_subplot()
    axes.margins(y=0.12)
    name_axes(axes, panel.title, _time_label(log), panel.unit)
    if panel.log_scale:
        # Linear from 0, an empty cluster, to 1; labels of both have room.
        axes.set_yscale("symlog", linthresh=1, linscale=0.5, subs=range(2, 10))
        axes.yaxis.set_major_formatter(StrMethodFormatter("{x:,g}"))
    looks = [(BLUE, "-"), *_LOOKS[1:]]
    for (part, key), look in zip(panel.lines.items(), looks, strict=False):
        last = number(log.series(key)[1][-1])
        _line(axes, log, key, look, f"{part}: {last}" if part else "")
    for value, label in panel.marks:
        _mark(axes, value, label)
    if panel.ymin is not None:
        axes.update_datalim([(0, panel.ymin)], updatex=False)  # the margin counts it
        axes.set_ylim(bottom=panel.ymin)
    if panel.parts:
        legend_below(axes)


def new_figure(size: tuple[float, float] = SIZE) -> tuple[Figure, Axes]:
    """Return an empty figure of a size in inches, and its axes."""
    figure = _canvas(size)
    return figure, figure.add_subplot()


def _canvas(size: tuple[float, float]) -> Figure:
    layout = ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.08)
    figure = Figure(figsize=size, layout=layout)
    FigureCanvasAgg(figure)
    return figure


def legend_below(axes: Axes) -> None:
    """Put the legend of a figure below its axes, in as few rows as it fits."""
    handles, labels = axes.get_legend_handles_labels()
    # Inches of each entry: its line, gaps, and letters of three fifths of their height.
    widths = [(40 + 0.6 * _TEXT * len(label)) / 72 for label in labels]
    room = SIZE[0] - 0.2
    fits = sum(widths) < room
    axes.figure.legend(
        handles,
        labels,
        loc="outside lower center",
        ncols=max(1, len(labels) if fits else int(room / max(widths))),
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
    texts = [text for legend in figure.findobj(Legend) for text in legend.get_texts()]
    # Titles and names are the user's: no formulas, and nothing that no font has.
    for text in texts + [text for axes in figure.axes for text in axes.texts]:
        text.set_text(printable(text.get_text()))
        text.set_parse_math(False)


def _style(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(FAINT)
    axes.tick_params(which="both", labelcolor=INK, labelsize=_TEXT, color=FAINT)
    axes.grid(axis="y", color=FAINT, alpha=0.2, linewidth=0.8)
    axes.set_axisbelow(True)
    for label in (axes.xaxis.label, axes.yaxis.label):
        label.set(color=INK, fontsize=_TEXT)
    title = textwrap.fill(printable(axes.get_title("left")), _TITLE_LETTERS)
    style: dict[str, Any] = {"color": INK, "fontsize": _TITLE, "fontweight": "bold"}
    axes.set_title(title, loc="left", parse_math=False, **style)


def name_axes(axes: Axes, title: str, xlabel: str, ylabel: str) -> None:
    """Name a figure and its axes; their numbers are few and round."""
    axes.set_title(title, loc="left")
    axes.set(xlabel=xlabel, ylabel=ylabel)
    axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
    axes.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))


def _mark(axes: Axes, value: float, label: str) -> None:
    """Draw a dotted level with its label at the right end."""
    axes.axhline(value, color=FAINT, linewidth=1.3, linestyle=_DOTS)
    place = axes.get_yaxis_transform()  # x of the axes, y of the data
    text = axes.text(0.99, value, label, transform=place, ha="right", va="bottom")
    text.set(fontsize=_TEXT, color=FAINT)


def _line(axes: Axes, log: RunLog, key: str, look: Look, label: str = "") -> None:
    x, y = thin(*_over_time(log, key))
    marker = "o" if len(x) < 3 else None
    color, style = look
    axes.plot(x, y, label=label, color=color, linestyle=style, marker=marker)


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
