"""mmengine's Runner with what a run needs to survive."""

from __future__ import annotations

from typing import Any

import torch
from mmengine.runner import BaseLoop, Runner
from torch.utils.data import DataLoader

from mmssl_ext.registry import RUNNERS

from .hooks.accumulation import AccumulationHook
from .loading import guard_workers
from .loops import ExactEpochLoop

_PERSISTENT = "persistent_workers"


@RUNNERS.register_module()
class SSLRunner(Runner):
    """A Runner that is resumed inside an epoch and never waits for a dead worker.

    mmengine's loop over epochs is replaced by :class:`ExactEpochLoop`, data loaders
    are built by :func:`guard_workers`, the model hears of accumulated gradients, and
    the memory layout is settled before the model is wrapped for several devices.
    ``tools/train.py`` builds it; elsewhere a config asks for it by
    ``runner_type="mmssl_ext.SSLRunner"``.
    """

    def register_hooks(self, *args: Any, **kwargs: Any) -> None:
        """Register the config's hooks, and one that no run can do without."""
        super().register_hooks(*args, **kwargs)
        self.register_hook(AccumulationHook())

    def build_train_loop(self, loop: BaseLoop | dict) -> BaseLoop:
        """Build the training loop; loops by epoch can be resumed inside an epoch."""
        if isinstance(loop, dict):
            options: dict[str, Any] = dict(loop)
            name = options.pop("type", None)
            by_epoch = options.pop("by_epoch", name is not None)
            if name in (None, "EpochBasedTrainLoop") and by_epoch:
                return ExactEpochLoop(self, self._train_dataloader, **options)
        return super().build_train_loop(loop)

    @staticmethod
    def build_dataloader(dataloader: Any, *args: Any, **kwargs: Any) -> DataLoader:
        """Build a data loader whose workers are watched.

        Without workers none persist: ``num_workers=0`` is an option of its own.
        """
        if isinstance(dataloader, dict) and not dataloader.get("num_workers"):
            dataloader = {k: v for k, v in dataloader.items() if k != _PERSISTENT}
        return guard_workers(Runner.build_dataloader(dataloader, *args, **kwargs))

    def wrap_model(self, model_wrapper_cfg: Any, model: Any) -> Any:
        """Wrap a model in the layout that PerformanceHook is configured for.

        DistributedDataParallel lays out its buckets by the strides of the parameters,
        and mixes up gradients where these change later.
        """
        default, custom = (self.cfg.get(f"{k}_hooks") for k in ("default", "custom"))
        for hook in [*(default or {}).values(), *(custom or ())]:
            wanted = isinstance(hook, dict) and hook.get("channels_last")
            if wanted and self.distributed:  # else the hook does it, after the start
                model.to(memory_format=torch.channels_last)
        return super().wrap_model(model_wrapper_cfg, model)
