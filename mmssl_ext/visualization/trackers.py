"""W&B and MLflow: one run for a training, however often it is stopped and resumed."""

from __future__ import annotations

import json
import os
import re
import secrets
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.config import Config
from mmengine.logging import MessageHub, MMLogger
from mmengine.visualization import MLflowVisBackend, WandbVisBackend

from mmssl_ext.errors import ConfigError
from mmssl_ext.files import read_json, write_text
from mmssl_ext.registry import VISBACKENDS

from .logs import RunLog, read_lines

__all__ = ["MLflowBackend", "WandbBackend"]

_PROJECT = "mmssl_ext"  # of W&B and experiment of MLflow, where nothing names another
_NAME = re.compile(r"[\w\-./ ]+")  # of a parameter of MLflow
_LONGEST = 250  # characters of a parameter of MLflow, in all of its stores


class OneRun:
    """Mixin of mmengine's backends: a resumed training goes on with its run.

    ``<tracker>.json`` in the work_dir holds the run's id there and, for each scalar and
    picture, the last iteration that arrived. A resumed training sends the scalars of
    its earlier starts that did not arrive, from the JSON logs, and nothing twice: a
    curve has every iteration once. All scalars are placed by the iterations done, also
    those that mmengine counts by epochs.
    """

    name = ""  # of the option, and of the file in the work_dir
    at_once = True  # what is sent arrives, also where the process is killed
    started = False
    behind = False  # there were starts before this one

    def _settle(self, save_dir: str) -> Path:
        """Take ``<work_dir>/<start>/vis_data`` for what it is; return the work_dir."""
        self.folder = Path(save_dir).absolute()
        self.work_dir = self.folder.parents[1]
        self.note = self.work_dir / f"{self.name}.json"
        self.run: str | None = None
        self.last: dict[str, int] = {}
        return self.work_dir

    def add_config(self, config: Config, **kwargs: Any) -> None:
        """Find the run that a resumed training goes on with; keep the config."""
        if config.get("resume"):
            found = read_json(self.note)
            self.run, self.last = found.get("run"), found.get("last") or {}
            self.behind = True
        self.send_config(config)
        self._write_note()

    def add_scalar(self, name: str, value: Any, step: int = 0, **kwargs: Any) -> None:
        """Send one value."""
        self.add_scalars({name: value}, step)

    def add_scalars(
        self,
        scalar_dict: Mapping[str, Any],
        step: int = 0,
        file_path: str | None = None,
        **kwargs: Any,
    ) -> None:
        """Send the values that were not sent before."""
        at = iterations(step)
        if self.behind:
            self.behind = False
            for row, when in self._logged():
                if when < at:
                    self._send_new(row, when)
        self._send_new(scalar_dict, at)

    def add_image(
        self, name: str, image: np.ndarray, step: int = 0, **kwargs: Any
    ) -> None:
        """Send a picture, uint8 RGB of H x W x 3, that was not sent before."""
        at = iterations(step)
        if self._is_new(name, at):
            self.send_image(name, image, at)
            self._keep([name], at)

    def send_config(self, config: Config) -> None:
        """Store the config of the run."""
        raise NotImplementedError

    def send(self, values: dict[str, float], at: int) -> None:
        """Store values of an iteration."""
        raise NotImplementedError

    def send_image(self, name: str, image: np.ndarray, at: int) -> None:
        """Store a picture of an iteration."""
        raise NotImplementedError

    def finish(self, failed: bool) -> None:
        """End the run of this start."""
        raise NotImplementedError

    def close(self) -> None:
        """End the run of this start, and note what has arrived."""
        if self.started:
            self.started = False
            self.finish(failed=sys.exc_info()[0] is not None)
            self._write_note()

    def _logged(self) -> Iterator[tuple[Mapping[str, Any], int]]:
        """What the starts before this one have logged, and when."""
        for path in sorted(self.work_dir.glob("*/vis_data/scalars.json")):
            at = 0
            for row in read_lines(path, RunLog()) if path.parent != self.folder else ():
                at = max(at, int(row.get("step", 0)))  # which may count epochs
                yield row, at

    def _send_new(self, found: Mapping[str, Any], at: int) -> None:
        values = {k: _number(v) for k, v in found.items() if self._is_new(k, at)}
        sent = {k: v for k, v in values.items() if v is not None}
        if sent:
            self.send(sent, at)
            self._keep(sent, at)

    def _is_new(self, key: str, at: int) -> bool:
        return key not in ("iter", "step") and at > self.last.get(key, -1)

    def _keep(self, keys: Iterable[str], at: int) -> None:
        self.last |= dict.fromkeys(keys, at)
        if self.at_once:
            self._write_note()

    def _write_note(self) -> None:
        write_text(self.note, json.dumps({"run": self.run, "last": self.last}) + "\n")


