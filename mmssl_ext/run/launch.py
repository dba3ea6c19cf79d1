"""From a config to a run: read, check, complete, build.

What a training run does until its first step reads from top to bottom in
:func:`train`; the tools only parse arguments.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.runner import Runner

import mmssl_ext.pickles  # noqa: F401  # so that mmengine reads .pkl files as data
from mmssl_ext.engine.checkpoint.write import wait_for_checkpoints
from mmssl_ext.engine.config import complete
from mmssl_ext.engine.config.checks import check_config
from mmssl_ext.engine.config.complete import Notices
from mmssl_ext.engine.config.read import import_modules, read
from mmssl_ext.engine.config.values import check_values
from mmssl_ext.engine.resilience.agreement import naming_lost_ranks, share
from mmssl_ext.engine.resilience.ranks import TIMEOUT, start_ranks
from mmssl_ext.errors import ConfigError
from mmssl_ext.text import shown
from mmssl_ext.transfer.data_check.check import check_data
from mmssl_ext.transfer.label_guard import guard_labels

from .leaving import leaving_by_sentence
from .runner import SSLRunner
from .starting import own_folders, set_checkpoint, set_start
from .terminal import StartHook
from .tool import run_tool as run_tool  # its place in version 0.1
from .work_dir import check_writable

__all__ = ["Prepared", "build_runner", "load_config", "prepare", "train"]

# The hooks that mmengine itself switches off where a config sets them to None.
_RUNNER_HOOKS = "runtime_info timer sampler_seed logger param_scheduler checkpoint"


@dataclass(frozen=True)
class Prepared:
    """A config that is checked and complete: what :func:`build_runner` takes.

    Attributes:
        cfg: The config.
        notices: Logging level and sentence of what the user should read in the log.
        resumed: The run was asked to go on from a checkpoint.
    """

    cfg: Config
    notices: Notices
    resumed: bool


def load_config(
    path: str | Path, cfg_options: Mapping[str, Any] | None = None, strict: bool = False
) -> Config:
    """Read a config as :func:`~mmssl_ext.engine.config.read.read` does, ready to build.

    Raises:
        ConfigError: It cannot be read, or a module of ``custom_imports`` is missing.
    """
    return import_modules(read(path, cfg_options, strict))


def prepare(
    cfg: Config,
    work_dir: str | None = None,
    resume: bool | str | os.PathLike[str] = False,
    amp: bool = False,
    auto_scale_lr: bool = False,
    launcher: str = "none",
    tensorboard: bool = False,
    wandb: bool = False,
    mlflow: bool = False,
    allow_other_data: bool = False,
    init_from: str | None = None,
) -> Prepared:
    """Check a config and complete it in place, so that a Runner can be built from it.

    Args:
        cfg: From :func:`load_config`.
        work_dir: Folder of the run; else the config's or ``work_dirs/<config name>``.
        resume: ``True`` for the newest readable checkpoint of the work_dir, or a path.
        amp: Train in mixed precision where there is a GPU.
        auto_scale_lr: Scale the learning rate by the true batch over
            ``auto_scale_lr.base_batch_size``.
        launcher: ``none``, ``pytorch``, ``slurm`` or ``mpi``.
        tensorboard: Also write TensorBoard files.
        wandb: Also log to Weights & Biases.
        mlflow: Also log to MLflow.
        allow_other_data: Resume although the training data are others.
        init_from: Starting weights of the backbone, as ``PretrainedBackbone`` takes
            them; a resumed run has its own.

    Raises:
        UserError: Something in the config or a file cannot be used.
    """
    resumed = resume is True or bool(cfg.get("resume"))
    if work_dir is not None:
        cfg.work_dir = work_dir
    elif cfg.get("work_dir") is None:
        cfg.work_dir = str(Path("work_dirs", Path(cfg.filename or "run").stem))
    _set_hooks(cfg, allow_other_data)
    if init_from is not None:
        set_start(cfg, init_from)
    notices = _check(cfg)
    cfg.work_dir = os.path.expanduser(cfg.work_dir)  # shells leave --work-dir=~/x
    complete.set_precision(cfg, amp, notices)
    complete.scale_lr(cfg, auto_scale_lr, launcher, notices)
    complete.set_backend(cfg, launcher, TIMEOUT, notices)
    set_checkpoint(cfg, resume, notices)
    wanted = {"tensorboard": tensorboard, "wandb": wandb, "mlflow": mlflow}
    complete.add_trackers(cfg, [name for name, asked in wanted.items() if asked])
    return Prepared(cfg, notices, resumed)


def train(
    config: str | Path | Config,
    cfg_options: Mapping[str, Any] | None = None,
    strict_config: bool = False,
    overwrite: bool = False,
    **options: Any,
) -> None:
    """Train a config, or test it where it has no ``train_cfg``.

    A work_dir that holds a run is refused, unless the run is resumed or ``overwrite``
    moves it aside.

    Args:
        config: Path or name of a config, or what
            :func:`~mmssl_ext.engine.config.read.read` made of one.
        cfg_options: Changes of the config, by path or name.
        strict_config: Take the config for data, by path or name.
        overwrite: Move a run that the work_dir holds aside.
        **options: Of :func:`prepare`.

    Raises:
        UserError: Something that the user can fix stops the run.
    """
    if overwrite and options.get("resume") is True:
        raise ConfigError(
            "--resume goes on with the run in the work_dir and --overwrite moves it "
            "aside: give one of the two."
        )
    with leaving_by_sentence() as place:
        if not isinstance(config, Config):
            config = read(config, cfg_options, strict_config)
        run = prepare(import_modules(config), **options)
        place.append(run.cfg.work_dir)
        start_ranks(run.cfg)
        dist_cfg = (run.cfg.get("env_cfg") or {}).get("dist_cfg") or {}
        timeout = dist_cfg.get("timeout", TIMEOUT)
        with naming_lost_ranks(run.cfg.work_dir, timeout, wait_for_checkpoints):
            _run(run, overwrite)


def _run(run: Prepared, overwrite: bool) -> None:
    cfg = run.cfg
    # Another node may see other files: rank 0 says what to go on from.
    chosen = share(lambda: (cfg.get("load_from"), bool(cfg.get("resume"))))
    cfg.load_from, cfg.resume = chosen
    if cfg.get("train_cfg") is None:
        check_writable(cfg.work_dir)
        build_runner(run).test()
        return
    with own_folders(cfg, overwrite, run.resumed, run.notices):
        runner = build_runner(run)
        try:
            runner.train()
        finally:
            wait_for_checkpoints()  # also where an exception ends the run


def build_runner(run: Prepared) -> Runner:
    """Build the Runner of a prepared config and log the notices of the preparation."""
    start_ranks(run.cfg)
    runner = SSLRunner.from_cfg(run.cfg)
    runner.register_hook(StartHook())
    for level, text in run.notices:
        runner.logger.log(level, text)
    return runner


def _set_hooks(cfg: Config, allow_other_data: bool) -> None:
    """Take out the hooks that are set to None, and pass on what resuming allows."""
    hooks = cfg.get("default_hooks") or {}
    if not isinstance(hooks, dict):
        return
    if "draw_key" in hooks:  # its name in version 0.1
        hooks["augmentation_seed"] = hooks.pop("draw_key")
    for name in [name for name, hook in hooks.items() if hook is None]:
        if name not in _RUNNER_HOOKS.split():
            hooks.pop(name)
    if allow_other_data and "resume" in hooks:
        hooks["resume"]["allow_other_data"] = True


def _check(cfg: Config) -> Notices:
    """Check values, then the parts of a pretraining or the data of a transfer."""
    check_values(cfg)
    notices = [
        (logging.INFO, f"{name}={shown(value)} of the environment is in the config.")
        for name, value in (cfg.env_variables or {}).items()
    ]
    if cfg.default_scope == "mmssl_ext":
        check_config(cfg)
        return notices
    notices += check_data(cfg)
    guard_labels(cfg)
    return notices
