"""The one page of a chain, from pretraining to transfer: ``chain.html``.

    python -m mmssl_ext.chain.report WORK_DIR

Made from the files in the work dir of a chain alone, so also while it is going and
after some stages failed. The page needs no network and no JavaScript.
"""

from __future__ import annotations

import datetime
import sys
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from PIL import Image

from mmssl_ext.files import write_text
from mmssl_ext.visualization import curves, page
from mmssl_ext.visualization import report as pretraining
from mmssl_ext.visualization.page import Section
from mmssl_ext.visualization.report import Run

from . import plots as chain_plots
from .data import Cell, Results
from .results import Record, read_json

PAGE_FILE, PLOTS = "chain.html", "plots"

_SIDE, _EXAMPLES = 320, 4  # pixels of a picture; images per transfer
_OPEN = 12  # rows of a table that is shown without asking
_CSS = """<style>
.up { color: var(--green); } .down { color: var(--orange); }
td small { font-weight: 400; white-space: nowrap; font-size: .82rem; }
.short tbody th { color: var(--ink); }
.short .minor > * { font-size: .9rem; padding-top: .2rem; color: var(--faint); }
@media (min-width: 40.01rem) { .minor th { padding-left: 1.2rem; } }
@media (max-width: 40rem) { .stack .minor { padding-top: 0; }
  .stack .minor th { display: inline-block; min-width: 5rem; margin-right: .9rem;
    font-weight: 500; } }
tr:has(+ .minor) > * { border-bottom: 0; }
tr:has(+ .minor) { border-bottom: 0; }
.shots { display: grid; gap: .5rem; }
.shots figcaption { font-size: .82rem; font-weight: 400; color: var(--faint);
  line-height: 1.3; margin-top: .15rem; }
.examples { display: grid; gap: 1rem 2rem;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 26rem), 1fr)); }
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
    record = next((r for r in results.records if r.source is None), None)
    run = Run(record.folder) if record and record.folder.is_dir() else None
    sections = (
        Section("Results", _table(results), "Transfer"),
        Section("Plots", _figures(plots)),
        Section("Example predictions", _pictures(results), "Predictions"),
        _pretraining(results, run),
        Section("Stages and their environment", _stages(results), "Stages"),
        Section("Configurations", _configs(results), "Configs"),
        Section("SHA-256 of all files", _hashes(results), "Hashes"),
    )
    end = page.paragraph(
        f"Made {datetime.datetime.now().astimezone():%Y-%m-%d %H:%M %Z} from "
        f"{chain}; results.csv beside this page holds the figures.",
        "faint",
    )
    top = _CSS + _answer(results, Path(chain).stem) + _troubles(results, run)
    path = results.work_dir / PAGE_FILE
    title = f"{Path(chain).stem}: transfer report"
    write_text(path, page.page(title, top, sections, end))
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
    parts = [
        f"<h1>{escape(name)}: transfer report</h1>",
        page.paragraph(extent, "faint"),
    ]
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


def _troubles(results: Results, run: Run | None) -> str:
    failed = [
        f"Pretraining: {alarm}" for alarm in (pretraining.alarms_of(run) if run else ())
    ]
    failed += [
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
            name = metric if i else f"{title}, {metric}"
            line = f'<th scope="row">{escape(name)}</th>'
            for source, cell in zip(results.sources, cells, strict=True):
                text = _cell(cell, None if source == results.base else base, best)
                line += f'<td data-label="{escape(source)}">{text}</td>'
            kind = ' class="minor"' if i else ""
            rows.append(f"<tr{kind}>{line}</tr>")
    if not rows:
        return page.paragraph("No transfer has finished yet.")
    titles = ["Transfer, metric", *results.sources]
    head = "".join(f'<th scope="col">{escape(title)}</th>' for title in titles)
    note = "Metrics in percent, the best of each row in bold."
    if results.base:
        note += f" Coloured: points above or below '{results.base}'."
    if any(
        len(results.of(t, s)) > 1 for t in results.transfers for s in results.sources
    ):
        note += " Mean ± standard deviation over the seeds."
    table = page.card(
        f'<table class="stack short"><thead><tr>{head}</tr></thead><tbody>',
        *rows,
        "</tbody></table>",
    )
    return table + page.paragraph(note, "faint")


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
        return page.paragraph(
            "There is nothing to plot before a transfer has finished."
        )
    shown = []
    for name, (figure, label) in plots.items():
        title = figure.axes[0].get_title("left")
        shown.append(page.figure(title, curves.to_svg(figure, name, label)))
    text = (
        "Headline metrics of all initialisations, a mark per seed, and learning curves "
        "of the transfers that were validated more than once."
    )
    return page.paragraph(text, "faint") + page.grid(shown)


def _pictures(results: Results) -> str:
    cards = []
    for transfer, title in results.transfers.items():
        rows = _examples(results, transfer)
        if rows:
            shown = f'<div class="examples">{"".join(rows)}</div>'
            cards.append(page.card(f"<h4>{escape(title)}</h4>", shown))
    if not cards:
        return page.paragraph(
            "No transfer has drawn predictions (PicturesHook draws them: boxes, masks "
            "and maps, so not those of a classification)."
        )
    text = (
        "The first images of the validation set, not chosen. Boxes are shown from a "
        "score of 0.3 on. Select a picture to enlarge it, and again to go back."
    )
    return "\n".join([page.paragraph(text, "faint"), *cards])


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
        columns = f"grid-template-columns: repeat({max(len(shots), 2)}, 1fr)"
        rows.append(f'<div class="shots" style="{columns}">{"".join(shots)}</div>')
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
    shown = page.picture(page.embed(picture), picture.size, f"{caption} of {image}")
    return f"<figure>{shown}<figcaption>{escape(caption)}</figcaption></figure>"


def _pretraining(results: Results, run: Run | None) -> Section:
    if run is not None:
        body = pretraining.answer(run, level=3)
        alone = f"{run.work_dir.name}/{pretraining.REPORT_FILE}"
        if Path(results.work_dir, alone).is_file():
            text = f"{alone} is the page of the pretraining alone."
            body += page.paragraph(text, "faint")
        return Section("Pretraining", body, inner=pretraining.sections(run))
    given = [f"'{name}'" for name in results.sources if name != results.base]
    text = "This chain pretrains nothing itself"
    if given:
        text += f"; it starts from given checkpoints, {', '.join(given)}"
    return Section("Pretraining", page.paragraph(f"{text}."))


def _stages(results: Results) -> str:
    rows: list[tuple[str, ...]] = []
    shared: dict[tuple[str, str], list[Record]] = {}
    for record in results.records:
        if record.status != "finished":
            continue
        result = record.result
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
                _loaded(record),
            )
        )
        known = [("Device", result.get("device"))]
        known.append(("Processes", result.get("world_size")))
        versions = result.get("versions") or {}
        known += [("Versions", f"{name} {text}") for name, text in versions.items()]
        for name, text in known:
            shared.setdefault((name, str(text or "unknown")), []).append(record)
    if not rows:
        return page.paragraph("No stage has finished yet.")
    facts: dict[str, list[str]] = {}
    for (name, text), records in shared.items():
        where = f" ({_names(records, results)})" if len(records) < len(rows) else ""
        facts.setdefault(name, []).append(text + where)
    head = ("Stage", "Result", "Time", "Memory", "Seed", "Weights loaded")
    table = page.table(head, rows, short=True)
    note = "Weights loaded: tensors of the backbone that came from the checkpoint."
    environment = page.facts((name, ", ".join(texts)) for name, texts in facts.items())
    return "\n".join(
        [page.card(table), page.paragraph(note, "faint"), page.card(environment)]
    )


def _names(records: list[Record], results: Results) -> str:
    """Name stages, or their transfer where they are all that finished of it."""
    names = []
    for transfer in dict.fromkeys(record.transfer for record in records):
        some = [r.name for r in records if r.transfer == transfer]
        names += [transfer] if len(some) == len(results.of(transfer)) else some
    return ", ".join(names)


def _loaded(record: Record) -> str:
    """Say how much of the backbone a stage started from."""
    found = record.result.get("handover")
    if not isinstance(found, dict) or "matched" not in found:
        return "random" if record.scratch else ""
    needed = found["matched"] + found.get("missing", 0) + found.get("mismatched", 0)
    return f"{found['matched']} of {needed}"


def _configs(results: Results) -> str:
    """Return the configuration of the pretraining and one of every transfer."""
    shown: dict[str, str] = {}
    for record in results.records:
        path = results.work_dir / "configs" / f"{record.name}.py"
        if record.transfer in shown or not path.is_file():
            continue
        text = path.read_text(encoding="utf-8", errors="replace")
        origin = record.state.get("config")
        title = f"{record.name}, from {origin}" if origin else record.name
        shown[record.transfer] = pretraining.config_text(title, text)
    if not shown:
        return page.paragraph("The folder configs/ of this chain holds none.")
    note = (
        "With all options applied. The stages of a transfer differ in their checkpoint "
        "and seed alone, so the first of each stands for all; configs/ has every one."
    )
    return page.paragraph(note, "faint") + page.card(*shown.values())


def _hashes(results: Results) -> str:
    rows = [
        (
            record.name,
            record.state.get("checkpoint_sha256") or _start(record),
            record.state.get("output_sha256") or "",
            record.state.get("config_sha256") or "",
        )
        for record in results.records
        if record.status == "finished"
    ]
    if not rows:
        return page.paragraph("No stage has finished yet.")
    head = ("Stage", "Started from", "Wrote", "Config")
    table = page.table(head, rows, ["hash"] * 3)
    if len(rows) > _OPEN:
        table = page.folded(f"{len(rows)} stages", table)
    note = (
        "Of the checkpoint files, and of the settings that took effect, a line each as "
        "stage.json lists them. results.csv has the same."
    )
    return page.card(table) + page.paragraph(note, "faint")


def _start(record: Record) -> str:
    return "random" if record.scratch or record.source is None else ""


def main(argv: Sequence[str] | None = None) -> int:
    """Make the report of a chain; return the exit code."""
    text = "(Re)make chain.html and the plots of a chain."
    return pretraining.command_line(argv, text, write_chain_report, headline)


if __name__ == "__main__":
    sys.exit(main())
