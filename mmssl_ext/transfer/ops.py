"""A stand-in for mmcv's compiled ops, backed by torchvision's.

mmdet and mmseg import names of ``mmcv._ext`` wherever they use any of its ops, so that
without the extension (half an hour of compiling) they do not even import. R-CNN, one-
stage and segmentation models need three of them: NMS and RoIAlign, which torchvision
ships compiled for CPU and GPU, and on a GPU the sigmoid focal loss. Any other op raises
an error that says how to get it. A compiled ``mmcv._ext`` is always preferred.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

import torch
import torchvision  # its import registers torch.ops.torchvision
from mmengine.registry import Registry
from torch import Tensor
from torch.nn.functional import logsigmoid

from mmssl_ext.compat import roi_align_backward as _gradient

NAME = "mmcv._ext"


def install() -> bool:
    """Put the stand-in in the place of ``mmcv._ext`` unless that is compiled.

    Returns:
        Whether the stand-in is in use.
    """
    if NAME not in sys.modules and importlib.util.find_spec(NAME) is None:
        sys.modules[NAME] = _StandIn()
        _forget_imports_without_ops()
    return isinstance(sys.modules.get(NAME), _StandIn)


def _forget_imports_without_ops() -> None:
    """Have mmdet import anew what it imported before there were ops.

    ``mmpretrain.models`` tries to import it. Some of mmdet's modules get through and
    keep dummies in the place of ops, which raise when they are called.
    """
    kept = ("mmdet.registry", "mmdet.version")
    for name in [n for n in sys.modules if n.startswith("mmdet.") and n not in kept]:
        del sys.modules[name]
    for registry in vars(sys.modules.get("mmdet.registry", ModuleType(""))).values():
        if isinstance(registry, Registry):  # mmdet's own and mmengine's
            sources = ("mmdet.", "torch.") if registry.scope == "mmdet" else "mmdet."
            for key, entry in list(registry.module_dict.items()):
                if entry.__module__.startswith(sources):
                    del registry.module_dict[key]


class _StandIn(ModuleType):
    """Has every op by name; those that torchvision lacks raise when they are called."""

    def __init__(self) -> None:
        super().__init__(NAME, "torchvision-backed stand-in of mmssl_ext")
        self.__spec__ = ModuleSpec(NAME, None)
        for op in (
            nms,
            roi_align_forward,
            roi_align_backward,
            sigmoid_focal_loss_forward,
            sigmoid_focal_loss_backward,
        ):
            setattr(self, op.__name__, op)

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name.startswith("__"):
            raise AttributeError(name)

        def missing(*args: Any, **kwargs: Any) -> None:
            raise NotImplementedError(
                f"mmcv's op '{name}' is needed here, but this mmcv was installed "
                "without compiled ops, and torchvision has no such op. Compile them: "
                "pip install --no-build-isolation --force-reinstall --no-deps "
                "onedl-mmcv (with torch, setuptools and ninja installed; on a GPU "
                "machine with FORCE_CUDA=1)."
            )

        return missing


def _wide(x: Tensor) -> Tensor:
    """At least fp32: torchvision has no kernels for bfloat16."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


# The signatures are those by which mmcv/ops/*.py call the extension: outputs are
# tensors of zeros that the op fills.


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float, offset: int) -> Tensor:
    """Greedy non-maximum suppression.

    Args:
        boxes: n x 4, corners.
        scores: n.
        iou_threshold: Of two boxes with a larger overlap the worse one goes.
        offset: 1 where the right and lower corners belong to the box.

    Returns:
        Indices of the boxes that stay, best first.
    """
    if offset:  # then a width is x2 - x1 + 1
        boxes = boxes + boxes.new_tensor([0, 0, offset, offset])
    return torchvision.ops.nms(_wide(boxes), _wide(scores), iou_threshold)


def roi_align_forward(
    input: Tensor,
    rois: Tensor,
    output: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    **options: Any,
) -> None:
    """RoIAlign by averaging: N x C x H x W and n x 5 to n x C x height x width."""
    bins, grid = _geometry(**options)
    roi_align = torch.ops.torchvision.roi_align
    output.copy_(roi_align(_wide(input), _wide(rois), *bins, *grid))


def roi_align_backward(
    grad_output: Tensor,
    rois: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    grad_input: Tensor,
    **options: Any,
) -> None:
    """Gradient of :func:`roi_align_forward` with respect to its input."""
    bins, grid = _geometry(**options)
    shape = grad_input.shape
    grad_input.copy_(_gradient(_wide(grad_output), _wide(rois), *bins, *shape, *grid))


def _geometry(
    *,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> tuple[tuple, tuple]:
    if pool_mode != 1:
        raise NotImplementedError(
            "RoIAlign with pool_mode='max' needs mmcv's compiled ops; without them "
            "only 'avg' is there."
        )
    return (spatial_scale, aligned_height, aligned_width), (sampling_ratio, aligned)


def sigmoid_focal_loss_forward(
    input: Tensor,
    target: Tensor,
    weight: Tensor,
    output: Tensor,
    *,
    gamma: float,
    alpha: float,
) -> None:
    """Focal loss of n x classes logits (arXiv 1708.02002, equation 5).

    Args:
        input: Logits, n x classes.
        target: Class of each row, n; the number of classes means background.
        weight: Factor of each row by its class, or empty; background counts 1.
        output: n x classes, receives the losses.
        gamma: Focusing exponent.
        alpha: Weight of the positives.
    """
    yes, no = logsigmoid(input), logsigmoid(-input)  # log p and log (1 - p)
    hit = alpha * torch.exp(gamma * no) * yes
    miss = (1 - alpha) * torch.exp(gamma * yes) * no
    one_hot = target[:, None] == torch.arange(input.shape[1], device=input.device)
    loss = -torch.where(one_hot, hit, miss)
    if weight.numel():
        # mmcv's kernel reads past the end of ``weight`` for the background.
        loss = loss * torch.cat([weight, weight.new_ones(1)])[target][:, None]
    output.copy_(loss)


def sigmoid_focal_loss_backward(
    input: Tensor,
    target: Tensor,
    weight: Tensor,
    grad_input: Tensor,
    *,
    gamma: float,
    alpha: float,
) -> None:
    """Gradient of :func:`sigmoid_focal_loss_forward` with respect to the logits."""
    with torch.enable_grad():
        logits, loss = input.detach().requires_grad_(), torch.zeros_like(input)
        options = {"gamma": gamma, "alpha": alpha}
        sigmoid_focal_loss_forward(logits, target, weight, loss, **options)
        grad_input.copy_(torch.autograd.grad(loss.sum(), logits)[0])