@VISBACKENDS.register_module()
class WandbBackend(OneRun, WandbVisBackend):
    """mmengine's backend of Weights & Biases, which goes on with a resumed run.

    The files go to ``work_dir/wandb``. ``WANDB_PROJECT``, ``WANDB_MODE=offline`` and
    W&B's other variables of the environment are heeded; ``iter`` is the x axis. Code
    is not uploaded.

    Args:
        save_dir: Folder of the logs, given by the visualizer.
        init_kwargs: Of ``wandb.init``, e.g. ``dict(project="co2", tags=["r50"])``.
        **kwargs: Of mmengine's ``WandbVisBackend``.

    Raises:
        ConfigError: When the run is built: W&B cannot be started.
    """

    name = "wandb"
    at_once = False  # it collects, and sends or writes later
    floor = -1  # iterations that have arrived

    def __init__(
        self, save_dir: str, init_kwargs: dict[str, Any] | None = None, **kwargs: Any
    ) -> None:
        work_dir = self._settle(save_dir)
        self.options = {"name": work_dir.name, "reinit": "finish_previous"}
        if "WANDB_PROJECT" not in os.environ:
            self.options["project"] = _PROJECT
        if os.environ.get("WANDB_MODE") != "offline":
            self.options["resume"] = "allow"
        self.options |= {"dir": str(work_dir), **(init_kwargs or {})}
        axis = [{"name": "iter"}, {"name": "*", "step_metric": "iter"}]
        super().__init__(
            save_dir, self.options, **{"define_metric_cfg": axis, **kwargs}
        )

    def _init_env(self) -> None:
        """Start the run, or go on with it."""
        import wandb

        given = self.options.get("id") or os.environ.get("WANDB_RUN_ID")
        self.run = self.options["id"] = given or self.run or secrets.token_hex(4)
        try:
            super()._init_env()
        except wandb.Error as error:
            raise _not_started(
                "--wandb: W&B",
                error,
                "log in by `wandb login`, or set WANDB_MODE=offline and send the run "
                "later by `wandb sync`",
            ) from error
        self.started = True
        # Of a start that was killed, W&B's server knows what arrived.
        run: Any = wandb.run
        if isinstance(at := run.summary.get("iter"), int):
            self.floor = at

    def send_config(self, config: Config) -> None:
        """Store the config, without the code that mmengine would upload."""
        self.experiment.config.update(config.to_dict(), allow_val_change=True)

    def send(self, values: dict[str, float], at: int) -> None:
        """Log a row."""
        self.experiment.log({**values, "iter": at})

    def send_image(self, name: str, image: np.ndarray, at: int) -> None:
        """Log a picture."""
        self.experiment.log({name: self.experiment.Image(image), "iter": at})

    def finish(self, failed: bool) -> None:
        """Wait until all has been sent, or written where W&B is offline."""
        self.experiment.finish(exit_code=int(failed))

    def _is_new(self, key: str, at: int) -> bool:
        return at > self.floor and super()._is_new(key, at)


