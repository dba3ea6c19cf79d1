"""mmengine's Runner with what a run needs to survive."""

from __future__ import annotations

from typing import Any

import torch
from mmengine.logging import MMLogger
from mmengine.runner import BaseLoop, Runner
from mmengine.visualization import Visualizer
from torch import nn
from torch.utils.data import DataLoader

from mmssl_ext import compat
from mmssl_ext.engine.checkpoint.loops import ExactEpochLoop
from mmssl_ext.engine.resilience.collating import SizedCollate
from mmssl_ext.engine.resilience.loading import guard_workers
from mmssl_ext.engine.resilience.preemption import given_back
from mmssl_ext.engine.training.method import MethodHook
from mmssl_ext.engine.weights.hook import LoadedWeightsHook
from mmssl_ext.errors import ConfigError
from mmssl_ext.evaluation.classes import match_classes
from mmssl_ext.registry import RUNNERS
from mmssl_ext.room import heed_log_files
from mmssl_ext.text import guard_files, guard_logs
from mmssl_ext.transfer.handover import going_on

from .terminal import quieten

guard_logs()
_PERSISTENT = "persistent_workers"


@RUNNERS.register_module()
class SSLRunner(Runner):
    """A Runner that is resumed inside an epoch and never waits for a dead worker.

    mmengine's loop over epochs is replaced by :class:`ExactEpochLoop`, data loaders
    are built by :func:`guard_workers`, the model hears where the training stands, and
    the memory layout is settled before the model is wrapped for several devices.
    ``LoadedWeightsHook`` verifies the weights of ``load_from``, whatever the config
    says. ``tools/train.py`` builds it; elsewhere a config asks for it by
    ``runner_type="mmssl_ext.SSLRunner"``.
    """

    def build_logger(self, *args: Any, **kwargs: Any) -> MMLogger:
        """Build the logger; its file takes any name, and says where it has no room."""
        logger = super().build_logger(*args, **kwargs)
        guard_files(logger)
        heed_log_files(logger)
        quieten(logger)
        return logger

    def build_visualizer(self, visualizer: Any = None) -> Visualizer:
        """Build the visualizer under the name of this run's folder.

        Under a name of the config, as mmsegmentation's have one, mmengine gives a
        second run of the process that of the first, and writes into its folder.
        """
        if isinstance(visualizer, dict):
            visualizer = {**visualizer, "name": str(self.log_dir)}
        return super().build_visualizer(visualizer)

    def register_hooks(
        self, default_hooks: dict | None = None, custom_hooks: list | None = None
    ) -> None:
        """Register the config's hooks, and those that no run can do without."""
        super().register_hooks(default_hooks, custom_hooks)
        for kind in (MethodHook, LoadedWeightsHook):
            if not any(isinstance(hook, kind) for hook in self.hooks):
                self.register_hook(kind())

    def build_model(self, model: Any) -> nn.Module:
        """Build the model.

        Raises:
            ConfigError: A part has no option of a name, needs another package, or
                asserts something of its options.
        """
        try:
            return super().build_model(model)
        except (TypeError, ImportError, AssertionError) as error:
            known = "unexpected keyword argument" in str(error)
            if known or not isinstance(error, TypeError):
                reason = " ".join(str(error).split())
                raise ConfigError(f"The model cannot be built: {reason}") from error
            raise

    def build_train_loop(self, loop: BaseLoop | dict) -> BaseLoop:
        """Build the training loop; loops by epoch can be resumed inside an epoch."""
        if isinstance(loop, dict):
            options: dict[str, Any] = dict(loop)
            name = options.pop("type", None)
            by_epoch = options.pop("by_epoch", name is not None)
            if name in (None, "EpochBasedTrainLoop") and by_epoch:
                return ExactEpochLoop(self, compat.train_data(self), **options)
        return super().build_train_loop(loop)

    def build_val_loop(self, loop: BaseLoop | dict) -> BaseLoop:
        """Build the validation loop; its labels are those that the model learns.

        Raises:
            ConfigError: The classes of the two sets do not fit.
        """
        return self._judge(super().build_val_loop(loop))

    def build_test_loop(self, loop: BaseLoop | dict) -> BaseLoop:
        """Build the test loop; see :meth:`build_val_loop`."""
        return self._judge(super().build_test_loop(loop))

    def _judge(self, loop: BaseLoop) -> BaseLoop:
        training = getattr(compat.train_loop(self), "dataloader", None)
        if training is not None and training is not loop.dataloader:
            try:
                match_classes(loop.dataloader.dataset, training.dataset)
            except ValueError as error:
                raise ConfigError(str(error)) from error
            meta = getattr(loop.dataloader.dataset, "metainfo", None)
            if meta is not None and hasattr(loop, "evaluator"):
                loop.evaluator.dataset_meta = meta
        return loop

    @staticmethod
    def build_dataloader(dataloader: Any, *args: Any, **kwargs: Any) -> DataLoader:
        """Build a data loader whose workers are watched and whose errors say enough.

        Without workers none persist: ``num_workers=0`` is an option of its own.
        """
        if isinstance(dataloader, dict) and not dataloader.get("num_workers"):
            dataloader = {k: v for k, v in dataloader.items() if k != _PERSISTENT}
        loader = Runner.build_dataloader(dataloader, *args, **kwargs)
        if not isinstance(loader.collate_fn, SizedCollate):
            loader.collate_fn = SizedCollate(loader.collate_fn)
        return guard_workers(loader)

    def train(self) -> nn.Module:
        """Train; a resumed run needs no file that it began with."""
        with going_on(compat.resumes(self)), given_back():
            try:
                return super().train()
            finally:
                self.visualizer.close()  # also where the run is stopped

    def test(self) -> dict:
        """Test."""
        with given_back():
            return super().test()

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
