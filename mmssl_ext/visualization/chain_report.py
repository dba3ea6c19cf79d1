"""One page that says what pretraining is worth: ``chain.html``.

    python -m mmssl_ext.visualization.chain_report WORK_DIR

Made from the files in the work dir of a chain alone, so also while it is going and
after some stages failed. The page needs no network and no JavaScript.
"""

from __future__ import annotations

import base64
import datetime
import io
import sys
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from PIL import Image

from mmssl_ext.engine.chain_results import read_json
from mmssl_ext.files import write_text

from . import chain_plots, curves, page
from . import report as pretraining
from .chain_data import Cell, Results

PAGE_FILE, PLOTS = "chain.html", "plots"

_SIDE, _EXAMPLES = 320, 4  # pixels of a picture; images per transfer
_CSS = """<style>
.up { color: var(--green); } .down { color: var(--orange); }
td small { font-weight: 400; white-space: nowrap; }
.minor > * { color: var(--faint); font-size: .9rem; padding-top: .2rem; }
.shots { display: grid; gap: .5rem; grid-template-columns: repeat(3, 1fr); }
.shots img { width: 100%; height: auto; display: block; border-radius: .3rem; }
.shots figcaption { font-size: .85rem; color: var(--faint); line-height: 1.3; }
.examples { display: grid; gap: 1rem 2rem;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 26rem), 1fr)); }
.grid + .grid { margin-top: 1rem; } .one { max-width: 46rem; }
h3 { font-size: 1rem; margin: 0 0 .6rem; } a { color: var(--blue); }
</style>"""


def write_chain_report(work_dir: str | Path) -> Path:
    """Write ``chain.html``, and its plots as PNG to ``plots/``.

    Returns:
        The path of the page.

    Raises:
        FileNotFoundError: No chain ran in ``work_dir``.
    """
    results = Results(work_dir)
    plots = chain_plots.draw(results)
    folder = results.work_dir / PLOTS
    for name, (figure, _) in plots.items():
        folder.mkdir(exist_ok=True)
        curves.save_png(figure, folder / f"{name}.png")
    chain = str(read_json(results.work_dir / "chain.json").get("chain", "chain"))
    body = [
        _CSS,
        _answer(results, Path(chain).stem),
        _troubles(results),
        _table(results),
        _figures(plots),
        _pictures(results),
        _pretraining(results),
        _provenance(results),
        page.paragraph(
            f"Made {datetime.datetime.now().astimezone():%Y-%m-%d %H:%M %Z} from "
            f"{chain}; results.csv beside this page holds the figures.",
            "faint",
        ),
    ]
    path = results.work_dir / PAGE_FILE
    write_text(path, page.page(f"{Path(chain).stem}: transfer report", body))
    return path


def headline(work_dir: str | Path) -> str:
    """Say in plain words what pretraining was worth, as the report does on top."""
    return _sentence(Results(work_dir))


def _sentence(results: Results) -> str:
    gains = results.gains()
    if not gains:
        done = sum(record.status == "finished" for record in results.records)
        return (
            f"{done} of {len(results.records)} stages have finished; there is no pair "
            "of pretrained and random initialisation to compare yet."
        )
    names = {
        transfer: f"{results.transfers[transfer]} ({gain:+.1f})"
        for transfer, gain in gains.items()
    }
    above = sum(gain > 0 for gain in gains.values())
    text = (
        f"On {above} of {len(gains)} rows, '{results.main}' is above random "
        "initialisation."
    )
    best, worst = (choose(gains, key=lambda n: gains[n]) for choose in (max, min))
    if above:
        text += f" The largest gain is on {names[best]}."
    below = [names[t] for t, gain in gains.items() if gain < 0]
    level = [results.transfers[t] for t, gain in gains.items() if gain == 0]
    if below:
        text += f" BELOW random initialisation: {', '.join(below)}."
    if level:
        text += f" Level with it: {', '.join(level)}."
    if above == len(gains) > 1:
        text += f" The smallest is on {names[worst]}."
    noisy = [results.transfers[t] for t in gains if _is_noise(results, t)]
    if noisy:
        text += f" Within the spread of the seeds: {', '.join(noisy)}."
    missing = [t for n, t in results.transfers.items() if n not in gains]
    if missing:
        text += f" Not compared yet: {', '.join(missing)}."
    return text


def _is_noise(results: Results, transfer: str) -> bool:
    metric = results.metrics(transfer)[0]
    cells = [results.cell(transfer, s, metric) for s in (results.base, results.main)]
    spreads = [cell.spread for cell in cells if cell and cell.spread is not None]
    gain = abs(results.gains()[transfer])
    return len(spreads) == 2 and gain < sum(s**2 for s in spreads) ** 0.5


