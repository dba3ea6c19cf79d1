"""Figures of a chain: all headline metrics, and learning curves."""

from __future__ import annotations

import textwrap
from typing import Any

from matplotlib.figure import Figure

from mmssl_ext.visualization import curves

from .data import Results

_LOOKS = (
    {"color": curves.BLUE, "linestyle": "-", "marker": "o"},
    {"color": curves.ORANGE, "linestyle": "-.", "marker": "s"},
    {"color": curves.GREEN, "linestyle": ":", "marker": "D"},
    {"color": curves.INK, "linestyle": (0, (4, 1, 1, 1, 1, 1)), "marker": "^"},
)


def draw(results: Results) -> dict[str, Figure]:
    """Return every plot by the name of its file."""
    found = {"comparison": comparison_figure(results)}
    for transfer in results.transfers:
        found[f"curve_{transfer}"] = curve_figure(results, transfer)
    return {name: figure for name, figure in found.items() if figure is not None}


def _look(results: Results, source: str) -> dict[str, Any]:
    """Colour, line style and marker of a source, the same in all plots."""
    if source == results.base:
        return {"color": curves.FAINT, "linestyle": "--", "marker": "o"}
    others = [name for name in results.sources if name != results.base]
    return _LOOKS[others.index(source) % len(_LOOKS)]


def comparison_figure(results: Results) -> Figure | None:
    """Draw the headline metric of every transfer, a dot per source and seed."""
    rows = list(results.headlines.values())
    if not rows:
        return None
    figure, axes = curves.new_figure((curves.SIZE[0], 1.2 + 0.66 * len(rows)))
    last = len(results.sources) - 1
    for i, source in enumerate(results.sources):
        look = _look(results, source) | {"linestyle": ""}
        face = "none" if source == results.base else look["color"]
        # Apart, so that equal values do not hide each other.
        shift = 0.22 * (i - last / 2) / max(last, 1)
        points = [
            (value, height + shift)
            for height, row in enumerate(rows)
            if (cell := row.cells[source])
            for value in cell.values
        ]
        if points:
            x, y = zip(*points, strict=True)
            axes.plot(x, y, markerfacecolor=face, markersize=7, label=source, **look)
    for height, row in enumerate(rows):
        means = [cell.mean for cell in row.cells.values() if cell]
        if means:
            axes.hlines(height, min(means), max(means), curves.FAINT, alpha=0.6)
        # Above the line: beside it would leave no room on a phone.
        name = textwrap.shorten(f"{row.title}, {row.metric}", 46, placeholder=" ...")
        place = axes.get_yaxis_transform()  # x of the axes, y of the data
        text = axes.text(0.01, height - 0.42, name, transform=place, va="center")
        text.set(fontsize=12, color=curves.INK)
    curves.name_axes(axes, "Headline metrics", "percent", "")
    axes.set_yticks(range(len(rows)), [""] * len(rows))
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(len(rows) - 0.65, -0.75)
    axes.margins(x=0.08)
    curves.legend_below(axes)
    return figure


def curve_figure(results: Results, transfer: str) -> Figure | None:
    """Draw the headline metric of a transfer over the iterations, a line per run."""
    figure, axes = curves.new_figure()
    for source in results.sources:
        label = source
        for record in results.of(transfer, source):
            curve = record.result.get("curve") or {}
            if len(curve.get("values") or []) > 1:
                x, y = curve["iterations"], curve["values"]
                look = _look(results, source) | {"markersize": 5 if len(x) < 31 else 0}
                axes.plot(x, y, linewidth=1.6, label=label, **look)
                label = ""  # named once
    if not axes.lines or transfer not in results.headlines:
        return None
    curves.legend_below(axes)
    metric = results.headlines[transfer].metric
    title = results.transfers[transfer]
    curves.name_axes(axes, title, "iteration", f"{metric} (%)")
    axes.set_ylim(bottom=min(0, axes.get_ylim()[0]))
    return figure
