"""Write the HTML report of a run when its training ends."""

from __future__ import annotations

import contextlib
import datetime
import json
import platform
import shlex
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import mmcv
import mmengine
import mmpretrain
import torch
from mmengine.hooks import Hook

import mmssl_ext
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
                f"{'' if cause is None else f'{told(cause)} '}"
                "The report could not be written; the run itself is complete. After "
                "mending the cause, make it with: python -m "
                f"mmssl_ext.visualization.report {shlex.quote(runner.work_dir)}"
            )


def run_facts(runner: Any) -> dict[str, Any]:
    """Return what the report needs beside the logs, ready for JSON."""
    model = unwrap(runner.model)
    negatives = getattr(model, "negatives", None)  # K x D
    dataset = runner.train_dataloader.dataset
    batch = getattr(runner.train_dataloader, "batch_size", None)
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    if device.type == "cuda":
        device_name = torch.cuda.get_device_name(device)
    else:
        device_name = f"{device.type} ({platform.machine()})"
    return {
        "method": type(model).__name__,
        "dataset": " ".join([type(dataset).__name__, *_source(dataset)]),
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
        "device": device_name,
        "system": platform.platform(),
        "world_size": runner.world_size,
        "versions": _versions(device.type),
    }


def _command() -> str:
    """Return what the user typed."""
    program, *arguments = sys.argv
    if program.startswith("mmssl-ext "):  # the command line of the package
        return shlex.join([*program.split(), *arguments])
    return shlex.join([Path(sys.executable).name, program, *arguments])


def _source(dataset: Any) -> list[str]:
    """Return the name of the folder or list that a general data set reads."""
    source = getattr(dataset, "ann_file", None) or getattr(dataset, "root", None)
    return [f"'{Path(source).name}'"] if source else []


def _versions(device: str) -> dict[str, str]:
    versions = {
        "mmssl_ext": mmssl_ext.__version__,
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "mmengine": mmengine.__version__,
        "mmcv": mmcv.__version__,
        "mmpretrain": mmpretrain.__version__,
    }
    for name in ("mmdet", "mmseg"):  # where the config has brought them in
        if name in sys.modules:
            versions[name] = str(getattr(sys.modules[name], "__version__", "unknown"))
    for name in ("torchvision", "numpy", "pillow"):
        with contextlib.suppress(PackageNotFoundError):
            versions[name] = version(name)
    if device == "cuda":
        versions |= {"CUDA": str(torch.version.cuda)}
        versions |= {"cuDNN": str(torch.backends.cudnn.version())}
    return versions