def _answer(results: Results, name: str) -> str:
    gains = results.gains()
    seeds = {record.seed for record in results.records if record.source is not None}
    counts = {
        "transfer": len(results.transfers),
        "initialisation": len(results.sources),
        "seed": len(seeds),
    }
    extent = ", ".join(f"{n} {noun}{'s' * (n != 1)}" for noun, n in counts.items())
    parts = [f"<h1>{escape(name)}: transfer</h1>", page.paragraph(extent, "faint")]
    if gains:
        above = sum(gain > 0 for gain in gains.values())
        caption = "rows on which pretraining is above random initialisation"
        parts.append(
            f'<div class="big"><span class="after">{above} of {len(gains)}</span>'
            f"<small>{caption}</small></div>"
        )
    parts.append(page.paragraph(_sentence(results)))
    if gains:
        text = (
            "All initialisations are trained with the same config, data and number of "
            "iterations; only the starting weights differ."
        )
        if len(seeds) == 1:
            text += " One seed: small differences may be chance."
        parts.append(page.paragraph(text, "faint"))
    return page.card(*parts, kind="answer")


def _troubles(results: Results) -> str:
    failed = [
        f"{record.name} {record.status}: {record.state.get('reason') or 'no reason'} "
        f"({Path(record.name, 'chain.log')})"
        for record in results.records
        if record.status in ("failed", "skipped")
    ]
    open_ = [
        record.name
        for record in results.records
        if record.status in ("waiting", "started", "interrupted")
    ]
    if open_:
        failed.append(f"Not finished: {', '.join(open_)}.")
    return page.card(page.items(failed), kind="note") if failed else ""


def _table(results: Results) -> str:
    rows = []
    for transfer, title in results.transfers.items():
        for i, metric in enumerate(results.metrics(transfer)):
            cells = [results.cell(transfer, s, metric) for s in results.sources]
            base = (
                results.cell(transfer, results.base, metric) if results.base else None
            )
            best = max((round(c.mean, 1) for c in cells if c), default=None)
            line = f'<th scope="row">{escape(title)}, {escape(metric)}</th>'
            for source, cell in zip(results.sources, cells, strict=True):
                text = _cell(cell, None if source == results.base else base, best)
                line += f'<td data-label="{escape(source)}">{text}</td>'
            kind = ' class="minor"' if i else ""
            rows.append(f"<tr{kind}>{line}</tr>")
    if not rows:
        return page.section("Results", page.paragraph("No transfer has finished yet."))
    titles = ["Transfer, metric", *results.sources]
    head = "".join(f'<th scope="col">{escape(title)}</th>' for title in titles)
    note = "Metrics in percent, the best of each row in bold."
    if results.base:
        note += f" Coloured: points above or below '{results.base}'."
    if any(
        len(results.of(t, s)) > 1 for t in results.transfers for s in results.sources
    ):
        note += " Mean ± standard deviation over the seeds."
    return page.section(
        "Results",
        page.card(
            f'<table class="stack"><thead><tr>{head}</tr></thead><tbody>',
            *rows,
            "</tbody></table>",
        ),
        page.paragraph(note, "faint"),
    )


def _cell(cell: Cell | None, base: Cell | None, best: float | None) -> str:
    if cell is None:
        return '<span class="faint">none</span>'
    text = escape(str(cell))
    if round(cell.mean, 1) == best:
        text = f"<b>{text}</b>"
    if base is not None:
        gain = cell.minus(base)
        kind = "up" if gain > 0 else "down" if gain < 0 else "faint"
        text += f' <small class="{kind}">{gain:+.1f}</small>'
    return text


def _figures(plots: dict[str, tuple[Figure, str]]) -> str:
    if not plots:
        return ""
    parts = []
    if "comparison" in plots:
        figure, label = plots["comparison"]
        parts.append(
            page.figures([(curves.to_svg(figure, "comparison"), label)], "one")
        )
    shown = [
        (curves.to_svg(figure, name), label)
        for name, (figure, label) in plots.items()
        if name != "comparison"
    ]
    if shown:
        parts.append(page.figures(shown))
    return page.section("Plots", *parts)


def _pictures(results: Results) -> str:
    cards = []
    for transfer, title in results.transfers.items():
        rows = _examples(results, transfer)
        if rows:
            shown = f'<div class="examples">{"".join(rows)}</div>'
            cards.append(page.card(f"<h3>{escape(title)}</h3>", shown))
    if not cards:
        return ""
    text = (
        "The first images of the validation set, not chosen. Boxes are shown from a "
        "score of 0.3 on."
    )
    return page.section("Example predictions", page.paragraph(text, "faint"), *cards)


