"""Read back what a run wrote: scalars, facts, configuration, warnings, checkpoints."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from mmssl_ext.files import read_json, sha256

FACTS_FILE = "run.json"
"""Name of the file with the facts of a session, in its log directory."""

Row = dict[str, float]

_PREFIX = re.compile(r"^(train|val)/")
_MONITORED = ("health/", "cluster/")
_PROBE = "probe/top1"  # on held-out images, not of a batch
_MEASURED = ("knn/", "clustering/", _PROBE)
_OLD = re.compile("^nce_")  # what version 0.1 called the losses before their weight
# Error lines have "path - function - line number - " before the message.
_LOG_LINE = re.compile(
    r"\d{4}/\d\d/\d\d \d\d:\d\d:\d\d - \S+ - (WARNING|ERROR|CRITICAL) - "
    r"(?:\S+ - \S+ - \d+ - )?(.*)"
)


@dataclass
class RunLog:
    """The scalars of a run, merged over its sessions.

    Attributes:
        train: One row per training log line, by ascending ``step`` (iterations done).
        knn: One row per evaluation by kNN or the online probe, by ascending ``epoch``
            (0 = before training).
        broken_lines: Lines that are not JSON, such as one cut short by a kill.
        sessions: Log directories that held scalars, oldest first.
        iterations_per_epoch: None where the run does not count epochs.
    """

    train: list[Row] = field(default_factory=list)
    knn: list[Row] = field(default_factory=list)
    broken_lines: int = 0
    sessions: list[Path] = field(default_factory=list)
    iterations_per_epoch: float | None = None

    def series(self, key: str) -> tuple[list[float], list[float]]:
        """Return the steps and values of ``key`` in the lines that hold it."""
        rows = [row for row in (*self.train, *self.knn) if key in row]
        points = [(row["step"], row[key]) for row in rows]
        return [x for x, _ in points], [y for _, y in points]

    def knn_series(self, name: str) -> tuple[list[float], list[float]]:
        """Return epochs and top-1 in percent of ``"backbone"`` or ``"embedding"``.

        The query encoder's, or the key encoder's where only that was evaluated.
        """
        for key in (f"knn/{name}_top1", f"knn/key_{name}_top1"):
            rows = [row for row in self.knn if key in row]
            if rows:
                return [row["epoch"] for row in rows], [row[key] for row in rows]
        return [], []

    def probe_series(self) -> tuple[list[float], list[float]]:
        """Return epochs and top-1 in percent of the online linear probe."""
        rows = [row for row in self.knn if _PROBE in row]
        return [row["epoch"] for row in rows], [row[_PROBE] for row in rows]

    def knn_before(self) -> float | None:
        """Return the backbone's kNN top-1 in percent before training, if measured."""
        epochs, scores = self.knn_series("backbone")
        return scores[0] if epochs and epochs[0] == 0 else None

    def seconds(self) -> float:
        """Return the training time in seconds, evaluation and restarts left out.

        A log line holds the mean step time of its window; it stands for every
        iteration since the line before.
        """
        total, last = 0.0, 0.0
        for row in self.train:
            total += row.get("time", 0.0) * (row["step"] - last)
            last = row["step"]
        return total


def read_run(work_dir: str | Path) -> RunLog:
    """Read ``work_dir/<timestamp>/vis_data/scalars.json`` of every session.

    A later session replaces what an earlier one logged from its first step on: that
    part was trained again after a resume, or belongs to an older run in the same
    directory. A work directory without logs gives an empty log.

    Raises:
        FileNotFoundError: If ``work_dir`` is not a directory.
    """
    work_dir = Path(work_dir)
    if not work_dir.is_dir():
        raise FileNotFoundError(
            f"There is no work directory {str(work_dir)!r}. Give the directory that "
            "holds the <timestamp>/vis_data folders of the run."
        )
    log = RunLog()
    for path in sorted(work_dir.glob("*/vis_data/scalars.json")):
        log.sessions.append(path.parent.parent)
        train: dict[float, Row] = {}
        knn: dict[float, Row] = {}
        for row in read_lines(path, log):
            scores = {k: y for k, y in row.items() if k.startswith(_MEASURED)}
            if "loss" in row and "step" in row:
                train[row["step"]] = {k: y for k, y in row.items() if k not in scores}
            elif scores:
                epoch = row.get("epoch", row.get("step", 0))
                # The embedding's score may come on a line of its own.
                place = {"epoch": epoch, "step": row.get("step", 0)}
                knn[epoch] = {**knn.get(epoch, {}), **scores, **place}
        log.train = _continue(log.train, measured(train))
        log.knn = _continue(log.knn, knn, "epoch")
    log.iterations_per_epoch = _iterations_per_epoch(log.train, read_facts(work_dir))
    return log


