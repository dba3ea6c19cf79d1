"""A linear classifier that learns beside the network: does it learn, at every step?"""

from __future__ import annotations

import copy
from typing import Any

import torch
from mmengine.dist import all_reduce, get_world_size
from mmengine.hooks import Hook
from torch import Tensor, nn
from torch.nn import functional

from mmssl_ext.compat import resumes
from mmssl_ext.engine.resilience.preemption import interruptible
from mmssl_ext.errors import ConfigError, UserValueError
from mmssl_ext.evaluation.classes import class_names, in_numbers_of
from mmssl_ext.evaluation.features import extract_features, preserved_rng
from mmssl_ext.fit import pooled
from mmssl_ext.models.memory.clock import indices
from mmssl_ext.registry import HOOKS, OPTIMIZERS
from mmssl_ext.unwrap import unwrap
from mmssl_ext.upstream import rows_of

from .knn import KNNHook
from .labels import labelled

_STATE = "online_probe"  # of a checkpoint


@HOOKS.register_module()
class OnlineProbeHook(Hook):
    """Train a linear classifier on the backbone's features while these are learned.

    Every step it takes the pooled features h of the first view, N x C, which the step
    computes anyway, without gradient; it makes each row's mean 0 and variance 1 and
    descends once on ``cross_entropy(W norm(h) + b, label)``, with an optimizer of its
    own, in fp32, W and b starting at 0. Labels come from a table by the number of the
    image: the training set may be, and the model is, without. The training is bit for
    bit the same with and without this hook.

    ``probe/loss`` and ``probe/train_top1`` (percent, of the batch) join the training
    log. After an epoch the images of ``dataloader``, each whole and in eval mode, give
    ``probe/top1``, for the log, the trackers and ``save_best``. The classifier is in
    the checkpoints, and a resumed run goes on with it exactly.

    Args:
        dataset: What to change in the config of the training set to get labels, e.g.
            ``dict(labels="subfolders")``.
        dataloader: Config of the loader of labelled images that are not trained on; by
            default the query set of ``KNNHook``, where the run has one.
        optimizer: Config of the optimizer.
        interval: Iterations between two lines of figures; as the logger's.
        val_interval: Epochs between two evaluations.

    Raises:
        ValueError: A number is out of range.
        ConfigError: Before the first step, where the training images have no labels,
            the model no backbone, or the optimizer cannot be built.
    """

    priority = "NORMAL"  # before LoggerHook (60), which writes the figures

    def __init__(
        self,
        dataset: dict | None = None,
        dataloader: dict | None = None,
        optimizer: dict | None = None,
        interval: int = 50,
        val_interval: int = 1,
    ) -> None:
        if min(interval, val_interval) < 1:
            raise UserValueError(
                f"OnlineProbeHook: interval={interval} and val_interval={val_interval} "
                "must be 1 or more."
            )
        self.changes = dataset or {}
        self.loader: Any = dataloader
        self.optimizer_cfg = {"type": "SGD", "lr": 0.1, "momentum": 0.9}
        self.optimizer_cfg = dict(optimizer or self.optimizer_cfg)
        self.interval, self.val_interval = interval, val_interval
        self.probe: nn.Linear | None = None  # made with the first features
        self._pending: dict[str, Any] | None = None  # of a checkpoint
        self._features: Tensor | None = None  # of the step under way, N x C

    def after_load_checkpoint(self, runner: Any, checkpoint: dict) -> None:
        """Take the classifier of a run that goes on."""
        if resumes(runner):
            self._pending = checkpoint.get(_STATE)

    def before_train(self, runner: Any) -> None:
        """Look up the labels; listen to the backbone."""
        model: Any = unwrap(runner.model)
        found = labelled(runner, self.changes, "OnlineProbeHook")
        labels = getattr(found, "labels", None)
        if labels is None or not isinstance(
            getattr(model, "backbone", None), nn.Module
        ):
            raise ConfigError(
                "OnlineProbeHook needs a model with a backbone and labels of the "
                "training images: give it dataset=dict(labels='subfolders') for a "
                "folder per class, or take it out of custom_hooks."
            )
        self._check_optimizer()
        self.labels = torch.as_tensor(labels, dtype=torch.long)
        count = int(self.labels.max()) + 1
        self.classes = class_names(found) or tuple(map(str, range(count)))
        state, self._pending, self.probe = self._pending, None, None
        if state is not None and tuple(state["classes"]) == self.classes:
            device = next(model.parameters()).device
            self._build(state["weight"].shape[1], device, state)
        elif resumes(runner) and runner.iter > 0:
            runner.logger.warning(
                "OnlineProbeHook: the checkpoint has no classifier of these classes; "
                "one begins anew."
            )
        if isinstance(self.loader, dict):
            with preserved_rng():
                self.loader = runner.build_dataloader(self.loader, seed=runner.seed)
        self._handle = model.backbone.register_forward_hook(self._listen)

    def before_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None
    ) -> None:
        """Wait for the features of a new step."""
        self._features = None

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Descend once; publish the figures at the interval."""
        features, self._features = self._features, None
        samples = (data_batch or {}).get("data_samples")
        where = indices(samples, torch.device("cpu"))
        if features is None or where is None:
            return
        labels = self.labels[where].to(features.device)
        rows = rows_of(unwrap(runner.model), features, 0, len(labels))
        loss, right = self._descend(rows, labels)
        if self.every_n_inner_iters(batch_idx, self.interval):
            figures = torch.stack([loss, 100 * right.float().mean()]).tolist()
            for name, value in zip(("loss", "train_top1"), figures, strict=True):
                runner.message_hub.update_scalar(f"train/probe/{name}", value)

    def after_train_epoch(self, runner: Any) -> None:
        """Classify the images that are not trained on."""
        loader = self.loader
        for hook in runner.hooks:
            if loader is None and isinstance(hook, KNNHook):
                loader = hook.loaders[1]
        due = self.every_n_epochs(runner, self.val_interval)
        if loader is None or not (due or self.is_last_train_epoch(runner)):
            return
        if self.probe is None:
            return
        top1 = self._accuracy(runner, loader)
        runner.message_hub.update_scalar("probe/top1", top1)
        now = {"epoch": runner.epoch + 1, "iter": runner.iter}
        runner.visualizer.add_scalars(
            {"probe/top1": top1, **now},
            step=runner.iter,
            file_path=f"{runner.timestamp}.json",
        )
        text = f"Online linear probe epoch {runner.epoch + 1}: {top1:.1f} %"
        runner.logger.info(text)

    def after_train(self, runner: Any) -> None:
        """Leave the backbone as it was."""
        self._handle.remove()

    def before_save_checkpoint(self, runner: Any, checkpoint: dict) -> None:
        """Put the classifier into the checkpoint."""
        if self.probe is not None:
            checkpoint[_STATE] = {
                "weight": self.probe.weight.detach(),
                "bias": self.probe.bias.detach(),
                "optimizer": self.optimizer.state_dict(),
                "classes": list(self.classes),
            }

    def _check_optimizer(self) -> None:
        """Build it once for nothing, rather than fail in the first step."""
        try:
            config = {**self.optimizer_cfg, "params": [nn.Parameter(torch.zeros(1))]}
            OPTIMIZERS.build(config)
        except (AssertionError, KeyError, TypeError, ValueError) as error:
            reason = " ".join(str(error).split()).rstrip(".")
            raise ConfigError(
                f"OnlineProbeHook: its optimizer cannot be built: {reason}."
            ) from error

    def _listen(self, backbone: nn.Module, inputs: Any, output: Any) -> None:
        """Keep what a step sends through the network first: the first view."""
        if self._features is None and backbone.training and torch.is_grad_enabled():
            self._features = pooled(output).detach().float()

    def _build(
        self, channels: int, device: torch.device, state: dict[str, Any] | None = None
    ) -> nn.Linear:
        probe = nn.utils.skip_init(nn.Linear, channels, len(self.classes))
        self.probe = probe.to(device)
        with torch.no_grad():
            for name, parameter in self.probe.named_parameters():
                parameter.copy_(state[name]) if state else parameter.zero_()
        config = {**self.optimizer_cfg, "params": self.probe.parameters()}
        self.optimizer = OPTIMIZERS.build(config)
        if state is not None:
            self.optimizer.load_state_dict(copy.deepcopy(state["optimizer"]))
        return self.probe

    def _descend(self, features: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """One step of the classifier; its loss, and which rows it had right before."""
        probe = self.probe or self._build(features.shape[1], features.device)
        with torch.enable_grad(), torch.autocast(features.device.type, enabled=False):
            logits = probe(_normal(features))
            loss = functional.cross_entropy(logits, labels)
            self.optimizer.zero_grad()
            loss.backward()
        if get_world_size() > 1:
            for parameter in probe.parameters():
                all_reduce(parameter.grad, op="mean")
        self.optimizer.step()
        return loss.detach(), logits.detach().argmax(1) == labels

    @torch.no_grad()
    def _accuracy(self, runner: Any, loader: Any) -> float:
        assert self.probe is not None
        with preserved_rng(), interruptible("the online probe", loader):
            found = extract_features(runner.model, loader, names=["backbone"])
        if found.labels is None:
            raise ConfigError(
                "OnlineProbeHook: its dataloader has images without labels; give it "
                "a labelled set."
            )
        labels = in_numbers_of(
            found.labels.numpy(),
            found.classes,
            self.classes,
            ("The set of the online probe", "the training set"),
        )
        features = found.features["backbone"].to(self.probe.weight.device)
        answers = self.probe(_normal(features)).argmax(1).cpu()
        return 100 * float((answers == torch.from_numpy(labels)).float().mean())


def _normal(features: Tensor) -> Tensor:
    """Rows of mean 0 and variance 1."""
    return functional.layer_norm(features, features.shape[1:])
