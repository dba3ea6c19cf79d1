"""One page that says how a pretraining run went: ``report.html``.

    python -m mmssl_ext.visualization.report WORK_DIR

Made from the files in the work directory alone, so also while a run is going and
after it was interrupted. The page needs no network and no JavaScript.
"""

from __future__ import annotations

import argparse
import datetime
import hashlib
import json
import math
import sys
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from html import escape
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from mmssl_ext.files import read_text, write_text
from mmssl_ext.interrupt import explained
from mmssl_ext.text import guard_streams, printable

from . import curves, logs, page
from .page import Section
from .panels import CLUSTERS, COLLAPSE_BELOW, HEALTH, SCHEDULE, Panel, number

REPORT_FILE = "report.html"
UNREADABLE_FILE = "unreadable_images.txt"
PICTURES = "pictures"
"""Folder of what was drawn of the network, see ``LearnedPicturesHook``."""

_PICTURES_LIMIT = 12 << 20  # letters of all pictures on the page


class Run:
    """What a pretraining left in its work directory.

    Attributes:
        work_dir: That directory.
        log: Its scalars.
        facts: What the hook said at its start, empty without.
        figures: Loss and kNN accuracy by the name of their files.

    Raises:
        FileNotFoundError: If ``work_dir`` is not a directory.
    """

    def __init__(self, work_dir: str | Path) -> None:
        self.work_dir = Path(work_dir)
        self.log = logs.read_run(work_dir)
        self.facts = logs.read_facts(work_dir)
        drawn = {
            "loss_curve": curves.loss_figure(self.log, self.facts.get("queue_length")),
            "knn_curve": curves.knn_figure(self.log),
        }
        self.figures = {name: fig for name, fig in drawn.items() if fig is not None}

    @cached_property
    def checkpoints(self) -> list[logs.Checkpoint]:
        """Its newest checkpoint files, newest first."""
        return logs.checkpoints(self.work_dir)

    @property
    def method(self) -> str:
        """Name of the algorithm."""
        return self.facts.get("method") or "Unnamed method"

    @property
    def name(self) -> str:
        """Algorithm and images."""
        dataset = self.facts.get("dataset")
        return f"{self.method} on {dataset}" if dataset else self.method

    def headline(self) -> str:
        """Say in plain words what the run reached."""
        log = self.log
        return _sentence(log, *log.knn_series("backbone"), log.knn_before())


def write_report(work_dir: str | Path) -> Path:
    """Write ``report.html`` and the figures as PNG into ``work_dir``.

    The figures are ``loss_curve.png``, ``knn_curve.png``, ``health.png`` and
    ``clusters.png``, as far as the logs hold what they show.

    Returns:
        The path of the page.

    Raises:
        FileNotFoundError: If ``work_dir`` is not a directory.
    """
    run = Run(work_dir)
    drawn: dict[str, Figure | None] = {
        **run.figures,
        "health": curves.panels_figure(run.log, HEALTH),
        "clusters": curves.panels_figure(run.log, CLUSTERS),
    }
    for name, figure in drawn.items():
        if figure is not None:
            curves.save_png(figure, run.work_dir / f"{name}.png")
    config = Section("Configuration", _config(run), "Config")
    hashes = Section("Checkpoints and hashes", _hashes(run), "Hashes")
    top = answer(run)
    if alarms := alarms_of(run):
        top += "\n" + page.card(page.items(alarms), kind="note")
    end = page.paragraph(
        f"Made {datetime.datetime.now().astimezone():%Y-%m-%d %H:%M %Z} from the "
        f"logs of {len(run.log.sessions)} session(s).",
        "faint",
    )
    path = run.work_dir / REPORT_FILE
    title = f"{run.method}: pretraining report"
    write_text(path, page.page(title, top, [*sections(run), config, hashes], end))
    return path


def headline(work_dir: str | Path) -> str:
    """Say in plain words what the run reached, as the report does on top."""
    return Run(work_dir).headline()


