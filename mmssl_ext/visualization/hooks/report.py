"""Write the HTML report of a run when its training ends."""

from __future__ import annotations

import datetime
import json
import platform
import shlex
import sys
from pathlib import Path
from typing import Any

import numpy
import PIL
import torch
from mmengine.hooks import Hook

from mmssl_ext.engine.monitor.result import device_name, versions
from mmssl_ext.registry import HOOKS
from mmssl_ext.room import no_room, told
from mmssl_ext.unwrap import unwrap
from mmssl_ext.visualization.logs import FACTS_FILE


@HOOKS.register_module()
class ReportHook(Hook):
    """Record what a run is at its start and write ``report.html`` at its end.

    The facts that the logs do not hold (method, data set, queue length, seed,
    versions, device, command) go to ``<log dir>/run.json`` before the first step, so
    that ``python -m mmssl_ext.visualization.report WORK_DIR`` makes the same page of
    a run that is still going or was interrupted. A report that cannot be written is
    an error line in the log, never the end of a run.
    """

    priority = "LOWEST"  # the other hooks have written their last line by then

    def before_train(self, runner: Any) -> None:
        """Write ``run.json`` on rank 0."""
        if runner.rank != 0:
            return
        try:
            text = json.dumps(run_facts(runner), indent=2)
            Path(runner.log_dir, FACTS_FILE).write_text(text + "\n", encoding="utf-8")
        except Exception:
            runner.logger.exception(f"The run's facts ({FACTS_FILE}) were not written.")

    def after_train(self, runner: Any) -> None:
        """Write the page and the PNG figures to ``runner.work_dir`` on rank 0."""
        if runner.rank != 0:
            return
        try:
            from mmssl_ext.visualization.report import write_report

            runner.logger.info(f"Report: {write_report(runner.work_dir)}")
        except Exception as error:
            cause = no_room(error)
            log = runner.logger.exception if cause is None else runner.logger.error
            log(
                "The report could not be written; the run itself is complete. "
                f"{f'{told(cause)} ' if cause else ''}Then make it by: python -m "
                f"mmssl_ext.visualization.report {shlex.quote(runner.work_dir)}"
            )


def run_facts(runner: Any) -> dict[str, Any]:
    """Return what the report needs beside the logs, ready for JSON."""
    model, dataset = unwrap(runner.model), runner.train_dataloader.dataset
    source = getattr(dataset, "ann_file", None) or getattr(dataset, "root", None)
    source = f" '{Path(source).name}'" if source else ""
    negatives = getattr(model, "negatives", None)  # K x D
    batch = getattr(runner.train_dataloader, "batch_size", None)
    cuda = {"CUDA": torch.version.cuda, "cuDNN": torch.backends.cudnn.version()}
    on_cuda = any(parameter.is_cuda for parameter in model.parameters())
    return {
        "method": type(model).__name__,
        "dataset": f"{type(dataset).__name__}{source}",
        "images": len(dataset),
        "queue_length": len(negatives) if torch.is_tensor(negatives) else None,
        "seed": runner.seed,
        "batch_size": batch * runner.world_size if batch else None,
        "max_epochs": runner.max_epochs,
        "max_iters": runner.max_iters,
        "resumed_at_iter": runner.iter,
        "config": Path(runner.cfg.filename).name if runner.cfg.filename else None,
        "command": _command(),
        "started": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        "device": device_name(model),
        "system": platform.platform(),
        "world_size": runner.world_size,
        "versions": versions()
        | {"numpy": numpy.__version__, "pillow": PIL.__version__}
        | {name: str(text) for name, text in cuda.items() if on_cuda},
    }


def _command() -> str:
    """Return what the user typed."""
    program, *arguments = sys.argv
    if program.startswith("mmssl-ext "):  # the command line of the package
        return shlex.join([*program.split(), *arguments])
    return shlex.join([Path(sys.executable).name, program, *arguments])
