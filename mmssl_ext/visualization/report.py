"""One page that says how a pretraining run went: ``report.html``.

    python -m mmssl_ext.visualization.report WORK_DIR

Made from the files in the work directory alone, so also while a run is going and
after it was interrupted. The page needs no network and no JavaScript.
"""

from __future__ import annotations

import argparse
import hashlib
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from mmssl_ext.files import read_json, read_text
from mmssl_ext.interrupt import explained
from mmssl_ext.text import guard_streams, printable

from . import logs, page
from .logs import RunLog
from .panels import CLASSES, CLUSTERS, COLLAPSE_BELOW, HEALTH, SCHEDULE
from .verdict import verdict, wrong_codes

REPORT_FILE = "report.html"
UNREADABLE_FILE = "unreadable_images.txt"
PICTURES = "pictures"
"""Folder of what was drawn of the network, see ``LearnedPicturesHook``."""

_PICTURES_LIMIT = 12 << 20  # letters of all pictures on the page


class Run:
    """What a pretraining left in its work directory, as the page tells it.

    Raises:
        FileNotFoundError: If ``work_dir`` is not a directory.
    """

    def __init__(self, work_dir: str | Path) -> None:
        from . import curves  # matplotlib: --help goes without it

        self.work_dir = Path(work_dir)
        self.log = log = logs.read_run(work_dir)
        self.facts = facts = logs.read_facts(work_dir)
        self.method = facts.get("method") or "Unnamed method"
        dataset = facts.get("dataset")
        self.name = f"{self.method} on {dataset}" if dataset else self.method
        self.extent = _extent(log, facts)
        scores = log.knn_series("backbone")[1]  # in percent
        self.after = scores[-1] if scores else None
        self.before = log.knn_before() if len(scores) > 1 else None
        self.headline = _sentence(log)
        drawn = {
            "loss_curve": curves.loss_figure(log, facts.get("queue_length")),
            "knn_curve": curves.knn_figure(log),
        }
        self.figures = {name: fig for name, fig in drawn.items() if fig is not None}
        self.charts = [curves.chart(fig, name) for name, fig in self.figures.items()]
        self.charts += curves.panel_charts(log, (*CLASSES, *SCHEDULE))
        self.health = curves.panel_charts(log, HEALTH)
        self.clusters = curves.panel_charts(log, CLUSTERS)
        self.environment = _environment(log, facts)
        self.messages: dict[str, list[str]] = {}
        for level, text, count in logs.read_warnings(work_dir):
            times = f" ({count} times)" if count > 1 else ""
            self.messages.setdefault(level, []).append(f"{text}{times}")
        self.checkpoints = logs.checkpoints(work_dir)
        self.alarms = list(_alarms(self))  # to be known before the rest is believed
        self.config = logs.read_config(work_dir)
        self.gallery = _gallery(self.work_dir / PICTURES)


def _extent(log: RunLog, facts: dict[str, Any]) -> str:
    if not log.train:
        return "No training step is in the logs."
    text = f"{log.train[-1]['step']:,.0f} iterations"
    if log.iterations_per_epoch:
        done, planned = int(log.train[-1]["epoch"]), facts.get("max_epochs")
        text = f"{done:,} epoch{'s' * (done != 1)}"
        if planned and done < planned:
            text = f"{done:,} of {planned:,} epochs, not complete"
    images = f", {facts['images']:,} images" if facts.get("images") else ""
    return f"{text}{images}, {page.duration(log.seconds())} of training"


def _sentence(log: RunLog) -> str:
    epochs, scores = log.knn_series("backbone")
    before = log.knn_before()
    if not scores:
        text = "kNN accuracy was not measured, which needs labelled images."
        judged = verdict(log)
        return f"{judged} {text}" if judged else text
    last, best = scores[-1], max(scores)
    if before is not None and len(scores) == 1:
        return (
            f"Before training, the nearest neighbours name {last:.1f} % of held-out "
            "images rightly; no later measurement is in the logs yet."
        )
    text = (
        f"After {epochs[-1]:,.0f} epochs without labels, the nearest neighbours of a "
        f"held-out image name its class rightly in {last:.1f} % of cases"
    )
    if before is not None:
        change = round(last, 1) - round(before, 1)  # of the figures as shown
        gap = f"{abs(change):.1f} points {'above' if change > 0 else 'BELOW'}"
        text += f", {gap if change else 'level with'} the start ({before:.1f} %)"
    text += "."
    if best > last + 0.1:
        epoch = epochs[scores.index(best)]
        text += f" The best was {best:.1f} % at epoch {epoch:,.0f}."
    return f"{text} Labels served this measurement only."


