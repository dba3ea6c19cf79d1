"""What the stages of a chain left in its work dir, as records and as a table.

Everything is read from files, so that it can be asked at any time and on any machine::

    chain.json         the stages, in order, with transfer, title, source and seed
    results.csv        one row per stage, see `write_csv`
    configs/STAGE.py   the config of a stage with all its options applied
    STAGE/stage.json   inputs and state of a stage
    STAGE/result.json  what it reached (see `ResultHook`)
    STAGE/chain.log    what it printed
    old/               stages that were run again with other inputs
"""

from __future__ import annotations

import csv
import io
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmssl_ext.engine.monitor.result import RESULT_FILE
from mmssl_ext.errors import UserValueError
from mmssl_ext.files import read_json, write_text
from mmssl_ext.text import printable

CHAIN_FILE, CSV_FILE = "chain.json", "results.csv"
STAGE_FILE, LOG_FILE = "stage.json", "chain.log"

_PACKAGES = ("mmssl_ext", "torch", "torchvision", "mmengine")
_OPENMMLAB = ("mmcv", "mmpretrain", "mmdet", "mmseg")


@dataclass
class Record:
    """A stage and what is known of it.

    Attributes:
        name: Of the stage and of its folder.
        transfer: Or ``pretrain``.
        title: Of the transfer.
        source: What it starts from; None for pretraining.
        scratch: The source is random initialisation.
        seed: None where the config decides.
        folder: With all its files.
        state: ``stage.json``, empty before the first start.
        result: ``result.json``, empty while there is none.
    """

    name: str
    transfer: str
    title: str
    source: str | None
    scratch: bool
    seed: int | None
    folder: Path
    state: dict[str, Any] = field(default_factory=dict)
    result: dict[str, Any] = field(default_factory=dict)

    @property
    def status(self) -> str:
        """``finished``, ``failed``, ``interrupted``, ``skipped``, ``started``.

        Before the first start it is ``waiting``.
        """
        known = self.state.get("status", "waiting")
        # A chain that was killed could not say that its stage got to the end.
        return "finished" if known == "started" and self.result else known

    @property
    def metrics(self) -> dict[str, float | None]:
        """Metrics of a finished stage by name, the headline first."""
        return self.result.get("metrics") or {} if self.status == "finished" else {}

    @property
    def headline(self) -> tuple[str, float | None]:
        """Name and value of the most important metric."""
        return next(iter(self.metrics.items()), ("", None))


def read_records(work_dir: str | Path) -> list[Record]:
    """Return all stages of the chain that ran in a work dir, in their order.

    Raises:
        FileNotFoundError: No chain ran there.
        ValueError: What it left does not list its stages.
    """
    work_dir = Path(work_dir)
    known = read_json(work_dir / CHAIN_FILE)
    if not known:
        raise FileNotFoundError(
            f"{work_dir} holds no {CHAIN_FILE}; give the work dir of a chain."
        )
    stages = known.get("stages")
    if not isinstance(stages, list) or not all(map(_is_entry, stages)) or not stages:
        raise UserValueError(
            f"{work_dir / CHAIN_FILE} is damaged: it does not list the stages of a "
            "chain. Run the chain again, which writes it anew."
        )
    return [read_record(work_dir, entry) for entry in stages]


def _is_entry(entry: Any) -> bool:
    """Whether a stage in ``chain.json`` has the first fields of a record."""
    kinds: dict[str, Any] = {"name": str, "transfer": str, "title": str}
    kinds |= {"source": str | None, "scratch": bool, "seed": int | None}
    return (
        isinstance(entry, dict)
        and entry.keys() == kinds.keys()
        and all(isinstance(entry[key], kind) for key, kind in kinds.items())
        and not {"/", "\0"} & set(entry["name"])
    )


def read_record(work_dir: Path, entry: dict[str, Any]) -> Record:
    """Return one stage; ``entry`` holds its first fields."""
    folder = work_dir / entry["name"]
    result = read_json(folder / RESULT_FILE)
    complete = {"metrics", "headline", "seconds"} <= result.keys()
    complete = complete and all(
        isinstance(result.get(key, {}), dict) for key in ("metrics", "versions")
    )
    return Record(
        **entry,
        folder=folder,
        state=read_json(folder / STAGE_FILE),
        result=result if complete else {},
    )


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Write a dict in one step."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(value, indent=1) + "\n")


def write_csv(work_dir: str | Path) -> Path:
    """Write ``results.csv``: a row per stage, a column per metric at the right."""
    records = read_records(work_dir)
    rows = [_row(record) for record in records]
    metrics = {name for record in records for name in record.metrics}
    order = [n for record in records for n in record.metrics if n in metrics]
    columns = [*rows[0], *dict.fromkeys(order)]
    stream = io.StringIO()
    table = csv.DictWriter(stream, columns, restval="", lineterminator="\n")
    table.writeheader()
    for row, record in zip(rows, records, strict=True):
        table.writerow({**row, **record.metrics})
    path = Path(work_dir, CSV_FILE)
    write_text(path, printable(stream.getvalue()))
    return path


def _row(record: Record) -> dict[str, Any]:
    state, result = record.state, record.result
    finished = record.status == "finished"
    result = result if finished else {}
    versions = result.get("versions") or {}
    metric, value = record.headline
    return {
        "stage": record.name,
        "transfer": record.transfer,
        "source": record.source,
        "seed": result.get("seed", record.seed),
        "status": record.status,
        "metric": metric,
        "value": value,
        "seconds": result.get("seconds"),
        "memory_mb": result.get("memory_mb"),
        "threads": result.get("threads"),
        "iterations": result.get("iterations"),
        "device": result.get("device"),
        "finished": result.get("finished"),
        "config": state.get("config"),
        "config_sha256": state.get("config_sha256"),
        "source_checkpoint": state.get("checkpoint"),
        "source_sha256": state.get("checkpoint_sha256"),
        "output_checkpoint": state.get("output"),
        "output_sha256": state.get("output_sha256"),
        **{f"{name}_version": versions.get(name) for name in _PACKAGES + _OPENMMLAB},
        "reason": state.get("reason") if not finished else None,
    }
