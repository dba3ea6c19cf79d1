"""From a config file and options to a Runner; the tools only parse arguments."""

from __future__ import annotations

import importlib.util
import inspect
import logging
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.runner import Runner

import mmssl_ext.pickles  # noqa: F401  # so that mmengine reads .pkl files as data
from mmssl_ext.engine.checkpoint.write import wait_for_checkpoints
from mmssl_ext.engine.config.checks import check_config, closest
from mmssl_ext.engine.config.environment import enable_environment, enable_file_names
from mmssl_ext.engine.config.options import enable_options, merge
from mmssl_ext.engine.config.precision import set_precision
from mmssl_ext.engine.config.strict import check_names, check_strict, enforce
from mmssl_ext.engine.config.values import check_values
from mmssl_ext.engine.config.variables import config_files, read_config, variables
from mmssl_ext.engine.resilience.agreement import naming_lost_ranks, share
from mmssl_ext.engine.resilience.ranks import TIMEOUT, start_ranks
from mmssl_ext.errors import ConfigError
from mmssl_ext.packaged import enable_bases, find_config
from mmssl_ext.room import no_room
from mmssl_ext.transfer.data_check.check import check_data
from mmssl_ext.transfer.label_guard import guard_labels

from .leaving import leaving_by_sentence
from .runner import SSLRunner
from .starting import own_folders, set_checkpoint
from .tool import run_tool as run_tool
from .work_dir import check_writable

enable_bases()
enable_environment()
enable_file_names()
enable_options()

Notices = list[tuple[int, str]]  # logging level and sentence, said once there is a log

# Read by mmengine's Runner: its arguments and what it looks up in the config besides.
_RUNNER_KEYS = {
    *inspect.signature(Runner).parameters,
    *("compile", "sync_bn", "find_unused_parameters", "model_wrapper_cfg"),
    *("activation_checkpointing", "efficient_conv_bn_eval", "custom_imports"),
    "runner_type",
}
# The hooks that mmengine itself switches off where a config sets them to None.
_RUNNER_HOOKS = "runtime_info timer sampler_seed logger param_scheduler checkpoint"
_WORLD_SIZE = {
    "none": "",
    "pytorch": "WORLD_SIZE",
    "slurm": "SLURM_NTASKS",
    "mpi": "OMPI_COMM_WORLD_SIZE",
}


def load_config(
    path: str | Path, cfg_options: dict | None = None, strict: bool = False
) -> Config:
    """Read a config file and apply ``--cfg-options``.

    A path that leads to no file names a config of the package (``co2/co2_r18_demo.py``,
    ``mmssl_ext::co2/co2_r18_demo.py``). An option that names a variable at the top
    level of the file or of one of its bases changes everything that the files compute
    from it. ``strict`` takes the files for data (see
    :mod:`~mmssl_ext.engine.config.strict`).

    Raises:
        ConfigError: The file or one of its bases is missing or no valid config, or an
            option names nothing that takes effect.
    """
    try:
        path = find_config(path)
    except FileNotFoundError as error:
        raise ConfigError(str(error)) from error
    if strict:
        check_strict(path)
        enforce()
    elif os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())  # where `custom_imports` has modules of the user's
    options = dict(cfg_options or {})
    try:
        config_files(path)  # mmengine would follow a circle of bases without end
        cfg = read_config(path, _take_variables(path, options), _RUNNER_KEYS)
    except FileNotFoundError as error:
        raise ConfigError(
            f"Config {path} needs a file that does not exist: {error}. Check _base_."
        ) from error
    except SyntaxError as error:
        raise ConfigError(
            f"Config {path} or one of its bases is not valid Python: line "
            f"{error.lineno}: {error.msg}."
        ) from error
    except ImportError as error:
        raise ConfigError(
            f"Config {path}: {error} Start from the folder that holds the module, or "
            "name that folder in PYTHONPATH."
        ) from error
    # Suffix, duplicate or odd keys, a value of another kind than it is taken apart as.
    except (OSError, KeyError, TypeError, ValueError) as error:
        if (full := no_room(error)) is not None:
            raise ConfigError(
                f"Config {path} cannot be read by way of a copy in "
                f"{tempfile.gettempdir()}: {full.strerror}. Make room there, or let "
                "TMPDIR name another folder."
            ) from error
        raise ConfigError(f"Config {path} cannot be read: {error}") from error
    for option in options:
        _check_option(option, cfg)
    try:
        merge(cfg, options)
    except (KeyError, TypeError, IndexError, AttributeError) as error:
        raise ConfigError(
            f"--cfg-options cannot be applied to {path}: {error}"
        ) from error
    if strict:
        check_names(cfg)
    cfg.setdefault("default_scope", "mmssl_ext")
    return cfg


