"""Figures of a chain: all headline metrics, and learning curves."""

from __future__ import annotations

import textwrap

from matplotlib.figure import Figure

from mmssl_ext.visualization import curves

from .data import Results


def draw(results: Results) -> dict[str, tuple[Figure, str]]:
    """Return figure and description of every plot, by the name of its file."""
    found = {}
    comparison = comparison_figure(results)
    if comparison is not None:
        label = "Headline metric of every transfer from every initialisation"
        found["comparison"] = (comparison, label)
    for transfer, title in results.transfers.items():
        figure = curve_figure(results, transfer, title)
        if figure is not None:
            found[f"curve_{transfer}"] = (figure, f"Learning curves of {title}")
    return found


def _look(results: Results, source: str) -> tuple[str, str, str]:
    """Colour, line style and marker of a source, the same in all plots."""
    if source == results.base:
        return curves.FAINT, "--", "o"
    others = [name for name in results.sources if name != results.base]
    looks = [
        (curves.BLUE, "-", "o"),
        (curves.ORANGE, "-.", "s"),
        (curves.GREEN, ":", "D"),
        (curves.INK, (0, (4, 1, 1, 1, 1, 1)), "^"),
    ]
    return looks[others.index(source) % len(looks)]  # type: ignore[return-value]


def comparison_figure(results: Results) -> Figure | None:
    """Draw the headline metric of every transfer, a dot per source and seed."""
    shown = [
        (title, metrics[0], transfer)
        for transfer, title in results.transfers.items()
        if (metrics := results.metrics(transfer))
    ]
    if not shown:
        return None
    figure, axes = curves.new_figure((curves.SIZE[0], 1.2 + 0.66 * len(shown)))
    for row, (_, metric, transfer) in enumerate(shown):
        cells = {s: results.cell(transfer, s, metric) for s in results.sources}
        means = [cell.mean for cell in cells.values() if cell]
        axes.plot(
            [min(means), max(means)],
            [row] * 2,
            color=curves.FAINT,
            linewidth=1,
            alpha=0.6,
        )
        for i, (source, cell) in enumerate(cells.items()):
            if cell is None:
                continue
            # Apart, so that equal values do not hide each other.
            height = row + 0.22 * (i - (len(cells) - 1) / 2) / max(len(cells) - 1, 1)
            color, _, marker = _look(results, source)
            face = "none" if source == results.base else color
            axes.plot(
                cell.values,
                [height] * len(cell.values),
                linestyle="",
                marker=marker,
                color=color,
                markerfacecolor=face,
                markersize=7,
                label=source if row == 0 else None,
            )
    named = {text.get_label() for text in axes.lines}
    for source in results.sources:  # one that is missing in the first row
        if source not in named and any(
            results.of(t, source) for t in results.transfers
        ):
            color, _, marker = _look(results, source)
            axes.plot([], [], linestyle="", marker=marker, color=color, label=source)
    # Their names above the lines: beside them would leave no room on a phone.
    axes.set_yticks(range(len(shown)), [""] * len(shown))
    axes.tick_params(axis="y", length=0)
    for row, (title, metric, _) in enumerate(shown):
        name = textwrap.shorten(f"{title}, {metric}", 46, placeholder=" ...")
        axes.annotate(
            name,
            (0, row - 0.42),
            xycoords=("axes fraction", "data"),
            xytext=(4, 0),
            textcoords="offset points",
            fontsize=12,
            va="center",
            color=curves.INK,
        )
    axes.set_ylim(len(shown) - 0.65, -0.75)
    axes.set_xlabel("percent")
    axes.margins(x=0.08)
    axes.set_title("Headline metrics", loc="left")
    curves.legend_below(figure)
    return figure


def curve_figure(results: Results, transfer: str, title: str) -> Figure | None:
    """Draw the headline metric of a transfer over the iterations, a line per run."""
    lines = [
        (record.source or "", curve["iterations"], curve["values"])
        for record in results.of(transfer)
        if len((curve := record.result.get("curve") or {}).get("values") or []) > 1
    ]
    if not lines:
        return None
    figure, axes = curves.new_figure(curves.SIZE)
    order = sorted(lines, key=lambda line: results.sources.index(line[0]))
    seen = set()
    for source, steps, values in order:
        color, style, _ = _look(results, source)
        label = None if source in seen else source
        seen.add(source)
        axes.plot(
            steps, values, color=color, linestyle=style, linewidth=1.6, label=label
        )
    curves.legend_below(figure)
    axes.set_title(title, loc="left")
    axes.set_xlabel("iteration")
    axes.set_ylabel(f"{results.metrics(transfer)[0]} (%)")
    axes.set_ylim(bottom=min(0, axes.get_ylim()[0]))
    axes.xaxis.set_major_locator(curves.ticks(1, 2, 3, 4, 5))
    axes.yaxis.set_major_locator(curves.ticks())
    return figure
