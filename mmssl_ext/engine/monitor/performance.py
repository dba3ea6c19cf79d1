"""How fast against how exact: layout, TF32, compilation, copies to the GPU."""

from __future__ import annotations

import os
from typing import Any

import torch
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import BaseLoop
from torch import nn

from mmssl_ext import compat
from mmssl_ext.engine.resilience.prefetch import CopyToDevice, prefetch
from mmssl_ext.errors import ConfigError, UserValueError
from mmssl_ext.registry import HOOKS
from mmssl_ext.unwrap import unwrap

_TF32 = ("none", "conv", "all")


@HOOKS.register_module()
class PerformanceHook(Hook):
    """Set up how the model runs on its device, and say so in one line of the log.

    The result is the same model up to rounding: names and shapes in checkpoints do not
    depend on any option, and a run can be resumed with others.

    Args:
        channels_last: Keep images and the weights of convolutions as N x H x W x C in
            memory, which tensor cores read without reordering.
        tf32: Where an fp32 product may be rounded to 10 bits of mantissa: ``none``,
            ``conv`` (torch's own default) or ``all``. Matrix products should stay out:
            logits against the queue are cosines over T. At T = 0.04 a rounding error
            of 2^-11 of a cosine of 1 becomes 0.01 of a logit, and so 1 % of a
            probability.
        deterministic: Let torch choose deterministic kernels; where it has none it
            warns and names the operation. Slower.
        prefetch: On a GPU, copy the next batch while the step of the last one runs.
        compile: Arguments of ``torch.compile`` for backbone and neck of the query and
            the key encoder, e.g. ``{}`` or ``dict(mode="reduce-overhead")``, which uses
            CUDA graphs; None compiles nothing. Only training steps are compiled, so
            evaluation costs no further compilation. Needs a C++ compiler on the CPU,
            Triton on a GPU.
        fused_queue: Compute the softmax over a queue by torch's fused attention, or
            oneDNN on a CPU, where they agree with public ops and are known to be
            faster; where nothing is known of the device, a short trial tells. False: by
            public ops alone. ``trial``: by trial on every device; its result goes into
            the checkpoint, but the next run may find another one.

    Raises:
        ValueError: ``tf32`` or ``fused_queue`` is none of these.
        ConfigError: The model was wrapped for several devices in another layout.
    """

    priority = "VERY_HIGH"

    def __init__(
        self,
        channels_last: bool = False,
        tf32: str = "conv",
        deterministic: bool = False,
        prefetch: bool = False,
        compile: dict | None = None,
        fused_queue: bool | str = True,
    ) -> None:
        if tf32 not in _TF32:
            raise UserValueError(f"tf32='{tf32}' must be one of {', '.join(_TF32)}.")
        if not isinstance(fused_queue, bool) and fused_queue != "trial":
            raise UserValueError(
                f"fused_queue={fused_queue!r} must be True, False or 'trial'."
            )
        self.channels_last = channels_last
        self.tf32 = tf32
        self.deterministic = deterministic
        self.prefetch = prefetch
        self.compile = compile
        self.fused_queue = fused_queue

    def before_run(self, runner: Any) -> None:
        """Settle kernels and copies before anything runs or is loaded."""
        if self.channels_last:
            _prepare_channels_last(runner.model)
        # Not at the head of the file: it imports mmpretrain's models, and those more.
        from mmssl_ext.models.losses.queue_attention import use_fused

        use_fused(self.fused_queue)
        torch.backends.cudnn.allow_tf32 = self.tf32 != "none"
        torch.backends.cuda.matmul.allow_tf32 = self.tf32 == "all"
        if self.deterministic:
            # cuBLAS reads this before its first product.
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
            torch.backends.cudnn.deterministic = True
            torch.backends.cudnn.benchmark = False
            torch.use_deterministic_algorithms(True, warn_only=True)
        loop = compat.train_loop(runner)  # the property would build it for a test run
        device = _device(unwrap(runner.model))
        self._prefetches = self.prefetch and device.type == "cuda"
        if self._prefetches and isinstance(loop, BaseLoop):
            prefetch(loop, CopyToDevice(device))

    def after_load_checkpoint(self, runner: Any, checkpoint: dict) -> None:
        """Leave out the state of a loss scaler that was switched off."""
        optimizer = checkpoint.get("optimizer") or {}
        if not optimizer.get("loss_scaler", True):
            del optimizer["loss_scaler"]

    def before_train(self, runner: Any) -> None:
        """Prepare the steps and log what they are like."""
        model = unwrap(runner.model)
        if self.channels_last:  # now that the weights are initialised or loaded
            model.to(memory_format=torch.channels_last)
        _settle_optimizer(runner.optim_wrapper)
        if self.compile is not None:
            for module in _encoder_parts(model):
                # Views have few sizes, each always the same: no code for sizes in
                # general, which takes long to make.
                compat.compile_training(module, {"dynamic": False, **self.compile})
        runner.logger.info(f"Runtime: {', '.join(self._facts(runner))}.")

    def before_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None
    ) -> None:
        """Tell CUDA graphs that the results of the last step are done with."""
        if self.compile is not None:
            torch.compiler.cudagraph_mark_step_begin()

    def _facts(self, runner: Any) -> list[str]:
        device = _device(unwrap(runner.model))
        optimizer = getattr(runner.optim_wrapper, "optimizer", None)
        kinds = {"none": "no TF32", "conv": "TF32 convolutions", "all": "TF32"}
        cuda, cudnn = device.type == "cuda", torch.backends.cudnn
        layout = "channels_last" if self.channels_last else "contiguous layout"
        facts = {
            _precision(runner.optim_wrapper): True,
            kinds[self.tf32]: cuda,
            layout: True,
            "fused optimizer": getattr(optimizer, "defaults", {}).get("fused"),
            f"encoders compiled with {self.compile}": self.compile is not None,
            "cuDNN benchmark": cuda and cudnn.benchmark,
            "deterministic kernels": self.deterministic,
            "batches copied ahead": self._prefetches,
        }
        return [device.type, *(fact for fact, holds in facts.items() if holds)]