def prepare(
    cfg: Config,
    work_dir: str | None = None,
    resume: bool | str | os.PathLike[str] = False,
    amp: bool = False,
    auto_scale_lr: bool = False,
    launcher: str = "none",
    tensorboard: bool = False,
    allow_other_data: bool = False,
) -> Notices:
    """Complete and check a config in place, so that ``Runner.from_cfg`` can take it.

    Args:
        cfg: From :func:`load_config`.
        work_dir: Folder of the run; else the config's or ``work_dirs/<config name>``.
        resume: ``True`` for the newest readable checkpoint of the work_dir, or a path.
        amp: Train in mixed precision where there is a GPU.
        auto_scale_lr: Scale the learning rate by the true batch over
            ``auto_scale_lr.base_batch_size``.
        launcher: ``none``, ``pytorch``, ``slurm`` or ``mpi``.
        tensorboard: Also write TensorBoard files.
        allow_other_data: Resume although the training data are others.

    Returns:
        What the user should read in the log.

    Raises:
        UserError: Something in the config or a file cannot be used.
    """
    notices: Notices = []
    if work_dir is not None:
        cfg.work_dir = work_dir
    check_values(cfg)
    hooks = cfg.get("default_hooks") or {}
    for name in [name for name, hook in hooks.items() if hook is None]:
        if name not in _RUNNER_HOOKS.split():
            hooks.pop(name)
    if allow_other_data and "resume" in hooks:
        hooks["resume"]["allow_other_data"] = True
    if cfg.default_scope == "mmssl_ext":
        check_config(cfg)
    else:
        notices += check_data(cfg)
        guard_labels(cfg)
    cfg.launcher = launcher
    if cfg.get("work_dir") is None:
        cfg.work_dir = str(Path("work_dirs", Path(cfg.filename or "run").stem))
    cfg.work_dir = os.path.expanduser(cfg.work_dir)  # shells leave --work-dir=~/x
    set_precision(cfg, amp, notices)
    _scale_lr(cfg, auto_scale_lr, launcher, notices)
    _set_backend(cfg, launcher, notices)
    set_checkpoint(cfg, resume, notices)
    if tensorboard:
        _add_tensorboard(cfg)
    return notices


def train(
    config: str | Path,
    cfg_options: dict | None = None,
    strict_config: bool = False,
    overwrite: bool = False,
    **options: Any,
) -> None:
    """Train a config, or test it where it has no ``train_cfg``.

    A work_dir that holds a run is refused, unless the run is resumed or ``overwrite``
    moves it aside. ``options`` are those of :func:`prepare`.

    Raises:
        UserError: Something that the user can mend stops the run.
    """
    if overwrite and options.get("resume") is True:
        raise ConfigError(
            "--resume goes on with the run in the work_dir and --overwrite moves it "
            "aside: give one of the two."
        )
    with leaving_by_sentence() as place:
        cfg = load_config(config, cfg_options, strict_config)
        asked = options.get("resume") is True or bool(cfg.get("resume"))
        notices = prepare(cfg, **options)
        place.append(cfg.work_dir)
        _train(cfg, overwrite, asked, notices)


def _train(cfg: Config, overwrite: bool, asked: bool, notices: Notices) -> None:
    start_ranks(cfg)
    dist_cfg = (cfg.get("env_cfg") or {}).get("dist_cfg") or {}
    timeout = dist_cfg.get("timeout", TIMEOUT)
    with naming_lost_ranks(cfg.work_dir, timeout, before_exit=wait_for_checkpoints):
        # Another node may see other files: rank 0 says what to go on from.
        chosen = share(lambda: (cfg.get("load_from"), bool(cfg.get("resume"))))
        cfg.load_from, cfg.resume = chosen
        if cfg.get("train_cfg") is None:
            check_writable(cfg.work_dir)
            build_runner(cfg, notices).test()
            return
        with own_folders(cfg, overwrite, asked, notices):
            runner = build_runner(cfg, notices)
            try:
                runner.train()
            finally:
                wait_for_checkpoints()  # also where an exception ends the run


def build_runner(cfg: Config, notices: Notices = []) -> Runner:  # noqa: B006
    """Build the Runner of a prepared config and log the notices of the preparation."""
    start_ranks(cfg)
    runner = SSLRunner.from_cfg(cfg)
    for level, text in notices:
        runner.logger.log(level, text)
    return runner