def sections(run: Run) -> tuple[Section, ...]:
    """Return the parts that tell how a pretraining went and what it ran on."""
    found = (
        Section("Curves and kNN accuracy", _curves(run), "Curves, kNN"),
        Section("Health of the embeddings", _health(run.log), "Health"),
        Section("Pseudo-labels", _clusters(run.log)),
        Section("What was learned", _pictures(run.work_dir / PICTURES), "Pictures"),
        Section("The run and its environment", _facts(run), "Environment"),
        Section("Warnings", _warnings(run.work_dir)),
    )
    return tuple(section for section in found if section.body)


def answer(run: Run, level: int = 1) -> str:
    """Return the card that says what came out, with a heading of ``level``."""
    log = run.log
    parts = [
        f'<h{level} class="name">{escape(run.name)}</h{level}>',
        page.paragraph(_extent(log, run.facts), "faint"),
    ]
    scores, before = log.knn_series("backbone")[1], log.knn_before()
    if scores:
        number = f'<span class="after">{scores[-1]:.1f} %</span>'
        if before is not None and len(scores) > 1:
            number = (
                f'<span class="before">{before:.1f} %</span>'
                f'<span class="before" aria-label="to">&rarr;</span>{number}'
            )
        caption = "kNN top-1 on held-out images, frozen backbone"
        if before is not None and len(scores) > 1:
            caption += ", before and after pretraining"
        parts.append(f'<div class="big">{number}<small>{caption}</small></div>')
    parts.append(page.paragraph(run.headline().replace(" %", "\N{NO-BREAK SPACE}%")))
    return page.card(*parts, kind="answer")


def _extent(log: logs.RunLog, facts: dict[str, Any]) -> str:
    if not log.train:
        return "No training step is in the logs."
    steps, per_epoch = log.train[-1]["step"], log.iterations_per_epoch
    planned = facts.get("max_epochs")
    if per_epoch:
        done = int(log.train[-1]["epoch"])
        text = f"{done:,} epoch{'s' * (done != 1)}"
        if planned and done < planned:
            text = f"{done:,} of {planned:,} epochs, not complete"
    else:
        text = f"{steps:,.0f} iterations"
    if facts.get("images"):
        text += f", {facts['images']:,} images"
    return f"{text}, {page.duration(log.seconds())} of training"


def _sentence(
    log: logs.RunLog, epochs: list[float], scores: list[float], before: float | None
) -> str:
    if not scores:
        text = "kNN accuracy was not measured, which needs labelled images"
        losses = [value for value in log.series("loss")[1] if math.isfinite(value)]
        if losses:
            text += f"; the loss went from {losses[0]:.3f} to {losses[-1]:.3f}"
        return text + "."
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
        text += (
            f" The best was {best:.1f} % at epoch {epochs[scores.index(best)]:,.0f}."
        )
    return text + " Labels served this measurement only."


def _curves(run: Run) -> str:
    labels = {
        "loss_curve": ("Training loss", "Training loss over the epochs"),
        "knn_curve": ("kNN accuracy (held-out images)", "kNN accuracy over the epochs"),
    }
    shown = [
        page.figure(labels[name][0], curves.to_svg(figure, name, labels[name][1]))
        for name, figure in run.figures.items()
    ]
    for panel, figure in curves.panel_figures(run.log, SCHEDULE):
        label = f"{panel.title} over the epochs"
        shown.append(page.figure(panel.title, curves.to_svg(figure, panel.key, label)))
    parts = [page.grid(shown)] if shown else []
    if "loss_curve" not in run.figures:
        parts.append(page.paragraph("No loss is in the logs, so there is no curve."))
    elif run.facts.get("queue_length"):
        parts.append(
            page.paragraph(
                "The queue of negatives starts as noise, which is easy to tell apart. "
                "So the instance loss starts below the chance level, rises towards it "
                "while the queue fills with real keys, and only then falls.",
                "faint",
            )
        )
    if "knn_curve" not in run.figures:
        parts.append(
            page.paragraph(
                "There is no kNN curve: the run measured no kNN accuracy (KNNHook, "
                "which needs labelled images)."
            )
        )
    return "\n".join(parts)


def _health(log: logs.RunLog) -> str:
    return _measures(log, HEALTH) or page.paragraph(
        "No health measures are in the logs (CollapseMonitorHook writes them)."
    )


