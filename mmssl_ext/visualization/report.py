"""One page that says how a pretraining run went: ``report.html``.

    python -m mmssl_ext.visualization.report WORK_DIR

Made from the files in the work directory alone, so also while a run is going and
after it was interrupted. The page needs no network and no JavaScript.
"""

from __future__ import annotations

import argparse
import datetime
import math
import sys
from collections.abc import Callable, Iterable, Sequence
from html import escape
from pathlib import Path
from typing import Any

from mmssl_ext.files import write_text

from . import curves, logs, page
from .panels import CLUSTERS, COLLAPSE_BELOW, HEALTH, Panel, number

REPORT_FILE = "report.html"
UNREADABLE_FILE = "unreadable_images.txt"


def write_report(work_dir: str | Path) -> Path:
    """Write ``report.html`` and the figures as PNG into ``work_dir``.

    The figures are ``loss_curve.png``, ``knn_curve.png``, ``health.png`` and
    ``clusters.png``, as far as the logs hold what they show.

    Returns:
        The path of the page.

    Raises:
        FileNotFoundError: If ``work_dir`` is not a directory.
    """
    work_dir = Path(work_dir)
    log, facts = logs.read_run(work_dir), logs.read_facts(work_dir)
    drawn = {
        "loss_curve": curves.loss_figure(log, facts.get("queue_length")),
        "knn_curve": curves.knn_figure(log),
        "health": curves.panels_figure(log, HEALTH),
        "clusters": curves.panels_figure(log, CLUSTERS),
    }
    for name, figure in drawn.items():
        if figure is not None:
            curves.save_png(figure, work_dir / f"{name}.png")
    config = logs.read_config(work_dir)
    body = [
        _answer(log, facts, _alarms(work_dir, log)),
        _curves(drawn, facts),
        _health(log),
        _clusters(log),
        _facts(log, facts),
        _checkpoints(work_dir),
        _warnings(work_dir),
        page.section(
            "Configuration",
            page.card(page.folded("Show it", page.code(config)))
            if config
            else page.paragraph("No configuration was found in the work directory."),
        ),
        page.paragraph(
            f"Made {datetime.datetime.now().astimezone():%Y-%m-%d %H:%M %Z} from the "
            f"logs of {len(log.sessions)} session(s).",
            "faint",
        ),
    ]
    title = f"{_method(facts)}: pretraining report"
    path = work_dir / REPORT_FILE
    write_text(path, page.page(title, body))
    return path


def headline(work_dir: str | Path) -> str:
    """Say in plain words what the run reached, as the report does on top."""
    log = logs.read_run(Path(work_dir))
    return _sentence(log, *log.knn_series("backbone"), log.knn_before())


def _method(facts: dict[str, Any]) -> str:
    return facts.get("method") or "Unnamed method"


def _answer(log: logs.RunLog, facts: dict[str, Any], alarms: list[str]) -> str:
    dataset = facts.get("dataset")
    name = f"{_method(facts)} on {dataset}" if dataset else _method(facts)
    parts = [f"<h1>{escape(name)}</h1>", page.paragraph(_extent(log, facts), "faint")]
    epochs, scores = log.knn_series("backbone")
    before = log.knn_before()
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
    sentence = _sentence(log, epochs, scores, before)
    parts.append(page.paragraph(sentence.replace(" %", "\N{NO-BREAK SPACE}%")))
    answer = page.card(*parts, kind="answer")
    if alarms:
        answer += "\n" + page.card(page.items(alarms), kind="note")
    return answer


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


def _curves(drawn: dict[str, Any], facts: dict[str, Any]) -> str:
    labels = {
        "loss_curve": "Training loss over the epochs",
        "knn_curve": "kNN accuracy over the epochs",
    }
    shown = [
        (curves.to_svg(drawn[name], name), label)
        for name, label in labels.items()
        if drawn[name] is not None
    ]
    parts = [page.figures(shown)] if shown else []
    if drawn["loss_curve"] is not None and facts.get("queue_length"):
        parts.append(
            page.paragraph(
                "The queue of negatives starts as noise, which is easy to tell apart. "
                "So the instance loss starts below the chance level, rises towards it "
                "while the queue fills with real keys, and only then falls.",
                "faint",
            )
        )
    if drawn["loss_curve"] is None:
        parts.append(page.paragraph("No loss is in the logs, so there is no curve."))
    elif drawn["knn_curve"] is None:
        parts.append(
            page.paragraph(
                "There is no kNN curve: the run measured no kNN accuracy (KNNHook, "
                "which needs labelled images)."
            )
        )
    return page.section("Curves", *parts)