def measured(rows: dict[float, Row]) -> dict[float, Row]:
    """Leave out of each line what it only repeats of the line before.

    A line of the log has the last figures of every monitor, also where nothing was
    measured since: then those of that monitor are all the same, to the last digit.
    """
    kept: dict[float, Row] = {}
    last: dict[str, tuple[tuple[str, float], ...]] = dict.fromkeys(_MONITORED, ())
    for step in sorted(rows):
        row = rows[step]
        for kind in _MONITORED:
            found = tuple(x for x in row.items() if x[0].startswith(kind))
            if found and found == last[kind]:
                row = {k: y for k, y in row.items() if not k.startswith(kind)}
            last[kind] = found
        kept[step] = row
    return kept


def _iterations_per_epoch(train: list[Row], facts: dict[str, Any]) -> float | None:
    epochs = [row for row in train if row.get("epoch")]
    if not epochs:
        return None
    if facts.get("max_iters") and facts.get("max_epochs"):
        return facts["max_iters"] / facts["max_epochs"]
    # A line of (1-based) epoch e has at most e n iterations behind it.
    return math.ceil(max(row["step"] / row["epoch"] for row in epochs))


def _continue(old: list[Row], new: dict[float, Row], key: str = "step") -> list[Row]:
    first = min(new, default=math.inf)
    return [row for row in old if row[key] < first] + [new[x] for x in sorted(new)]


def read_lines(path: Path, log: RunLog) -> Iterator[Row]:
    """Yield the numbers in each line of a file; count what is not JSON."""
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            found = json.loads(line)
        except (ValueError, RecursionError):
            log.broken_lines += bool(line.strip())
            continue
        if isinstance(found, dict):
            named = {_OLD.sub("raw_", _PREFIX.sub("", k)): y for k, y in found.items()}
            yield {k: y for k, y in named.items() if isinstance(y, int | float)}


def read_facts(work_dir: str | Path) -> dict[str, Any]:
    """Return the facts of the newest session (see ``ReportHook``), or an empty dict."""
    paths = sorted(Path(work_dir).glob(f"*/{FACTS_FILE}"), reverse=True)
    return next(filter(None, map(read_json, paths)), {})


def read_config(work_dir: str | Path) -> str | None:
    """Return the text of the newest full configuration in ``work_dir``, if any."""
    paths = sorted(Path(work_dir).glob("*/vis_data/config.py"))
    paths = paths or sorted(Path(work_dir).glob("*.py"))
    return paths[-1].read_text(encoding="utf-8", errors="replace") if paths else None


def read_warnings(work_dir: str | Path, limit: int = 20) -> list[tuple[str, str, int]]:
    """Return (level, message, count) of the distinct warnings and errors logged.

    Args:
        work_dir: The run's work directory; its ``<timestamp>/<timestamp>.log`` files
            are read.
        limit: Number of distinct messages to return, most severe first.
    """
    counts: Counter[tuple[str, str]] = Counter()
    for path in sorted(Path(work_dir).glob("*/*.log")):
        with path.open(encoding="utf-8", errors="replace") as lines:
            for match in filter(None, map(_LOG_LINE.match, lines)):
                counts[match[1], match[2].strip()] += 1
    rows = [(level, text, n) for (level, text), n in counts.items()]
    return sorted(rows, key=lambda row: row[0] == "WARNING")[:limit]


class Checkpoint(NamedTuple):
    """A checkpoint file, what its manifest says, and what is wrong with that.

    The SHA-256 is the manifest's where there is a sound one, else of the content.
    """

    path: Path
    size: int  # bytes
    sha256: str
    manifest: dict[str, Any]
    problem: str


def checkpoints(work_dir: str | Path, limit: int = 6) -> list[Checkpoint]:
    """Return the newest checkpoint files of a run, newest first.

    A file is read whole only where no sound manifest gives its SHA-256.
    """
    from mmssl_ext.engine.checkpoint.manifest import manifests
    from mmssl_ext.engine.checkpoint.read import look_into
    from mmssl_ext.engine.checkpoint.run_folder import by_iteration

    folder = Path(work_dir)
    described = dict(manifests(folder))
    files = [
        path for kind in ("pth", "safetensors") for path in folder.glob(f"*.{kind}")
    ]
    found = {path: described.get(path, {}) for path in files if path.is_file()}
    return [_checkpoint(path) for path in by_iteration(found, look_into)[:limit]]


def _checkpoint(path: Path) -> Checkpoint:
    from mmssl_ext.engine.checkpoint.manifest import ManifestError, read_manifest

    size, manifest, problem = path.stat().st_size, None, ""
    try:
        manifest = read_manifest(path)
    except ManifestError as error:
        problem = str(error)
    if manifest and manifest["bytes"] != size:
        length = f"{manifest['bytes']:,} bytes of its manifest"
        manifest, problem = None, f"{path} does not have the {length}"
    digest = manifest["sha256"] if manifest else sha256(path)
    return Checkpoint(path, size, digest, manifest or {}, problem)
