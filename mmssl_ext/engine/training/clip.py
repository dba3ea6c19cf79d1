"""Gradients that are clipped parameter by parameter."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from mmengine.hooks import Hook
from torch import Tensor

from mmssl_ext import compat
from mmssl_ext.errors import UserValueError
from mmssl_ext.registry import HOOKS


@HOOKS.register_module()
class ClipEachHook(Hook):
    """Limit the norm of every parameter's gradient, each by itself.

    For DINO (arXiv 2104.14294). The ``clip_grad`` of mmengine's optimizer wrappers
    limits the norm of all gradients together, or each value. Their step then clips in
    this way: after accumulation, and after fp16's scale was taken off.

    Args:
        max_norm: Largest norm of a gradient.

    Raises:
        ValueError: ``max_norm`` is not positive, or ``clip_grad`` is set besides.
    """

    def __init__(self, max_norm: float = 3.0) -> None:
        number = isinstance(max_norm, (int, float)) and not isinstance(max_norm, bool)
        if not number or not max_norm > 0:
            raise UserValueError(
                f"ClipEachHook: max_norm={max_norm!r} must be above 0; 3 is DINO's."
            )
        self.max_norm = max_norm

    def before_train(self, runner: Any) -> None:
        """Let the optimizer wrapper clip so."""
        wrapper = runner.optim_wrapper
        known = getattr(wrapper, "clip_func", clip_each)
        if wrapper.clip_grad_kwargs and known is not clip_each:
            raise UserValueError(
                "ClipEachHook clips gradients, and so does optim_wrapper.clip_grad; "
                "leave one of them out."
            )
        wrapper.clip_func = clip_each
        wrapper.clip_grad_kwargs = {"max_norm": self.max_norm}


@torch.no_grad()
def clip_each(parameters: Iterable[Tensor], max_norm: float) -> None:
    """Scale every gradient whose norm is above ``max_norm`` down to it, in place."""
    grads = [p.grad for p in parameters if p.grad is not None]
    if grads:
        compat.clip_norms(grads, max_norm)