def _health(log: logs.RunLog) -> str:
    parts = _measures(log, HEALTH)
    if not parts:
        text = "No health measures are in the logs (CollapseMonitorHook writes them)."
        parts = [page.paragraph(text)]
    return page.section("Health of the embeddings", *parts)


def _clusters(log: logs.RunLog) -> str:
    """Return the section on pseudo-labels, or nothing for a method without them."""
    parts = _measures(log, CLUSTERS)
    if not parts:
        return ""
    text = "Images of one cluster share a pseudo-label: training takes them for alike."
    if log.series("cluster/nmi")[1]:
        text += (
            " True labels serve NMI and purity alone, to judge the clusters by; "
            "training never sees them."
        )
    return page.section("Pseudo-labels", page.paragraph(text), *parts)


def _measures(log: logs.RunLog, panels: Iterable[Panel]) -> list[str]:
    """Return small figures and a table of those measures that are in the log."""
    svgs, rows = [], []
    for panel, figure in curves.panel_figures(log, panels):
        svgs.append((curves.to_svg(figure, panel.key), panel.title))
        last = [number(log.series(key)[1][-1]) for key in panel.lines.values()]
        rows.append((panel.title, " / ".join(last), panel.expected, panel.meaning))
    if not svgs:
        return []
    head = ("Measure", "Last value", "Expected", "Meaning")
    return [page.figures(svgs, "small"), page.card(page.table(head, rows))]


def _facts(log: logs.RunLog, facts: dict[str, Any]) -> str:
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
    rows += [("Device", facts.get("device")), ("Last start", facts.get("started"))]
    versions = facts.get("versions") or {}
    if versions:
        text = ", ".join(f"{name} {number}" for name, number in versions.items())
        rows.append(("Versions", text))
    known = [(name, str(value)) for name, value in rows if value is not None]
    parts = [page.card(page.facts(known))] if known else []
    if not facts:
        text = "The run left no run.json (ReportHook writes it), so some are missing."
        parts.append(page.paragraph(text))
    return page.section("Facts of the run", *parts)


def _checkpoints(work_dir: Path) -> str:
    files = logs.checkpoints(work_dir)
    if not files:
        text = "There is no checkpoint file in the work directory."
        return page.section("Checkpoints", page.paragraph(text))
    rows = [
        (path.name, f"{size / 2**20:,.1f} MiB", digest) for path, size, digest in files
    ]
    table = page.table(("File", "Size", "SHA-256"), rows)
    return page.section("Checkpoints", page.card(table))


def _alarms(work_dir: Path, log: logs.RunLog) -> list[str]:
    """Return what a reader has to know before believing the rest of the page."""
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
        count = len(set(unreadable.read_text(encoding="utf-8").splitlines()))
        alarms.append(
            f"{count:,} unreadable image{'s' * (count != 1)}, replaced by others and "
            f"listed in {UNREADABLE_FILE}."
        )
    if log.broken_lines:
        alarms.append(
            f"{log.broken_lines} line(s) of the JSON logs could not be read, as when a "
            "run is killed while it writes."
        )
    return alarms


def _warnings(work_dir: Path) -> str:
    found = [
        f"{text}{_times(count)}"
        for level, text, count in logs.read_warnings(work_dir)
        if level == "WARNING"
    ]
    if not found:
        return page.section("Warnings", page.paragraph("The log holds no warnings."))
    title = f"{len(found)} warning{'s' * (len(found) > 1)} in the log"
    folded = page.folded(title, page.items(found))
    return page.section("Warnings", page.card(folded))


def _times(count: int) -> str:
    return f" ({count} times)" if count > 1 else ""


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
    try:
        path = write(args.work_dir)
        print(f"{headline(args.work_dir)}\nReport: {path}")
    except FileNotFoundError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Make the report of a pretraining run; return the exit code."""
    text = "(Re)make report.html and the figures of a pretraining run."
    return command_line(argv, text, write_report, headline)


if __name__ == "__main__":
    sys.exit(main())
