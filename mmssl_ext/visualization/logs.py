"""Read back what a run wrote: scalars, facts, configuration, warnings, checkpoints."""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmssl_ext.files import sha256

FACTS_FILE = "run.json"
"""Name of the file with the facts of a session, in its log directory."""

Row = dict[str, float]

_PREFIX = re.compile(r"^(train|val)/")
_OLD = re.compile("^nce_")  # what version 0.1 called the losses before their weight
_LOG_LINE = re.compile(r"^\d{4}/\d\d/\d\d \d\d:\d\d:\d\d - \S+ - ([A-Z]+) - (.*)")


@dataclass
class RunLog:
    """The scalars of a run, merged over its sessions.

    Attributes:
        train: One row per training log line, by ascending ``step`` (iterations done).
        knn: One row per kNN evaluation, by ascending ``epoch`` (0 = before training).
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
        """Return the steps and values of ``key`` in the training lines that hold it."""
        points = [(row["step"], row[key]) for row in self.train if key in row]
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

    def knn_before(self) -> float | None:
        """Return the backbone's kNN top-1 in percent before training, if measured."""
        epochs, scores = self.knn_series("backbone")
        return scores[0] if epochs and epochs[0] == 0 else None

    def train_keys(self) -> list[str]:
        """Return the keys of the training lines in order of first appearance."""
        return list(dict.fromkeys(key for row in self.train for key in row))

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
        rows, broken = _read_lines(path)
        log.broken_lines += broken
        log.sessions.append(path.parent.parent)
        train: dict[float, Row] = {}
        knn: dict[float, Row] = {}
        for row in rows:
            scores = {key: y for key, y in row.items() if key.startswith("knn/")}
            if "loss" in row and "step" in row:
                train[row["step"]] = {k: y for k, y in row.items() if k not in scores}
            elif scores:
                epoch = row.get("epoch", row.get("step", 0))
                # The embedding's score may come on a line of its own.
                knn[epoch] = {**knn.get(epoch, {}), **scores, "epoch": epoch}
        log.train = _continue(log.train, train)
        log.knn = _continue(log.knn, knn, "epoch")
    log.iterations_per_epoch = _iterations_per_epoch(log.train, read_facts(work_dir))
    return log


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


def _read_lines(path: Path) -> tuple[list[Row], int]:
    rows, broken = [], 0
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            item = json.loads(line)
        except json.JSONDecodeError:
            broken += bool(line.strip())
            continue
        if isinstance(item, dict):
            rows.append(
                {
                    _OLD.sub("raw_", _PREFIX.sub("", key)): value
                    for key, value in item.items()
                    if isinstance(value, int | float)
                }
            )
    return rows, broken


def read_facts(work_dir: str | Path) -> dict[str, Any]:
    """Return the facts of the newest session (see ``ReportHook``), or an empty dict."""
    for path in sorted(Path(work_dir).glob(f"*/{FACTS_FILE}"), reverse=True):
        try:
            facts = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        if isinstance(facts, dict):
            return facts
    return {}


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
    counts: dict[tuple[str, str], int] = {}
    for path in sorted(Path(work_dir).glob("*/*.log")):
        with path.open(encoding="utf-8", errors="replace") as lines:
            for line in lines:
                match = _LOG_LINE.match(line)
                if match and match[1] in ("WARNING", "ERROR", "CRITICAL"):
                    # Error lines open with "path - function - line number - ".
                    text = re.sub(r"^\S+ - \S+ - \d+ - ", "", match[2]).strip()
                    counts[match[1], text] = counts.get((match[1], text), 0) + 1
    rows = [(level, text, n) for (level, text), n in counts.items()]
    return sorted(rows, key=lambda row: row[0] == "WARNING")[:limit]


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint file.

    Attributes:
        path: Of the file.
        size: Bytes.
        sha256: Of its content; the manifest's where it has one.
        manifest: What the file beside it says
            (see ``mmssl_ext.engine.checkpoint.manifest``), empty where there is none.
        problem: What is wrong with its manifest, empty where nothing is.
    """

    path: Path
    size: int
    sha256: str
    manifest: dict[str, Any]
    problem: str = ""


def checkpoints(work_dir: str | Path, limit: int = 6) -> list[Checkpoint]:
    """Return the newest checkpoint files of a run, newest first.

    A file is read whole only where no sound manifest gives its SHA-256.
    """
    files = [
        path
        for pattern in ("*.pth", "*.safetensors")
        for path in Path(work_dir).glob(pattern)
        if path.is_file()
    ]
    from mmssl_ext.engine.checkpoint.manifest import manifests
    from mmssl_ext.engine.checkpoint.read import look_into
    from mmssl_ext.engine.checkpoint.run_folder import by_iteration

    described = dict(manifests(Path(work_dir)))
    files = by_iteration({path: described.get(path, {}) for path in files}, look_into)
    return [_checkpoint(path) for path in files[:limit]]


def _checkpoint(path: Path) -> Checkpoint:
    from mmssl_ext.engine.checkpoint.manifest import ManifestError, read_manifest

    size = path.stat().st_size
    try:
        manifest, problem = read_manifest(path) or {}, ""
    except ManifestError as error:
        manifest, problem = {}, str(error)
    if manifest and manifest["bytes"] != size:
        problem = (
            f"{path} does not have the {manifest['bytes']:,} bytes of its manifest"
        )
        manifest = {}
    digest = manifest["sha256"] if manifest else sha256(path)
    return Checkpoint(path, size, digest, manifest, problem)
