"""Figures of the pseudo-labels that a method keeps."""

from __future__ import annotations

from typing import Any

import torch
from mmengine.hooks import Hook

from mmssl_ext.errors import ConfigError
from mmssl_ext.evaluation.clusters import cluster_figures
from mmssl_ext.registry import HOOKS
from mmssl_ext.unwrap import unwrap

from .labels import labelled

_FIGURES = "cluster_figures"  # in the message hub, of the epoch under way
_ENDED = "cluster_epochs"  # epochs whose line was written


@HOOKS.register_module()
class PseudoLabelHook(Hook):
    """Log what the pseudo-labels of a method are like.

    Every ``interval`` iterations ``cluster/...`` join the training log: ``change_rate``
    (share of the images seen since then that changed their cluster), and the figures of
    :func:`~mmssl_ext.evaluation.clusters.cluster_figures`, purity and NMI where the
    dataset has labels. One readable line per epoch. Labels never reach the model.

    A model takes part by a comparison or a term that has ``pseudo_labels``
    (:class:`~mmssl_ext.models.memory.PseudoLabels`), such as ``InterImage`` or the
    constraint ``SameCluster``.

    Args:
        dataset: What to change in the config of the training set to get labels, e.g.
            ``dict(labels="subfolders")`` for purity and NMI.
        interval: Iterations between two lines of figures; as the logger's.
        **moved: Options of version 0.1, for which there is another place now.

    Raises:
        ConfigError: The model has no pseudo-labels; the labels are of other images; or
            an option has moved.
    """

    priority = "ABOVE_NORMAL"  # after MethodHook (30), before all that evaluates

    def __init__(
        self, dataset: dict | None = None, interval: int = 50, **moved: Any
    ) -> None:
        if moved:
            raise ConfigError(
                f"PseudoLabelHook has no {', '.join(sorted(moved))} any more, for the "
                "model fills its bank: give model.images=dict(pipeline=..., "
                "batch_size=..., num_workers=...), and for a warm-up model.loss_lambda="
                'dict(kind="step", start=0, end=0.25, until=EPOCHS, unit="epoch").'
            )
        self.changes = dataset or {}
        self.interval = interval
        self._latest: dict[str, float] = {}

    def before_train(self, runner: Any) -> None:
        """Find the labels of the images, where there are any."""
        self._labels = _labels(runner)
        if self._labels is None:
            raise ConfigError(
                "PseudoLabelHook serves models with pseudo-labels, such as the term "
                f"InterImage keeps, which {type(unwrap(runner.model)).__name__} has "
                "not; take it out of custom_hooks."
            )
        found = labelled(runner, self.changes, "PseudoLabelHook")
        classes = getattr(found, "labels", None)
        device = self._labels.sizes.device
        self._classes = None if classes is None else torch.tensor(classes).to(device)
        if runner.iter == 0:
            runner.message_hub.update_info(_FIGURES, {})
            runner.message_hub.update_info(_ENDED, 0)

    def before_train_epoch(self, runner: Any) -> None:
        """Go on with the figures of an epoch that was stopped."""
        found = runner.message_hub.get_info(_FIGURES, {})  # resumed inside an epoch
        self._latest = found["figures"] if found.get("epoch") == runner.epoch else {}

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Publish the figures at the interval."""
        # As LoggerHook counts, whose line then has the figures of its own step.
        if len(self._labels.labels) and self.every_n_inner_iters(
            batch_idx, self.interval
        ):
            self._publish(runner)

    def after_train_epoch(self, runner: Any) -> None:
        """One readable line, once."""
        # A run that was stopped by a later hook calls this one again.
        done = runner.message_hub.get_info(_ENDED, 0) > runner.epoch
        if len(self._labels.labels) == 0 or done:
            return
        self._publish(runner)
        runner.message_hub.update_info(_ENDED, runner.epoch + 1)
        latest = self._latest
        low, middle, high = (
            f"{latest[f'size_{name}']:.0f}" for name in ("min", "median", "max")
        )
        text = (
            f"Pseudo-labels in epoch {runner.epoch + 1}: "
            f"{self._labels.num_clusters} clusters of {low} to {high} images "
            f"(median {middle})"
        )
        if "change_rate" in latest:
            text += f", {latest['change_rate']:.1%} of the images seen changed theirs"
        if "nmi" in latest:
            text += (
                f"; purity {latest['purity']:.3f}, NMI {latest['nmi']:.3f} (labels "
                "serve these two figures only)"
            )
        runner.logger.info(text)

    def _publish(self, runner: Any) -> None:
        labels = self._labels
        figures = cluster_figures(labels.labels, labels.num_clusters, self._classes)
        # `visits`: images seen and images that changed, since they were last read
        stacked = torch.stack([*figures.values(), *labels.visits.double()])
        *values, seen, changed = stacked.tolist()
        latest = dict(zip(figures, values, strict=True))
        if seen:
            latest["change_rate"] = changed / seen
        elif "change_rate" in self._latest:  # the epoch ended with an interval
            latest["change_rate"] = self._latest["change_rate"]
        self._latest = latest
        labels.visits.zero_()
        found = {"epoch": runner.epoch, "figures": latest}
        runner.message_hub.update_info(_FIGURES, found)
        for name, value in latest.items():
            runner.message_hub.update_scalar(f"train/cluster/{name}", value)


def _labels(runner: Any) -> Any:
    parts = getattr(unwrap(runner.model), "losing", {}).values()
    found = (getattr(part, "pseudo_labels", None) for part in parts)
    return next((labels for labels in found if labels is not None), None)
