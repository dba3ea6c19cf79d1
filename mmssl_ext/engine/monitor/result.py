"""What a run reached, in one file: ``result.json``."""

from __future__ import annotations

import datetime
import json
import math
import platform
import resource
import sys
import time
from pathlib import Path
from typing import Any

import torch
from mmengine.hooks import Hook

from mmssl_ext import compat
from mmssl_ext.errors import UserError
from mmssl_ext.files import read_text, write_text
from mmssl_ext.registry import HOOKS
from mmssl_ext.unwrap import unwrap

from .knn import HISTORY as KNN_HISTORY
from .knn import tag_of

RESULT_FILE = "result.json"
ABSENT = "absent_classes"  # what a metric says nothing of; noted in the message hub

_HISTORY, _SECONDS = "result_history", "result_seconds"
_PACKAGES = "mmssl_ext torch torchvision mmengine mmcv mmpretrain mmdet mmseg sklearn"


@HOOKS.register_module()
class ResultHook(Hook):
    """Write ``result.json`` into the work_dir when the run has ended.

    It holds the metrics of the last validation (of the test, where nothing was
    trained; of the last kNN, where there is no validation), the headline metric over
    the iterations, seed, wall seconds over all sessions, peak memory, versions, device,
    final checkpoint, what was transferred to the backbone and ``absent_classes``, of
    which the ground truth has nothing, where there are any. A run that was interrupted
    or failed leaves no such file; one that an earlier run left is put aside as
    ``result.old.json``. Final weights that were not validated, as after a resume from
    the last checkpoint, are validated first.

    Args:
        metrics: Names for the reader and the names that the evaluator gives, e.g.
            ``{"AP": "coco/bbox_mAP"}``; the first is the headline. ``None`` takes all.
        fractions: Prefixes of evaluator names whose values lie in 0 to 1; they are
            given in percent like all others. -1 means "undefined" there.

    Raises:
        UserError: At the first validation, where a named metric was not produced.
    """

    priority = "LOWEST"  # the other hooks have written their last line by then

    def __init__(
        self,
        metrics: dict[str, str] | None = None,
        fractions: tuple[str, ...] | list[str] = ("coco/", "pascal_voc/"),
    ) -> None:
        self.metrics = metrics
        self.fractions = tuple(fractions)
        self._started = 0.0
        self._tested: dict[str, float | None] | None = None

    def before_run(self, runner: Any) -> None:
        """Start the clock."""
        self._started = time.monotonic()

    def before_train(self, runner: Any) -> None:
        """Put an earlier result aside, and the history of another run."""
        if runner.iter == 0:
            runner.message_hub.update_info(_HISTORY, [])
            runner.message_hub.update_info(_SECONDS, 0.0)
        old = Path(runner.work_dir, RESULT_FILE)
        if runner.rank == 0 and old.is_file():
            old.replace(old.with_suffix(".old.json"))

    def before_write_checkpoint(self, runner: Any) -> None:
        """Let the checkpoint carry the time spent so far."""
        runner.message_hub.update_info(_SECONDS, self._elapsed(runner))
        self._started = time.monotonic()

    def after_val_epoch(
        self, runner: Any, metrics: dict[str, float] | None = None
    ) -> None:
        """Keep the metrics of a validation."""
        found = self._select(runner, metrics or {})
        row = {"iter": runner.iter, "epoch": runner.epoch, "metrics": found}
        history = runner.message_hub.get_info(_HISTORY, [])
        runner.message_hub.update_info(_HISTORY, [*history, row])

    def after_test_epoch(
        self, runner: Any, metrics: dict[str, float] | None = None
    ) -> None:
        """Keep the metrics of a test."""
        self._tested = self._select(runner, metrics or {})

    def after_train(self, runner: Any) -> None:
        """Validate final weights that nothing was said about yet."""
        history = runner.message_hub.get_info(_HISTORY, [])
        said = bool(history) and history[-1]["iter"] == runner.iter
        if runner.val_loop is not None and not said:
            runner.val_loop.run()

    def after_run(self, runner: Any) -> None:
        """Write the file on rank 0."""
        if runner.rank != 0:
            return
        trained = compat.train_loop(runner) is not None and runner.iter > 0
        path = Path(runner.work_dir, RESULT_FILE)
        if not trained and _holds_training(path):
            path = path.with_name("evaluation.json")
        write_text(path, json.dumps(self._result(runner, trained), indent=2) + "\n")
        runner.logger.info(f"Result: {path}")

    def _result(self, runner: Any, trained: bool) -> dict[str, Any]:
        rows = self._rows(runner, trained)
        metrics = rows[-1]["metrics"] if rows else {}
        if not trained and self._tested is not None:
            metrics = self._tested
        headline = next(iter(metrics), None)
        points = [row for row in rows if row["metrics"].get(headline) is not None]
        model = unwrap(runner.model)
        pointer = Path(runner.work_dir, "last_checkpoint")
        memory, of = _peak_memory(model)
        absent = runner.message_hub.get_info(ABSENT, [])
        return {
            "metrics": metrics,
            **({ABSENT: absent} if absent else {}),
            "headline": headline,
            "curve": {
                "iterations": [row["iter"] for row in points],
                "epochs": [row["epoch"] for row in points],
                "values": [row["metrics"][headline] for row in points],
            },
            "trained": trained,
            "iterations": runner.iter if trained else 0,
            "epochs": runner.epoch if trained else 0,
            "seed": runner.seed,
            "seconds": round(self._elapsed(runner), 1),
            "memory_mb": round(memory),
            "memory_of": of,
            "threads": torch.get_num_threads(),
            "handover": _transfer_report(model),
            "checkpoint": read_text(pointer).strip() if pointer.is_file() else None,
            "config": Path(runner.cfg.filename).name if runner.cfg.filename else None,
            "device": device_name(model),
            "world_size": runner.world_size,
            "versions": versions(),
            "finished": datetime.datetime.now().astimezone().isoformat("T", "seconds"),
        }

    def _rows(self, runner: Any, trained: bool) -> list[dict[str, Any]]:
        """Iteration, epoch and metrics of every validation, or else of every kNN."""
        hub = runner.message_hub
        if trained and (rows := hub.get_info(_HISTORY, [])):
            return rows
        rows = []
        for row in hub.get_info(KNN_HISTORY, []):
            left_out = ("epoch", "iter", "_top5")
            scores = {k: v for k, v in row.items() if not k.endswith(left_out)}
            found = {tag_of(k): v for k, v in scores.items()}
            row = {"iter": row["iter"], "epoch": row["epoch"]}
            rows.append({**row, "metrics": self._select(runner, found)})
        return rows

    def _elapsed(self, runner: Any) -> float:
        before = runner.message_hub.get_info(_SECONDS, 0.0)
        return before + time.monotonic() - self._started

    def _select(self, runner: Any, found: dict[str, Any]) -> dict[str, float | None]:
        """Return the wanted metrics, fractions in percent, undefined ones as None."""
        wanted = self.metrics or {
            name: name for name, value in found.items() if _is_number(value)
        }
        if not found and wanted:
            # mmdet's COCO metric gives nothing where nothing at all was detected.
            runner.logger.warning(
                "The evaluator returned no metric, as when the model predicts nothing; "
                "the result counts as 0."
            )
            return dict.fromkeys(wanted, 0.0)
        if missing := [name for name in wanted.values() if name not in found]:
            raise UserError(
                f"ResultHook: the evaluator gave no {', '.join(missing)}. Name in "
                "default_hooks.result.metrics what it gives: "
                f"{', '.join(map(str, found))}."
            )
        return {
            label: self._percent(name, found[name]) for label, name in wanted.items()
        }

    def _percent(self, name: str, value: Any) -> float | None:
        value = float(value)
        if name.startswith(self.fractions):
            value = value * 100 if value >= 0 else math.nan
        return round(value, 6) if math.isfinite(value) else None