def _clusters(log: logs.RunLog) -> str:
    """Return what there is on pseudo-labels, nothing for a method without them."""
    measures = _measures(log, CLUSTERS)
    if not measures:
        return ""
    text = "Images of one cluster share a pseudo-label: training takes them for alike."
    if log.series("cluster/nmi")[1]:
        text += (
            " True labels serve NMI and purity alone, to judge the clusters by; "
            "training never sees them."
        )
    return page.paragraph(text) + measures


def _measures(log: logs.RunLog, panels: Iterable[Panel]) -> str:
    """Return figures of those measures that are in the log, with their meanings."""
    shown = []
    for panel, figure in curves.panel_figures(log, panels):
        last = [number(log.series(key)[1][-1]) for key in panel.lines.values()]
        shown.append(
            page.figure(
                panel.title,
                curves.to_svg(figure, panel.key, f"{panel.title} over the epochs"),
                page.paragraph(panel.meaning),
                page.paragraph(f"Expected: {panel.expected}.", "faint"),
                value=" / ".join(last),
            )
        )
    return page.grid(shown, "grid rows") if shown else ""


def _pictures(folder: Path) -> str:
    """Return the pictures that the ``index.json`` of a folder lists."""
    index = folder / "index.json"
    if not index.is_file():
        return page.paragraph(
            "No pictures of what was learned were drawn. LearnedPicturesHook draws "
            "them when training ends, tools/visualize.py from any checkpoint."
        )
    try:
        known = json.loads(index.read_text(encoding="utf-8"))
        entries = [dict(entry) for entry in known["pictures"]]
        epoch = known.get("epoch")
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        text = f"{PICTURES}/{index.name} is damaged, so the pictures are not shown."
        return page.paragraph(f"{text} tools/visualize.py draws them anew.")
    cards, left_out, room = [], [], _PICTURES_LIMIT
    for entry in entries:
        file = str(entry.get("file"))
        try:
            if Path(file).name != file:
                raise page.PictureError("is not in that folder")
            data, size = page.embed_file(folder / file)
            if len(data) > room:
                raise page.PictureError("would make this page too large")
        except page.PictureError as error:
            left_out.append(f"{PICTURES}/{file} is left out: it {error}.")
            continue
        room -= len(data)
        title = str(entry.get("title") or entry.get("kind") or file)
        below = page.paragraph(str(entry.get("caption") or ""))
        shown = page.picture(data, size, title)
        cards.append(page.figure(title, shown, below).replace("card", "card paper", 1))
    text = "No picture is listed."
    if cards:
        when = f"Drawn after epoch {epoch}. " if isinstance(epoch, int) else ""
        text = f"{when}Select a picture to see it in full size, and again to go back."
    parts = [page.paragraph(text, "faint"), page.grid(cards, "sheets")]
    if left_out:
        parts.append(page.card(page.items(left_out), kind="note"))
    return "\n".join(parts)


def _facts(run: Run) -> str:
    log, facts = run.log, run.facts
    rows = [("Command", facts.get("command")), ("Config file", facts.get("config"))]
    rows.append(("Seed", facts.get("seed")))
    if facts.get("batch_size"):
        ranks = facts.get("world_size", 1)
        text = f"{facts['batch_size']:,} images on {ranks} process{'es' * (ranks > 1)}"
        rows.append(("Batch", text))
    if facts.get("queue_length"):
        rows.append(("Queue", f"{facts['queue_length']:,} keys"))
    if log.train:
        rows.append(("Training time", page.duration(log.seconds())))
    speeds = sorted(log.series("img_per_s")[1])
    if speeds:
        rows.append(("Speed", f"{speeds[len(speeds) // 2]:,.0f} img/s (median)"))
    waits, times = log.series("data_time")[1], log.series("time")[1]
    if sum(times):
        share = sum(waits) / sum(times)
        rows.append(("Waiting for data", f"{share:.1%} of the step time"))
    memory = log.series("memory")[1]
    if memory:
        rows.append(("Device memory", f"{max(memory) / 1024:.1f} GiB at most"))
    rows += [("Device", facts.get("device")), ("Processes", facts.get("world_size"))]
    rows += [("System", facts.get("system")), ("Last start", facts.get("started"))]
    rows.append(("Versions", versions_line(facts.get("versions"))))
    known = [(name, str(value)) for name, value in rows if value not in (None, "")]
    parts = [page.card(page.facts(known))] if known else []
    if not facts:
        text = "The run left no run.json (ReportHook writes it), so some are missing."
        parts.append(page.paragraph(text))
    return "\n".join(parts)