def _take_variables(path: Path, options: dict) -> dict[str, Any]:
    """Take the options out that name a variable of the config's files."""
    names = {name for name in options if "." not in name} - _RUNNER_KEYS
    return (
        {name: options.pop(name) for name in names & variables(path)} if names else {}
    )


def _check_option(option: str, cfg: Config) -> None:
    """Refuse an option that the Runner would never look at."""
    root = option.split(".")[0]
    if root in _RUNNER_KEYS:
        return
    if root not in cfg:
        raise ConfigError(
            f"--cfg-options {option}: the config has no '{root}'."
            f"{closest(root, _RUNNER_KEYS | set(cfg))}"
        )
    raise ConfigError(
        f"--cfg-options {option}: '{root}' is a variable that the config file puts to "
        f"use as a whole. Give all of it ({root}=...), or change it where it is used."
    )


def _scale_lr(cfg: Config, wanted: bool, launcher: str, notices: Notices) -> None:
    rule = cfg.get("auto_scale_lr") or {}
    if not (wanted or rule.get("enable")) or cfg.get("optim_wrapper") is None:
        return
    base = rule.get("base_batch_size")
    if not base or "optimizer" not in cfg.optim_wrapper:
        raise ConfigError(
            "--auto-scale-lr needs auto_scale_lr = dict(base_batch_size=...), the "
            "batch that optim_wrapper.optimizer.lr is meant for, in the config."
        )
    loader = cfg.train_dataloader
    per_rank = loader.get("batch_size") or loader.batch_sampler.batch_size
    ranks = int(os.environ.get(_WORLD_SIZE[launcher], 1))
    steps = cfg.optim_wrapper.get("accumulative_counts", 1)
    batch = per_rank * ranks * steps
    optimizer = cfg.optim_wrapper.optimizer
    old, optimizer.lr = optimizer.lr, optimizer.lr * batch / base
    # mmengine would scale again, without the accumulation. The new lr belongs to the
    # new batch, so a second pass over this config changes nothing.
    cfg.auto_scale_lr = {"enable": False, "base_batch_size": batch}
    notices.append(
        (
            logging.INFO,
            f"Learning rate {old:g} x {batch}/{base} = {optimizer.lr:g}: {per_rank} "
            f"images x {ranks} ranks x {steps} accumulated steps, base {base}.",
        )
    )


def _set_backend(cfg: Config, launcher: str, notices: Notices) -> None:
    if launcher == "none":
        return
    names = [_WORLD_SIZE[launcher]] + (["RANK"] if launcher == "pytorch" else [])
    if missing := [name for name in names if name not in os.environ]:
        raise ConfigError(
            f"--launcher {launcher} needs {' and '.join(missing)} in the environment: "
            "start by tools/dist_train.sh or torchrun (pytorch), srun (slurm) or "
            "mpirun (mpi)."
        )
    # `Config.setdefault` returns the default itself, not what it stored.
    cfg.env_cfg = cfg.get("env_cfg") or {}
    cfg.env_cfg.dist_cfg = cfg.env_cfg.get("dist_cfg") or {}
    cfg.env_cfg.dist_cfg.setdefault("timeout", TIMEOUT)
    if torch.cuda.is_available():
        cfg.env_cfg.dist_cfg.setdefault("backend", "nccl")
    elif get_device() == "cpu":
        cfg.env_cfg.dist_cfg.backend = "gloo"
        cfg.model_wrapper_cfg = {
            "type": "MMDistributedDataParallel",
            "broadcast_buffers": False,
            "find_unused_parameters": cfg.get("find_unused_parameters", False),
            **(cfg.get("model_wrapper_cfg") or {}),
            "device_ids": None,  # mmengine would name a GPU
        }
        cfg.pop("sync_bn", None)  # torch has it for GPUs only
        notices.append((logging.INFO, "No GPU here: ranks work on the CPU over gloo."))


def _add_tensorboard(cfg: Config) -> None:
    if importlib.util.find_spec("tensorboard") is None:
        raise ConfigError(
            "--tensorboard needs the tensorboard package: pip install tensorboard"
        )
    visualizer = cfg.get("visualizer") or {"type": "Visualizer"}
    backends = list(visualizer.get("vis_backends") or [{"type": "LocalVisBackend"}])
    if not any(b["type"].endswith("TensorboardVisBackend") for b in backends):
        backends.append({"type": "TensorboardVisBackend"})
    cfg.visualizer = {**visualizer, "vis_backends": backends}
