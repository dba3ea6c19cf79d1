"""Of torch, torchvision and Python's pickle."""

from __future__ import annotations

import copy
import inspect
import pickle
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, nn

# -- torch --
# Operators without a public name, of torch 2.4 to 2.15. Gone: AttributeError at the
# first loss, which ``fused_queue=False`` avoids, or at the first step of the target.


def onednn_linear(a: Tensor, b: Tensor) -> Tensor:
    """``a @ b.T`` in fp32 by oneDNN."""
    import torch

    return torch.ops.mkldnn._linear_pointwise(a, b, None, "none", [], "")


def attention(q: Tensor, keys: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """Attention of B x S x N x D to keys that are values, with its log-sum-exps."""
    import torch

    if q.is_cuda:
        op = torch.ops.aten._scaled_dot_product_efficient_attention
        return op(q, keys, keys, None, True, scale=scale)[:2]
    op = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    return op(q, keys, keys, scale=scale)


def lerp(to: list[Tensor], towards: list[Tensor], weight: float) -> None:
    """Move tensors in place by a share of the way to others."""
    import torch

    torch._foreach_lerp_(to, towards, weight)


def clip_norms(tensors: list[Tensor], most: float) -> None:
    """Scale tensors in place, each that is longer than ``most`` down to it."""
    import torch

    factors = [
        (most / (norm + 1e-6)).clamp(max=1) for norm in torch._foreach_norm(tensors)
    ]
    torch._foreach_mul_(tensors, factors)


def with_module(model: nn.Module, name: str, module: nn.Module) -> nn.Module:
    """The model with another module of that name; all else is shared, not copied."""
    found = copy.copy(model)
    found._modules = {**model._modules, name: module}
    return found


def compile_training(module: nn.Module, options: dict) -> None:
    """Compile a module in place for its training mode; its state dict stays."""
    module.compile(**options)
    compiled: Any = module._compiled_call_impl

    def call(*args: Any, **kwargs: Any) -> Any:
        return (compiled if module.training else module._call_impl)(*args, **kwargs)

    # As nn.Module.compile itself stores it: copies of the module leave it out.
    module._compiled_call_impl = call


def copy_versions(source: dict, target: dict) -> None:
    """Keep the versions of modules that stand beside a state_dict, if there are any.

    Gone: modules whose layout has changed since would load an old state as a new one.
    """
    if hasattr(source, "_metadata"):
        target._metadata = {k: dict(v) for k, v in source._metadata.items()}  # type: ignore[attr-defined]


def count_steps(step: Any) -> None:
    """Mark a function as an optimizer's ``step`` whose calls schedules look at.

    Gone: schedules warn that they are stepped before the optimizer.
    """
    step._with_counter = True


# -- torch.distributed --


def rendezvous_store() -> Any:
    """The store by which the ranks found one another. Gone: AttributeError."""
    import torch.distributed as dist

    return dist.distributed_c10d._get_default_store()


# -- torchvision's library of compiled operators --
# Its file; `import torchvision` takes a second. Gone: check-env says that the operators
# do not run.


def torchvision_nms() -> Callable:
    """The compiled ``nms``.

    Raises:
        OSError: The library is missing, or built for another torch.
    """
    import torch

    spec = find_spec("torchvision")
    folders = (spec.submodule_search_locations if spec else None) or []
    files = [file for folder in folders for file in Path(folder).glob("_C*.so")]
    if not files:
        raise OSError("torchvision has no file _C.so")
    torch.ops.load_library(str(files[0]))
    return torch.ops.torchvision.nms


# -- torchvision's operations --
# Gone: AttributeError in a detector's first backward pass, where mmcv is not compiled.


def roi_align_backward(*arguments: Any) -> Any:
    """Gradient of RoIAlign with respect to its input."""
    import torch

    return torch.ops.torchvision._roi_align_backward(*arguments)


# -- torch's export to ONNX --
# The exporter that traces: it needs no further package, takes a tenth of the time of
# the newer one, and writes Swin. Gone: `mmssl-ext export --to onnx` is refused with
# torch's reason.


def export_onnx(
    module: Any,
    images: Any,
    path: Path,
    names: Sequence[str],
    axes: dict[str, dict[int, str]],
) -> None:
    """Write a module of one input, ``images``, as ONNX.

    Args:
        module: In eval mode.
        images: It is traced with these, N x C x H x W.
        path: Of the file.
        names: Of the outputs.
        axes: Names of those axes of inputs and outputs that may have any length.
    """
    import torch

    options: dict[str, Any] = {"input_names": ["images"], "output_names": [*names]}
    if "dynamo" in inspect.signature(torch.onnx.export).parameters:
        options["dynamo"] = False
    with torch.no_grad():
        torch.onnx.export(
            module,
            (images,),
            str(path),
            dynamic_axes=axes,
            opset_version=17,
            **options,
        )


# -- Python's pickle --
# The unpickler in C fills gigabytes of memory where a file of ten bytes numbers its
# objects from 2^31; the one in Python does not. Gone: AttributeError at import.

PythonUnpickler: Any = pickle._Unpickler
