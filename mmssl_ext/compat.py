"""Names that torch, mmengine and the mm packages do not promise, in one place.

Nothing else in the package uses a name of theirs that begins with an underscore or
replaces one of their functions (a test looks for both). Tried with torch 2.4, 2.11 and
2.15, mmengine 0.10.7 and onedl-mmengine 0.10.12, mmcv 2.1 and onedl-mmcv 2.3.6, mmdet
3.3 and onedl-mmdetection 3.5.1. Each entry says what happens where a name is gone.
"""

from __future__ import annotations

import contextlib
import pickle
from collections.abc import Callable, Iterator
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


# -- mmengine's hooks and loops, for checkpoints and exact resume --
# Gone: AttributeError at the start of a run.


def accumulative_counts(wrapper: Any) -> int:
    """Iterations whose gradients make one optimizer step; 1 of a wrapper without."""
    return getattr(wrapper, "_accumulative_counts", 1)


def publish(hook: Any, runner: Any, path: str) -> None:
    """Let mmengine's CheckpointHook write the ``published_keys`` of a checkpoint."""
    hook._publish_model(runner, path)


def end_epoch(loop: Any) -> None:
    """Count an epoch of a training loop."""
    loop._epoch += 1


def decide_val_interval(loop: Any) -> None:
    """Let a training loop find out how often it validates at this epoch."""
    loop._decide_current_val_interval()


# -- torch's DataLoader --


@contextlib.contextmanager
def dealt_by(loader: Any, wrap: Callable[[Any], Any]) -> Iterator[None]:
    """Let the iterator that a DataLoader makes now take indices from another sampler.

    A DataLoader refuses another one as attribute, for nothing would ensure that it
    fits. Persistent workers that are at work already are given up. Gone: a resume
    inside an epoch stops with an AttributeError.

    Args:
        loader: The DataLoader.
        wrap: Makes the sampler from the one that is there.
    """
    loader._iterator = None
    name = "sampler" if loader.batch_sampler is None else "batch_sampler"
    dealer = getattr(loader, name)
    object.__setattr__(loader, name, wrap(dealer))
    try:
        yield
    finally:
        object.__setattr__(loader, name, dealer)


# -- Python's pickle --
# The unpickler in C fills gigabytes of memory where a file of ten bytes numbers its
# objects from 2^31; the one in Python does not. Gone: AttributeError at import.

PythonUnpickler: Any = pickle._Unpickler

# -- mmengine's initialisation of weights --
# Gone: later initialisers erase what was loaded, and HandoverHook refuses the run;
# AttributeError at the import of mmssl_ext.transfer.


def keep_initialised(module: Any) -> None:
    """Keep later initialisers off a module."""
    module._is_init = True


def note_initialised(module: Any, how: str) -> None:
    """Say in mmengine's log of initialisations, while it keeps one, what was done."""
    from mmengine.model import update_init_info

    if hasattr(module, "_params_init_info"):
        update_init_info(module, init_info=how)


def before_pretrained(check: Callable[[Any, str, str | None], None]) -> None:
    """Call a check of module, path and prefix before ``Pretrained`` loads; once."""
    from mmengine.model import PretrainedInit

    load = PretrainedInit.__call__
    if hasattr(load, "checked"):
        return

    def checked(self: Any, module: Any) -> None:
        check(module, self.checkpoint, self.prefix)
        load(self, module)

    checked.checked = True  # type: ignore[attr-defined]
    PretrainedInit.__call__ = checked


# -- Data preprocessors of mmengine and the mm packages --
# Gone: the order of channels is neither recorded nor compared, and images that nothing
# normalises are not warned of.


def swaps_channels(preprocessor: Any) -> bool | None:
    """Whether BGR images become RGB; None where it does not say."""
    # mmdet's and mmseg's name; mmpretrain's may be given either by the loader.
    names = ("_channel_conversion", "channel_conversion")
    known = [vars(preprocessor)[n] for n in names if n in vars(preprocessor)]
    return all(known) if known else None


def normalises(preprocessor: Any) -> bool:
    """Whether mean and std are applied."""
    return bool(getattr(preprocessor, "_enable_normalize", True))


# -- mmdet's CocoMetric --


def ground_truth(metric: Any) -> Any:
    """The COCO object of its annotation file, or None. Gone: AttributeError."""
    return metric._coco_api


# -- torchvision's operations --
# Gone: AttributeError in a detector's first backward pass, where mmcv is not compiled.


def roi_align_backward(*arguments: Any) -> Any:
    """Gradient of RoIAlign with respect to its input."""
    import torch

    return torch.ops.torchvision._roi_align_backward(*arguments)