def _environment(log: RunLog, facts: dict[str, Any]) -> dict[str, str]:
    ranks, size = facts.get("world_size", 1), facts.get("batch_size")
    queue, memory = facts.get("queue_length"), log.series("memory")[1]
    speeds = sorted(log.series("img_per_s")[1])
    waits, times = sum(log.series("data_time")[1]), sum(log.series("time")[1])
    versions = facts.get("versions") or {}
    processes = f"process{'es' * (ranks > 1)}"
    rows = {
        "Command": facts.get("command"),
        "Config file": facts.get("config"),
        "Seed": "" if facts.get("seed") is None else str(facts["seed"]),
        "Batch": size and f"{size:,} images on {ranks} {processes}",
        "Queue": queue and f"{queue:,} keys",
        "Training time": log.train and page.duration(log.seconds()),
        "Speed": speeds and f"{speeds[len(speeds) // 2]:,.0f} img/s (median)",
        "Waiting for data": times and f"{waits / times:.1%} of the step time",
        "Device memory": memory and f"{max(memory) / 1024:.1f} GiB at most",
        "Device": facts.get("device"),
        "Processes": facts.get("world_size"),
        "System": facts.get("system"),
        "Last start": facts.get("started"),
        "Versions": ", ".join(f"{name} {text}" for name, text in versions.items()),
    }
    return {name: str(value) for name, value in rows.items() if value}


def _alarms(run: Run) -> Iterator[str]:
    if any(not math.isfinite(value) for value in run.log.series("loss")[1]):
        yield "The loss was not finite in some log lines."
    spread = run.log.series("health/std_ratio")[1]
    if spread and spread[-1] < COLLAPSE_BELOW:
        yield (
            f"The embeddings have collapsed: their spread is {spread[-1]:.3f} of an "
            "even one. What the network learnt is hardly of use."
        )
    if wrong := wrong_codes(run.log):
        yield wrong
    for level, texts in run.messages.items():
        if level != "WARNING":
            yield from (f"{level.capitalize()} in the log: {text}" for text in texts)
    unreadable = run.work_dir / UNREADABLE_FILE
    if unreadable.is_file():
        count = len(set(read_text(unreadable).split("\n")[:-1]))
        yield (
            f"{count:,} unreadable image{'s' * (count != 1)}, replaced by others and "
            f"listed in {UNREADABLE_FILE}."
        )
    if run.log.broken_lines:
        yield (
            f"{run.log.broken_lines} line(s) of the JSON logs could not be read, as "
            "when a run is killed while it writes."
        )
    yield from (f"{file.problem}." for file in run.checkpoints if file.problem)


def _gallery(folder: Path) -> dict[str, Any] | None:
    """Return the pictures that the ``index.json`` of a folder lists, if it is there.

    "shown" are picture, title and caption of each, "left_out" sentences on the others.
    """
    if not (folder / "index.json").is_file():
        return None
    known = read_json(folder / "index.json")
    entries, epoch = known.get("pictures"), known.get("epoch")
    shown: list[tuple[page.Picture, str, str]] = []
    left_out, room = [], _PICTURES_LIMIT
    text = f"Drawn after epoch {epoch}. " if isinstance(epoch, int) else ""
    text += "Select a picture to see it in full size, and again to go back."
    if entries == []:
        text = "No picture is listed."
    elif not isinstance(entries, list) or not all(isinstance(e, dict) for e in entries):
        text, entries = f"{PICTURES}/index.json is damaged: draw the pictures anew.", []
    for entry in entries:
        file = str(entry.get("file"))
        try:
            picture = page.embed_file(folder, file)
            if len(picture.data) > room:
                raise page.PictureError("would make this page too large")
        except page.PictureError as error:
            left_out.append(f"{PICTURES}/{file} is left out: it {error}.")
            continue
        room -= len(picture.data)
        title = str(entry.get("title") or entry.get("kind") or file)
        shown.append((picture, title, str(entry.get("caption") or "")))
    return {"summary": text, "shown": shown, "left_out": left_out}


def write_report(work_dir: str | Path) -> Path:
    """Write ``report.html`` and the figures as PNG into ``work_dir``.

    The figures are ``loss_curve.png``, ``knn_curve.png``, ``health.png`` and
    ``clusters.png``, as far as the logs hold what they show.

    Returns:
        The path of the page.

    Raises:
        FileNotFoundError: If ``work_dir`` is not a directory.
    """
    from . import curves

    run = Run(work_dir)
    panels = {"health": HEALTH, "clusters": CLUSTERS}
    drawn = {name: curves.panels_figure(run.log, some) for name, some in panels.items()}
    curves.save_pngs(run.figures | drawn, run.work_dir)
    digest = hashlib.sha256((run.config or "").encode()).hexdigest()
    path = run.work_dir / REPORT_FILE
    return page.write_page(path, "report.html", run=run, config_sha256=digest)


def headline(work_dir: str | Path) -> str:
    """Say in plain words what the run reached, as the report does on top."""
    return _sentence(logs.read_run(work_dir))


@explained
def command_line(
    argv: Sequence[str] | None,
    description: str,
    write: Callable[[str], Path],
    headline: Callable[[str], str],
) -> int:
    """Write the report of the folder on the command line, and say what is on top."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("work_dir", help="work dir of the run or chain")
    args = parser.parse_args(argv)
    guard_streams()
    try:
        path = write(args.work_dir)
        print(printable(f"{headline(args.work_dir)}\nReport: {path}"))
    except FileNotFoundError as error:
        print(printable(str(error)), file=sys.stderr)
        return 2
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Make the report of a pretraining run; return the exit code."""
    text = "(Re)make report.html and the figures of a pretraining run."
    return command_line(argv, text, write_report, headline)


if __name__ == "__main__":
    sys.exit(main())
