"""What a config leaves to the machine: precision, true batch, backend of the ranks."""

from __future__ import annotations

import importlib.util
import logging
import os
from collections.abc import Iterable, Sequence

import torch
from mmengine.config import Config
from mmengine.device import get_device

from mmssl_ext.errors import ConfigError

Notices = list[tuple[int, str]]  # logging level and sentence, said once there is a log

#: Option and package -> its backend of the visualizer.
TRACKERS = {
    "tensorboard": "TensorboardVisBackend",
    "wandb": "mmssl_ext.WandbBackend",
    "mlflow": "mmssl_ext.MLflowBackend",
}
_WORLD_SIZE = {
    "none": "",
    "pytorch": "WORLD_SIZE",
    "slurm": "SLURM_NTASKS",
    "mpi": "OMPI_COMM_WORLD_SIZE",
}


def set_precision(cfg: Config, amp: bool, notices: Notices) -> None:
    """Settle the precision of training in place; without a GPU it is fp32.

    Args:
        cfg: Of the run.
        amp: Mixed precision is wanted, whatever the config says.
        notices: What the user should read in the log is appended.

    Raises:
        ConfigError: The optimizer wrapper is of a kind that has no mixed precision.
    """
    wrapper = cfg.get("optim_wrapper")
    if wrapper is None:
        return
    kind = wrapper.get("type", "OptimWrapper")
    mixed = kind.endswith("AmpOptimWrapper")
    if not (amp or mixed):
        return
    if get_device() in ("cpu", "mps"):
        for name in ("loss_scale", "dtype", "use_fsdp"):
            wrapper.pop(name, None)
        wrapper.type = "OptimWrapper"
        text = "No GPU here: no mixed precision, training in fp32."
        notices.append((logging.WARNING, text))
        return
    if not mixed:
        if not kind.endswith("OptimWrapper"):
            raise ConfigError(
                f"--amp replaces OptimWrapper, but optim_wrapper.type is {kind}; set "
                "its precision in the config."
            )
        wrapper.type, wrapper.dtype = "AmpOptimWrapper", "bfloat16"
        # bfloat16 has the range of fp32: its gradients need no scaling.
        wrapper.loss_scale = {"enabled": False}
    if str(wrapper.get("dtype")).endswith("bfloat16") and not _has_bfloat16():
        wrapper.dtype, wrapper.loss_scale = "float16", "dynamic"
        text = "This GPU has no bfloat16: float16 with a dynamic loss scale instead."
        notices.append((logging.WARNING, text))


def _has_bfloat16() -> bool:
    if not torch.cuda.is_available():  # an accelerator of another kind
        return True
    return torch.cuda.is_bf16_supported(including_emulation=False)


def scale_lr(cfg: Config, wanted: bool, launcher: str, notices: Notices) -> None:
    """Scale the learning rate in place by the true batch over the config's base batch.

    Raises:
        ConfigError: It is wanted, but the config has no base batch.
    """
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
    text = (
        f"Learning rate {old:g} x {batch}/{base} = {optimizer.lr:g}: {per_rank} images "
        f"x {ranks} ranks x {steps} accumulated steps, base {base}."
    )
    notices.append((logging.INFO, text))


def set_backend(cfg: Config, launcher: str, timeout: float, notices: Notices) -> None:
    """Say in the config how the ranks talk to each other.

    Args:
        cfg: Of the run.
        launcher: ``none``, ``pytorch``, ``slurm`` or ``mpi``.
        timeout: Seconds to wait for another rank, where the config sets none.
        notices: What the user should read in the log is appended.

    Raises:
        ConfigError: The environment is not the launcher's.
    """
    cfg.launcher = launcher
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
    cfg.env_cfg.dist_cfg.setdefault("timeout", timeout)
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


def check_trackers(names: Iterable[str]) -> None:
    """Refuse those of :data:`TRACKERS` whose package is missing.

    Raises:
        ConfigError: A package is not installed.
    """
    for name in names:
        spec = importlib.util.find_spec(name)
        if spec is None or spec.origin is None:  # a folder `wandb` is no package
            raise ConfigError(
                f"--{name} needs the package {name}: pip install 'mmssl_ext[{name}]'."
            )


def add_trackers(cfg: Config, names: Sequence[str]) -> None:
    """Let the run also tell its figures and pictures to other programs.

    Args:
        cfg: Of the run, changed in place.
        names: Keys of :data:`TRACKERS`.

    Raises:
        ConfigError: A package is not installed.
    """
    check_trackers(names)
    for name in names:
        visualizer = cfg.get("visualizer") or {"type": "Visualizer"}
        backends = list(visualizer.get("vis_backends") or [{"type": "LocalVisBackend"}])
        if not any(name in str(backend["type"]).lower() for backend in backends):
            backends.append({"type": TRACKERS[name]})
        cfg.visualizer = {**visualizer, "vis_backends": backends}
