"""Names that torch, mmengine and the mm packages do not promise, in one place.

Nothing else in the package uses a name of theirs that begins with an underscore or
replaces one of their functions (a test looks for both). Tried with torch 2.4, 2.11 and
2.15, mmengine 0.10.7 and onedl-mmengine 0.10.12, mmcv 2.1 and onedl-mmcv 2.3.6, mmdet
3.3 and onedl-mmdetection 3.5.1. Each entry says what happens where a name is gone.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

# -- mmengine's Config and DictAction --
# The steps by which a config file is read, and the values of --cfg-options. Gone:
# AttributeError when a tool starts.

_CONFIG_STEPS = {
    "environment": "_substitute_env_variables",
    "file_names": "_substitute_predefined_vars",
    "bases": "_pre_substitute_base_vars",
    "base_path": "_get_cfg_path",
    "file": "fromfile",
}


def config_step(name: str) -> Callable:
    """A step of reading a config file, as it is now."""
    from mmengine.config import Config

    return getattr(Config, _CONFIG_STEPS[name])


def replace_config_step(name: str, make: Callable[[Callable], Callable]) -> None:
    """Put a function in the place of a step, once; ``make`` gets the step before."""
    from mmengine.config import Config

    before = config_step(name)
    if not hasattr(before, "replaces"):
        step = wraps(before)(make(before))
        step.replaces = before  # type: ignore[attr-defined]
        setattr(Config, _CONFIG_STEPS[name], staticmethod(step))


def set_config_filename(cfg: Any, path: str) -> None:
    """Let a config say which file it is of."""
    object.__setattr__(cfg, "_filename", path)


def read_options_by(parse: Callable[[str], Any], store: Callable) -> None:
    """Let mmengine's DictAction read values and keep them by these functions."""
    from mmengine.config import DictAction

    DictAction._parse_iterable = staticmethod(parse)
    DictAction.__call__ = store


def plain_value(text: str) -> Any:
    """A number, True, False or None by what it looks like, else the text."""
    from mmengine.config import DictAction

    return DictAction._parse_int_float_bool(text)


# -- mmengine's Runner --
# Its loops are configs until they are built, and properties build them at the first
# look; the names with an underscore look without building. Gone: AttributeError at the
# start of a run.


def train_loop(runner: Any) -> Any:
    """The training loop as it stands: built, still a config, or None."""
    return runner._train_loop


def val_loop(runner: Any) -> Any:
    """The validation loop as it stands: built, still a config, or None."""
    return runner._val_loop


def test_loop(runner: Any) -> Any:
    """The test loop as it stands: built, still a config, or None."""
    return runner._test_loop


def resumes(runner: Any) -> bool:
    """Whether the run goes on from a checkpoint."""
    return runner._resume


def load_from(runner: Any) -> str | None:
    """The file that the run starts or goes on from."""
    return runner._load_from


def start_from(runner: Any, path: str | None, resume: bool) -> None:
    """Let the run start or go on from a file."""
    runner._load_from, runner._resume = path, resume


def train_data(runner: Any) -> Any:
    """The data loader of the training as it stands: built, or still a config."""
    return runner._train_dataloader


def initialise(runner: Any) -> None:
    """Initialise the weights of the model as before a training."""
    runner._init_model_weights()


# -- torch --
# Operators without a public name, of torch 2.4 to 2.15. Gone: AttributeError at the
# first loss, which ``fused_queue=False`` avoids, or at the first step of the target.

if TYPE_CHECKING:
    from torch import Tensor, nn


def __getattr__(name: str) -> Any:
    if name == "BatchNorm":  # the base of all of torch's; imported when asked for
        from torch.nn.modules.batchnorm import _BatchNorm

        return _BatchNorm
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


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


def compile_training(module: nn.Module, options: dict) -> None:
    """Compile a module in place for its training mode; its state dict stays."""
    module.compile(**options)
    compiled: Any = module._compiled_call_impl

    def call(*args: Any, **kwargs: Any) -> Any:
        return (compiled if module.training else module._call_impl)(*args, **kwargs)

    # As nn.Module.compile itself stores it: copies of the module leave it out.
    module._compiled_call_impl = call


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
