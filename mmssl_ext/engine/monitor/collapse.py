"""Watch the embeddings: are they collapsing?"""

from __future__ import annotations

import logging
import math
from typing import Any

import torch
from mmengine.hooks import Hook
from mmengine.logging import print_log
from torch import nn

from mmssl_ext.code_verdict import code_verdict
from mmssl_ext.evaluation.health import embedding_health
from mmssl_ext.registry import HOOKS
from mmssl_ext.unwrap import unwrap
from mmssl_ext.upstream import Listener, is_upstream

_LOSS = "raw_instance"  # before its weight, as every method logs it
_CODES = {  # of the line of an epoch, where a method has prototypes
    "prototypes_used": "used",
    "code_entropy": "entropy of a code",
    "mean_code_entropy": "of the mean code",
}
_FIGURES = ("alignment", "uniformity", "pos_neg_gap")  # of the line of an epoch


@HOOKS.register_module()
class CollapseMonitorHook(Hook):
    """Log the health of the embeddings and warn of a collapse.

    Every ``interval`` iterations the figures of
    :func:`mmssl_ext.evaluation.embedding_health`, taken over this rank's last batch,
    join the training log as ``health/std_ratio`` and so on; one readable line per
    epoch. Between the intervals nothing is computed and the device is never waited
    for. Two warnings, each once: the spread is nearly gone, or the loss stays at
    ln(K + 1), the value of a model that cannot tell its own key from the queue.
    Neither counts before the queue is full: as long as it holds noise, a healthy
    model narrows its spread, because nothing pushes the images apart.

    Methods with prototypes add how their codes use these since the last check, those of
    all ranks: ``health/prototypes_used``, ``code_entropy`` and ``mean_code_entropy`` of
    :class:`~mmssl_ext.models.memory.CodeUsage`. A warning says, once, that few are used
    or all are alike, where that stays for ``pinned_checks`` checks.

    A model takes part by ``last_embeddings`` (``query`` and ``key``, N x D unit rows)
    and, for what concerns the queue, ``negatives`` (K x D), for prototypes by a part
    with a ``usage``. Of mmpretrain's own classes
    it is listened to what their necks project.

    Args:
        interval: Iterations between two checks.
        min_std_ratio: Warn below this ``std_ratio``.
        loss_name: Of version 0.1; of no use any more.
        pinned_checks: Consecutive checks at ln(K + 1), within 0.01, or with collapsed
            prototypes, before the warning.
    """

    priority = "NORMAL"  # before LoggerHook (60), which writes the figures

    def __init__(
        self,
        interval: int = 50,
        min_std_ratio: float = 0.1,
        loss_name: str | None = None,
        pinned_checks: int = 4,
    ) -> None:
        self.interval = interval
        self.min_std_ratio = min_std_ratio
        self.pinned_checks = pinned_checks
        self._listener: Listener | None = None
        if loss_name is not None:
            print_log(
                "default_hooks.collapse.loss_name is of no use any more, for every "
                f"method logs {_LOSS}; leave it out.",
                logger="current",
                level=logging.WARNING,
            )

    def before_train(self, runner: Any) -> None:
        """Say what the loss will look like at first."""
        self._pinned = self._collapsed = 0
        self._warned: set[str] = set()
        self._latest: dict[str, float] = {}
        self._max_rank = 0
        model = unwrap(runner.model)
        if is_upstream(model) and isinstance(model.neck, nn.Module):
            self._listener = Listener(model)
        queue = _queue(runner)
        if queue is not None and runner.iter == 0:
            runner.logger.info(
                f"With {len(queue)} keys in the queue, a loss of ln(K + 1) = "
                f"{math.log(len(queue) + 1):.2f} means that the model cannot tell an "
                "image from others. The queue starts as noise, which is easy to tell "
                f"apart: {_LOSS} starts lower, first rises towards about that value "
                "while the queue fills with real keys, and only then falls. That is "
                "normal."
            )

    def before_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None
    ) -> None:
        """Wait for what the next step embeds."""
        if self._listener is not None:
            self._listener.clear()

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Check at the interval."""
        if not self.every_n_train_iters(runner, self.interval):
            return
        model = unwrap(runner.model)
        embeddings = getattr(model, "last_embeddings", None)
        if self._listener is not None and data_batch:
            views = data_batch["inputs"]
            count = len(views if isinstance(views, torch.Tensor) else views[0])
            embeddings = self._listener.embeddings(count)
        if not embeddings or len(embeddings["query"]) < 2:
            self._warn(
                runner,
                "inactive",
                f"The collapse monitor is inactive: {type(model).__name__} offers no "
                "last_embeddings with two or more rows.",
            )
            return
        queue = _queue(runner)
        figures = embedding_health(embeddings["query"], embeddings.get("key"), queue)
        if usage := _usage(model):
            figures |= {n: x.to(figures["std_ratio"]) for n, x in usage.read().items()}
        loss = (outputs or {}).get(_LOSS)
        if loss is not None:
            figures["loss"] = torch.as_tensor(loss).detach().to(figures["std_ratio"])
        values = torch.stack(list(figures.values())).tolist()  # the one device sync
        if not all(map(math.isfinite, values)):
            return  # the non-finite guard speaks up
        health = dict(zip(figures, values, strict=True))
        loss = health.pop("loss", None)
        self._max_rank = min(embeddings["query"].shape)
        seen = (runner.iter + 1) * len(embeddings["query"]) * runner.world_size
        keys = 0 if queue is None else len(queue)
        if seen > keys:
            self._judge(runner, health, loss, keys)
        self._latest = health
        for name, value in health.items():
            runner.message_hub.update_scalar(f"train/health/{name}", value)

    def after_train_epoch(self, runner: Any) -> None:
        """One readable line."""
        if self._latest:
            found = [name for name in _FIGURES if name in self._latest]
            extra = "".join(
                f", {x.replace('_', ' ')} {self._latest[x]:.3f}" for x in found
            )
            runner.logger.info(
                f"Embeddings in epoch {runner.epoch + 1}: std ratio "
                f"{self._latest['std_ratio']:.3f} (1 spread, 0 collapsed), effective "
                f"rank {self._latest['effective_rank']:.1f} of at most "
                f"{self._max_rank}{extra}"
            )
            found = [name for name in _CODES if name in self._latest]
            if found:
                shares = ", ".join(f"{_CODES[x]} {self._latest[x]:.3f}" for x in found)
                runner.logger.info(
                    f"Prototypes in epoch {runner.epoch + 1}: {shares} (shares of the "
                    "most that there can be)"
                )

    def after_train(self, runner: Any) -> None:
        """Leave the model as it was."""
        if self._listener is not None:
            self._listener.remove()
            self._listener = None

    def _judge(self, runner: Any, health: dict, loss: float | None, keys: int) -> None:
        if health["std_ratio"] < self.min_std_ratio:
            self._warn(
                runner,
                "collapse",
                f"The embeddings are collapsing at iteration {runner.iter + 1}: their "
                f"standard deviation is {health['std_ratio']:.3f} of that of a uniform "
                f"spread, effective rank {health['effective_rank']:.1f}. Check that "
                "the two views of an image differ, that the learning rate is not too "
                "high and that the key encoder's momentum is near 0.999.",
            )
        if "code_entropy" in health:
            verdict = code_verdict(health)
            self._collapsed = self._collapsed + 1 if verdict else 0
            if self._collapsed >= self.pinned_checks:
                self._warn(
                    runner,
                    "codes",
                    f"{verdict} That has been so for {self._collapsed} checks up to "
                    f"iteration {runner.iter + 1}. Check that the learning rate is not "
                    "too high, freeze the prototypes for longer (frozen_epochs), or "
                    "take fewer of them (num_prototypes).",
                )
        if loss is None or keys == 0:
            return
        chance = math.log(keys + 1)
        self._pinned = self._pinned + 1 if abs(loss - chance) < 0.01 else 0
        if self._pinned >= self.pinned_checks:
            self._warn(
                runner,
                "pinned",
                f"{_LOSS} has stayed at ln(K + 1) = {chance:.2f} for "
                f"{self._pinned} checks up to iteration {runner.iter + 1}: the model "
                "cannot tell an image from the queue. Check the learning rate, that "
                "images are decoded rightly (look at a batch) and that the embedding "
                "is not constant.",
            )

    def _warn(self, runner: Any, kind: str, text: str) -> None:
        if kind not in self._warned:
            self._warned.add(kind)
            runner.logger.warning(text)


def _usage(model: Any) -> Any:
    """How the codes of a method use its prototypes, None where it has none."""
    parts = getattr(model, "losing", {}).values()
    return next((x.usage for x in parts if hasattr(x, "usage")), None)


def _queue(runner: Any) -> torch.Tensor | None:
    negatives = getattr(unwrap(runner.model), "negatives", None)
    return negatives if isinstance(negatives, torch.Tensor) else None