@VISBACKENDS.register_module()
class MLflowBackend(OneRun, MLflowVisBackend):
    """mmengine's backend of MLflow, which goes on with a resumed run.

    Runs go to ``MLFLOW_TRACKING_URI``, without which to the folder
    ``work_dir/mlruns``, and to the experiment ``MLFLOW_EXPERIMENT_NAME``, without which
    to ``mmssl_ext``. Short values of the config are parameters, the whole is
    ``config.py`` among the artifacts. MLflow's telemetry is off.

    Args:
        save_dir: Folder of the logs, given by the visualizer.
        exp_name: Experiment, in place of the environment's.
        run_name: By default that of the work_dir.
        tags: Of the run.
        tracking_uri: In place of the environment's.
        artifact_location: Of a new experiment.

    Raises:
        ConfigError: When the run is built: MLflow cannot be started.
    """

    name = "mlflow"

    def __init__(
        self,
        save_dir: str,
        exp_name: str | None = None,
        run_name: str | None = None,
        tags: dict[str, Any] | None = None,
        tracking_uri: str | None = None,
        artifact_location: str | None = None,
    ) -> None:
        work_dir = self._settle(save_dir)
        self.about = {"run_name": run_name or work_dir.name, "tags": tags}
        super().__init__(
            str(work_dir / "mlruns"),
            exp_name or os.environ.get("MLFLOW_EXPERIMENT_NAME", _PROJECT),
            tracking_uri=tracking_uri or os.environ.get("MLFLOW_TRACKING_URI"),
            artifact_location=artifact_location,
        )

    def _init_env(self) -> None:
        """Start the run, or go on with it."""
        # Its folders are what it has longest, but newer releases want to be told.
        os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        import mlflow

        mlflow.end_run()  # of another training in this process, which failed
        try:
            super()._init_env()
            self.run = self._go_on(mlflow)
        except mlflow.MlflowException as error:
            remedy = "look at MLFLOW_TRACKING_URI, the server's address or a folder"
            raise _not_started("--mlflow: MLflow", error, remedy) from error
        self.started = True

    def _go_on(self, mlflow: Any) -> str:
        if self.run is not None:
            try:
                return mlflow.start_run(run_id=self.run).info.run_id
            except mlflow.MlflowException as error:
                MMLogger.get_current_instance().warning(
                    f"MLflow does not have the run {self.run} any more ({error}); a "
                    "new one is begun."
                )
                self.last = {}
        return mlflow.start_run(**self.about).info.run_id

    def send_config(self, config: Config) -> None:
        """Store the config, and of its values those that are new."""
        client = self.experiment
        known = client.get_run(self.run).data.params
        short = {k: v for k, v in _flat(config.to_dict()) if k not in known}
        for start in range(0, len(short), 100):
            client.log_params(dict([*short.items()][start : start + 100]))
        client.log_text(config.pretty_text, "config.py")

    def send(self, values: dict[str, float], at: int) -> None:
        """Log values; a server that does not answer is a warning."""
        MLflowVisBackend.add_scalars(self, values, at)

    def send_image(self, name: str, image: np.ndarray, at: int) -> None:
        """Log a picture; a server that does not answer is a warning."""
        try:
            self.experiment.log_image(image, key=name, step=at)
        except self.experiment.MlflowException as error:
            MMLogger.get_current_instance().warning(
                f"MLflow did not take the picture {name}: {error}"
            )

    def finish(self, failed: bool) -> None:
        """End the run; the files of the work_dir stay where they are."""
        self.experiment.end_run("KILLED" if failed else "FINISHED")


def iterations(step: int) -> int:
    """Iterations done: the step, or where that counts epochs, as the run says."""
    running = MessageHub.get_current_instance().get_info("iter", 0)
    return step if step >= running else running + 1


def _number(value: Any) -> float | None:
    try:
        return float(value)
    except (TypeError, ValueError):
        return None


def _flat(values: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """Names and texts of the short values in nested data."""
    if isinstance(values, Mapping):
        for key, value in values.items():
            yield from _flat(value, f"{name}.{key}" if name else str(key))
    elif isinstance(values, (list, tuple)) and any(
        isinstance(value, (Mapping, list, tuple)) for value in values
    ):
        for i, value in enumerate(values):
            yield from _flat(value, f"{name}.{i}")
    elif max(len(name), len(str(values))) <= _LONGEST and _NAME.fullmatch(name):
        yield name, str(values)


def _not_started(what: str, error: Exception, remedy: str) -> ConfigError:
    reason = " ".join(str(error).split()).rstrip(".")
    return ConfigError(f"{what} could not be started ({reason}); {remedy}.")