def _is_number(value: Any) -> bool:
    try:
        float(value)
    except (TypeError, ValueError):
        return False
    return True


def _holds_training(path: Path) -> bool:
    try:
        return bool(json.loads(path.read_text(encoding="utf-8")).get("trained"))
    except (OSError, ValueError, AttributeError, RecursionError):
        return False


def _transfer_report(model: torch.nn.Module) -> dict[str, Any] | None:
    reports = (getattr(module, "handover", None) for module in model.modules())
    found = next((report for report in reports if report is not None), None)
    return None if found is None else found.as_dict()


def _peak_memory(model: torch.nn.Module) -> tuple[float, str]:
    """Return MiB and whose: the device's tensors or the whole process."""
    if _is_on_gpu(model):
        return torch.cuda.max_memory_allocated() / 2**20, "device"
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # KiB, bytes on a Mac
    return peak / (2**20 if sys.platform == "darwin" else 2**10), "process"


def device_name(model: torch.nn.Module) -> str:
    """Name of the device that a model is on."""
    if _is_on_gpu(model):
        return torch.cuda.get_device_name()
    return f"cpu ({platform.machine()})"


def _is_on_gpu(model: torch.nn.Module) -> bool:
    return any(parameter.is_cuda for parameter in model.parameters())


def versions() -> dict[str, str]:
    """Versions of Python and of those packages that the run has imported."""
    loaded = {n: sys.modules[n] for n in _PACKAGES.split() if sys.modules.get(n)}
    return {"python": platform.python_version()} | {
        name: str(getattr(module, "__version__", "unknown"))
        for name, module in loaded.items()
    }