def _device(model: nn.Module) -> torch.device:
    return next((p.device for p in model.parameters()), torch.device("cpu"))


def _prepare_channels_last(model: Any) -> None:
    """Prepare input and initialisation; the weights get their layout afterwards.

    Random numbers fill a tensor in the order of its memory, so a model that has the
    layout already, as it was wrapped with, is initialised in the usual one.
    """
    wrapper, model = model, unwrap(model)
    if hasattr(model.data_preprocessor, "channels_last"):
        model.data_preprocessor.channels_last = True
    if not is_model_wrapper(wrapper):
        return
    if not all(
        p.is_contiguous(memory_format=torch.channels_last)
        for p in model.parameters()
        if p.ndim == 4
    ):
        raise ConfigError(
            "PerformanceHook: channels_last comes too late, for the gradients of a "
            f"model already wrapped by {type(wrapper).__name__} would be mixed up. "
            "Build the runner by tools/train.py or mmssl_ext.run.launch.build_runner, "
            "or convert the model by model.to(memory_format=torch.channels_last) "
            "before it is wrapped."
        )

    def init_weights() -> None:
        del model.init_weights  # this function: the method shows again
        model.to(memory_format=torch.contiguous_format)
        model.init_weights()
        model.to(memory_format=torch.channels_last)

    model.init_weights = init_weights


def _precision(optim_wrapper: Any) -> str:
    if not type(optim_wrapper).__name__.endswith("AmpOptimWrapper"):
        return "float32"
    dtype = optim_wrapper.cast_dtype or torch.get_autocast_dtype("cuda")
    scaled = optim_wrapper.loss_scaler.is_enabled()
    name = str(dtype).removeprefix("torch.")
    return f"{name} autocast {'with' if scaled else 'without'} loss scaling"


def _settle_optimizer(optim_wrapper: Any) -> None:
    """Let an optimizer that was resumed run as the config says.

    A checkpoint brings along how it was run, and momenta in the layout that the weights
    had. Fused optimizers refuse another layout on a GPU; on the CPU they would take one
    element for another.
    """
    optimizer: Any = getattr(optim_wrapper, "optimizer", None)
    if optimizer is None:
        return
    for group in optimizer.param_groups:
        for flag in {"fused", "foreach"} & group.keys() & optimizer.defaults.keys():
            group[flag] = optimizer.defaults[flag]
    for parameter, state in optimizer.state.items():
        for name, value in state.items():
            same = isinstance(value, torch.Tensor) and value.shape == parameter.shape
            if same and value.stride() != parameter.stride():
                suited = torch.empty_like(parameter, dtype=value.dtype)
                state[name] = suited.copy_(value)


def _encoder_parts(model: Any) -> list[nn.Module]:
    parts = [
        getattr(encoder, name, None)
        for encoder in (model, getattr(model, "target", None))
        for name in ("backbone", "neck")
    ]
    return [part for part in parts if isinstance(part, nn.Module)]
