"""Mixed precision of a config, as far as this machine has it."""

from __future__ import annotations

import logging

import torch
from mmengine.config import Config
from mmengine.device import get_device

from mmssl_ext.errors import ConfigError

Notices = list[tuple[int, str]]  # logging level and sentence


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
    mixed = wrapper.get("type", "OptimWrapper").endswith("AmpOptimWrapper")
    if not (amp or mixed):
        return
    if get_device() in ("cpu", "mps"):
        for name in ("loss_scale", "dtype", "use_fsdp"):
            wrapper.pop(name, None)
        wrapper.type = "OptimWrapper"
        notices.append(
            (logging.WARNING, "No GPU here: no mixed precision, training in fp32.")
        )
        return
    if not mixed:
        if not wrapper.get("type", "OptimWrapper").endswith("OptimWrapper"):
            raise ConfigError(
                f"--amp replaces OptimWrapper, but optim_wrapper.type is {wrapper.type}"
                "; set its precision in the config."
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