def _examples(results: Results, transfer: str) -> list[str]:
    """Return rows of ground truth and predictions, as ready HTML."""
    found: dict[str, dict[str, list[Image.Image]]] = {}
    for source in (results.base, results.main):
        for record in results.of(transfer, source or "")[:1]:
            found[source or ""] = _panels(record.folder / "predictions")
    if not found:
        return []
    first = next(iter(found.values()))
    rows = []
    for image in list(first)[:_EXAMPLES]:
        shots: list[str] = []
        for source, panels in found.items():
            if image not in panels:
                continue
            if len(panels[image]) > 1 and not shots:
                shots.append(_shot(panels[image][0], "ground truth", image))
            shots.append(_shot(panels[image][-1], source, image))
        rows.append(f'<div class="shots">{"".join(shots)}</div>')
    return rows


def _panels(folder: Path) -> dict[str, list[Image.Image]]:
    """Return the panels of every picture of a run by the name of its image."""
    try:
        entries: Any = read_json(folder / "index.json")["pictures"]
    except KeyError:
        return {}
    found = {}
    for entry in entries:
        try:
            with Image.open(folder / entry["file"]) as opened:
                picture = opened.convert("RGB")
        except OSError:
            continue
        count, gap = entry["panels"], entry["gap"]
        width = (picture.width - gap * (count - 1)) // count
        starts = [i * (width + gap) for i in range(count)]
        found[entry["image"]] = [
            picture.crop((x, 0, x + width, picture.height)) for x in starts
        ]
    return found


def _shot(picture: Image.Image, caption: str, image: str) -> str:
    picture = picture.copy()
    picture.thumbnail((_SIDE, _SIDE))
    stream = io.BytesIO()
    picture.save(stream, "JPEG", quality=88)
    data = base64.b64encode(stream.getvalue()).decode()
    alt = escape(f"{caption} of {image}")
    return (
        f'<figure><img src="data:image/jpeg;base64,{data}" alt="{alt}" '
        f'width="{picture.width}" height="{picture.height}">'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )


def _pretraining(results: Results) -> str:
    for record in results.records:
        if record.source is None and record.status == "finished":
            parts = []
            if (record.folder / pretraining.REPORT_FILE).is_file():
                parts.append(page.paragraph(pretraining.headline(record.folder)))
                link = f"{record.name}/{pretraining.REPORT_FILE}"
                parts.append(
                    f'<p><a href="{escape(link)}">Report of the pretraining</a></p>'
                )
            metric, value = record.headline
            if not parts and value is not None:
                parts.append(page.paragraph(f"{metric}: {value:.1f}"))
            if parts:
                return page.section("Pretraining", page.card(*parts))
    return ""


def _provenance(results: Results) -> str:
    rows: list[tuple[str, ...]] = []
    shared: dict[tuple[str, str], list[str]] = {}
    for record in results.records:
        if record.status != "finished":
            continue
        result, state = record.result, record.state
        metric, value = record.headline
        memory = result.get("memory_mb")
        of = " (device)" if result.get("memory_of") == "device" else ""
        rows.append(
            (
                record.name,
                "none" if value is None else f"{metric} {value:.2f}",
                page.duration(result["seconds"]),
                f"{memory / 1024:.1f} GiB{of}" if memory else "",
                str(result.get("seed", "")),
                _short(state.get("checkpoint_sha256")) or "random",
                _short(state.get("output_sha256")),
                _short(state.get("config_sha256")),
            )
        )
        versions = ", ".join(f"{n} {v}" for n, v in result.get("versions", {}).items())
        for name, text in (("Versions", versions), ("Device", result.get("device"))):
            shared.setdefault((name, str(text)), []).append(record.name)
    if not rows:
        return ""
    facts = [
        (name, text if len(names) == len(rows) else f"{text} ({', '.join(names)})")
        for (name, text), names in sorted(shared.items())
    ]
    files = ("Started from", "Wrote", "Config")
    note = (
        "The last three columns are the first 8 digits of SHA-256: of checkpoint "
        "files and of the settings that took effect. results.csv has them whole, "
        "configs/ has the settings."
    )
    return page.section(
        "Provenance",
        page.card(
            page.table(("Stage", "Result", "Time", "Memory", "Seed", *files), rows)
        ),
        page.card(page.facts(facts)),
        page.paragraph(note, "faint"),
    )


def _short(digest: str | None) -> str:
    return (digest or "")[:8]


def main(argv: Sequence[str] | None = None) -> int:
    """Make the report of a chain; return the exit code."""
    text = "(Re)make chain.html and the plots of a chain."
    return pretraining.command_line(argv, text, write_chain_report, headline)


if __name__ == "__main__":
    sys.exit(main())
