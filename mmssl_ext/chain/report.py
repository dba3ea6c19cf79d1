"""The one page of a chain, from pretraining to transfer: ``chain.html``.

    python -m mmssl_ext.chain.report WORK_DIR

Made from the files in the work dir of a chain alone, so also while it is going and
after some stages failed. The page needs no network and no JavaScript.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from mmssl_ext.visualization import curves, page
from mmssl_ext.visualization.predictions import FOLDER, read_panels
from mmssl_ext.visualization.report import REPORT_FILE, Run, command_line

from .data import Results
from .plots import draw
from .results import Record, read_json

PAGE_FILE, PLOTS = "chain.html", "plots"

_SIDE, _EXAMPLES = 320, 4  # pixels of a picture; images per transfer
_RELOAD = 20  # seconds after which a browser reads the page of a chain under way again


def write_chain_report(work_dir: str | Path, going: bool = False) -> Path:
    """Write ``chain.html``, and its plots as PNG to ``plots/``.

    Args:
        work_dir: Of the chain.
        going: Stages are running: a browser that shows the page reads it anew from
            time to time.

    Returns:
        The path of the page.

    Raises:
        FileNotFoundError: No chain ran in ``work_dir``.
    """
    results = Results(work_dir)
    plots = draw(results)
    curves.save_pngs(plots, results.work_dir / PLOTS)
    record = next((r for r in results.records if r.source is None), None)
    run = Run(record.folder) if record and record.folder.is_dir() else None
    examples = {t: _examples(results, t) for t in results.transfers}
    known = read_json(results.work_dir / "chain.json")
    chain = str(known.get("chain", "chain"))
    return page.write_page(
        results.work_dir / PAGE_FILE,
        "chain.html",
        name=Path(chain).stem,
        chain=chain,
        note=str(known.get("note") or ""),
        reload=_RELOAD if going else None,
        results=results,
        run=run,
        has_page=run is not None and (run.work_dir / REPORT_FILE).is_file(),
        headline=_sentence(results),
        troubles=_troubles(results, run),
        plots=[curves.chart(figure, name) for name, figure in plots.items()],
        examples={results.transfers[t]: rows for t, rows in examples.items() if rows},
        environment=_environment(results),
        configs=_configs(results),
    )


def headline(work_dir: str | Path) -> str:
    """Say in plain words what pretraining was worth, as the report does on top."""
    return _sentence(Results(work_dir))


def _sentence(results: Results) -> str:
    gains, titles = results.gains, results.transfers
    if not gains:
        done = f"{len(results.finished)} of {len(results.records)} stages have finished"
        pair = "pair of pretrained and random initialisation"
        return f"{done}; there is no {pair} to compare yet."
    above = sum(gain > 0 for gain in gains.values())
    best, worst = (choose(gains, key=lambda n: gains[n]) for choose in (max, min))
    named = {n: f"{titles[n]} ({gain:+.1f})" for n, gain in gains.items()}
    cells = {n: results.headlines[n].cells[results.main or ""] for n in gains}
    noisy = [titles[n] for n, cell in cells.items() if cell and cell.is_noise]
    said = {
        "The largest gain is on": [named[best]] if above else [],
        "BELOW random initialisation:": [named[n] for n in gains if gains[n] < 0],
        "Level with it:": [titles[n] for n in gains if gains[n] == 0],
        "The smallest is on": [named[worst]] if above == len(gains) > 1 else [],
        "Within the spread of the seeds:": noisy,
        "Not compared yet:": [titles[n] for n in titles if n not in gains],
    }
    text = f"On {above} of {len(gains)} rows, '{results.main}' is above random"
    text += " initialisation."
    for start, names in said.items():
        text += f" {start} {', '.join(names)}." if names else ""
    return text


def _troubles(results: Results, run: Run | None) -> list[str]:
    """Say what went wrong, and what is not finished."""
    found = [f"Pretraining: {alarm}" for alarm in (run.alarms if run else ())]
    unfinished = []
    for record in results.records:
        if record.status in ("failed", "skipped"):
            reason = record.state.get("reason") or "no reason"
            log = Path(record.name, "chain.log")
            found.append(f"{record.name} {record.status}: {reason} ({log})")
        elif record.status != "finished":
            unfinished.append(record.name)
    return found + [f"Not finished: {', '.join(unfinished)}."] * bool(unfinished)


def _examples(
    results: Results, transfer: str
) -> dict[str, list[tuple[str, page.Picture]]]:
    """Return captions and pictures, ground truth first, by the name of the image."""
    found: dict[str, dict[str, list[Image.Image]]] = {}
    for source in filter(None, (results.base, results.main)):
        for record in results.of(transfer, source)[:1]:
            found[source] = read_panels(record.folder / FOLDER)
    rows = {}
    for image in list(next(iter(found.values()), ()))[:_EXAMPLES]:
        known = [(name, some[image]) for name, some in found.items() if image in some]
        truths = [panels[0] for _, panels in known if len(panels) > 1]
        shots = [("ground truth", truth) for truth in truths[:1]]
        shots += [(source, panels[-1]) for source, panels in known]
        for _, shot in shots:
            shot.thumbnail((_SIDE, _SIDE))
        rows[image] = [(caption, page.embed(shot)) for caption, shot in shots]
    return rows


def _environment(results: Results) -> dict[str, str]:
    """Return devices, processes and versions, with their stages where they differ."""
    found: dict[tuple[str, str], list[Record]] = {}
    for record in results.finished:
        result = record.result
        versions = result.get("versions") or {}
        known = {
            "Device": [str(result.get("device") or "unknown")],
            "Processes": [str(result.get("world_size") or "unknown")],
            "Versions": [f"{name} {text}" for name, text in versions.items()],
        }
        for name, texts in known.items():
            for text in texts:
                found.setdefault((name, text), []).append(record)
    facts: dict[str, list[str]] = {}
    for (name, text), records in found.items():
        if len(records) < len(results.finished):
            text += f" ({_names(records, results)})"
        facts.setdefault(name, []).append(text)
    return {name: ", ".join(texts) for name, texts in facts.items()}


def _names(records: list[Record], results: Results) -> str:
    """Name stages, or their transfer where they are all that finished of it."""
    names = []
    for transfer in dict.fromkeys(record.transfer for record in records):
        some = [r.name for r in records if r.transfer == transfer]
        names += [transfer] if len(some) == len(results.of(transfer)) else some
    return ", ".join(names)


def _configs(results: Results) -> dict[str, str]:
    """Return the configuration of the pretraining and one of every transfer."""
    shown: dict[str, tuple[str, str]] = {}
    for record in results.records:
        path = results.work_dir / "configs" / f"{record.name}.py"
        if record.transfer not in shown and path.is_file():
            text = path.read_text(encoding="utf-8", errors="replace")
            origin = record.state.get("config")
            title = f"{record.name}, from {origin}" if origin else record.name
            shown[record.transfer] = title, text
    return dict(shown.values())


def main(argv: Sequence[str] | None = None) -> int:
    """Make the report of a chain; return the exit code."""
    text = "(Re)make chain.html and the plots of a chain."
    return command_line(argv, text, write_chain_report, headline)


if __name__ == "__main__":
    sys.exit(main())