def versions_line(versions: dict[str, str] | None) -> str:
    """Return names and versions of packages in one line."""
    return ", ".join(f"{name} {text}" for name, text in (versions or {}).items())


def _config(run: Run) -> str:
    text = logs.read_config(run.work_dir)
    if text is None:
        return page.paragraph("No configuration was found in the work directory.")
    digest = hashlib.sha256(text.encode()).hexdigest()
    return page.card(config_text("Show it", text), page.facts([("SHA-256", digest)]))


def config_text(title: str, text: str) -> str:
    """Return a configuration behind a line that opens it."""
    return page.folded(f"{title} ({text.count(chr(10)):,} lines)", page.code(text))


def _hashes(run: Run) -> str:
    files = run.checkpoints
    if not files:
        return page.paragraph("There is no checkpoint file in the work directory.")
    head = ("File", "Size", "Epoch", "SHA-256", "SHA-256 of its config")
    rows = [
        (
            file.path.name,
            f"{file.size / 2**20:,.1f} MiB",
            str(file.manifest.get("epoch", "")),
            file.sha256,
            str(file.manifest.get("config_sha256", "")),
        )
        for file in files
    ]
    kinds = ("number", "", "hash", "hash")
    note = "As the manifest beside each file says; of a file without one, computed now."
    return page.card(page.table(head, rows, kinds)) + page.paragraph(note, "faint")


def alarms_of(run: Run) -> list[str]:
    """Return what a reader has to know before believing the rest of the page."""
    work_dir, log = run.work_dir, run.log
    alarms = []
    if any(not math.isfinite(value) for value in log.series("loss")[1]):
        alarms.append("The loss was not finite in some log lines.")
    spread = log.series("health/std_ratio")[1]
    if spread and spread[-1] < COLLAPSE_BELOW:
        alarms.append(
            f"The embeddings have collapsed: their spread is {spread[-1]:.3f} of an "
            "even one. What the network learnt is hardly of use."
        )
    for level, text, count in logs.read_warnings(work_dir):
        if level != "WARNING":
            alarms.append(f"{level.capitalize()} in the log: {text}{_times(count)}")
    unreadable = work_dir / UNREADABLE_FILE
    if unreadable.is_file():
        count = len(set(read_text(unreadable).split("\n")[:-1]))
        alarms.append(
            f"{count:,} unreadable image{'s' * (count != 1)}, replaced by others and "
            f"listed in {UNREADABLE_FILE}."
        )
    if log.broken_lines:
        alarms.append(
            f"{log.broken_lines} line(s) of the JSON logs could not be read, as when a "
            "run is killed while it writes."
        )
    alarms += [f"{file.problem}." for file in run.checkpoints if file.problem]
    return alarms


def _warnings(work_dir: Path) -> str:
    found = [
        f"{text}{_times(count)}"
        for level, text, count in logs.read_warnings(work_dir)
        if level == "WARNING"
    ]
    if not found:
        return page.paragraph("The log holds no warnings.")
    title = f"{len(found)} warning{'s' * (len(found) > 1)} in the log"
    return page.card(page.folded(title, page.items(found)))


def _times(count: int) -> str:
    return f" ({count} times)" if count > 1 else ""


@explained
def command_line(
    argv: Sequence[str] | None,
    description: str,
    write: Callable[[str], Path],
    headline: Callable[[str], str],
) -> int:
    """Write the report of the folder named on the command line; return the exit code.

    Args:
        argv: Arguments; None takes the process's.
        description: Of the command.
        write: Writes the report of a folder.
        headline: Says what is on top of it.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("work_dir", help="work dir of the run or chain")
    args = parser.parse_args(argv)
    guard_streams()
    try:
        path = write(args.work_dir)
        print(printable(f"{headline(args.work_dir)}\nReport: {path}"))
    except FileNotFoundError as error:
        print(printable(str(error)), file=sys.stderr)
        return 1
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Make the report of a pretraining run; return the exit code."""
    text = "(Re)make report.html and the figures of a pretraining run."
    return command_line(argv, text, write_report, headline)


if __name__ == "__main__":
    sys.exit(main())
