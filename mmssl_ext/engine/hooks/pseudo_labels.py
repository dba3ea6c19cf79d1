"""The life of a feature bank and its pseudo-labels: start, upkeep, figures."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

import torch
from mmengine.hooks import Hook
from mmengine.runner import EpochBasedTrainLoop
from rich.console import Console
from rich.progress import Progress

from mmssl_ext.datasets import SSLDataset
from mmssl_ext.evaluation.clusters import cluster_figures
from mmssl_ext.evaluation.features import extract_features, log_tenths, preserved_rng
from mmssl_ext.registry import HOOKS
from mmssl_ext.unwrap import unwrap

from ..errors import ConfigError
from ..preemption import interruptible

_FIGURES = "cluster_figures"  # in the message hub, of the epoch under way
_ENDED = "cluster_epochs"  # epochs that the labels have followed


@HOOKS.register_module()
class PseudoLabelHook(Hook):
    """Fill a model's bank before training, keep its labels, log what they are like.

    Before the first step, or after a warm-up, all training images are embedded once, by
    the query encoder in eval mode, and clustered from the run's seed; a resumed run
    brings its bank along.
    At the end of an epoch the labels may cluster anew (``OfflineLabels``).

    Every ``interval`` iterations ``cluster/...`` join the training log: ``change_rate``
    (share of the images seen since then that changed their cluster), and the figures of
    :func:`~mmssl_ext.evaluation.clusters.cluster_figures`, purity and NMI where the
    dataset has labels. One readable line per epoch. Labels never reach the model.

    A model takes part by ``start_bank``, ``bank``, ``pseudo_labels``, ``sampler`` and
    ``loss_lambda``, as :class:`~mmssl_ext.models.algorithms.InterCLR`.

    Args:
        dataloader: Config of the loader of the feature pass, without a dataset.
        pipeline: Its transforms, which make one view. The dataset is that of the
            training loader otherwise.
        dataset: What to change in the config of that dataset besides, e.g.
            ``dict(labels="subfolders")`` for purity and NMI.
        interval: Iterations between two lines of figures; as the logger's.
        warmup_epochs: Epochs with the weight ``loss_lambda`` at 0 and without a bank.
            In a short run the first clusters tell old features from new ones rather
            than images from images.

    Raises:
        ConfigError: The model has no bank; dataset and bank do not belong together; or
            there are too few images.
    """

    priority = "ABOVE_NORMAL"  # after InputCheckHook (30), before all that evaluates

    def __init__(
        self,
        dataloader: dict,
        pipeline: list[dict],
        dataset: dict | None = None,
        interval: int = 50,
        warmup_epochs: int = 0,
    ) -> None:
        self.dataloader = dataloader
        self.changes = {"pipeline": pipeline, **(dataset or {})}
        self.interval = interval
        self.warmup_epochs = warmup_epochs
        self._latest: dict[str, float] = {}

    def before_train(self, runner: Any) -> None:
        """Check that bank and dataset belong together."""
        model = unwrap(runner.model)
        if not hasattr(model, "start_bank"):
            raise ConfigError(
                f"PseudoLabelHook serves models with a feature bank, which "
                f"{type(model).__name__} has not; take it out of custom_hooks."
            )
        trained = runner.train_dataloader.dataset
        if not isinstance(trained, SSLDataset):
            raise ConfigError(
                "A feature bank needs images that are numbered through. A "
                f"{type(trained).__name__} around datasets numbers them anew; train on "
                "one ImageFolder, ImageList or CIFAR10."
            )
        counting = self.warmup_epochs or model.pseudo_labels.needs_epochs
        if counting and not isinstance(runner.train_loop, EpochBasedTrainLoop):
            raise ConfigError(
                "PseudoLabelHook: a warm-up and OfflineLabels count epochs, which "
                f"{type(runner.train_loop).__name__} has not; set by_epoch=True in "
                "train_cfg, or use OnlineLabels with warmup_epochs=0."
            )
        self._loader = self._build_loader(runner)
        self._fingerprint = trained.fingerprint()
        if self._loader.dataset.fingerprint() != self._fingerprint:
            raise ConfigError(
                "PseudoLabelHook: the dataset of the feature pass has other images "
                "than the training set, or in another order; let its `dataset` change "
                "nothing that selects images."
            )
        try:
            model.pseudo_labels.check_images(len(trained))
        except ValueError as error:
            raise ConfigError(str(error)) from error
        classes = self._loader.dataset.labels
        device = model.bank.features.device
        self._classes = None if classes is None else torch.tensor(classes).to(device)
        self._loss_lambda = model.loss_lambda
        if len(model.bank) and runner.iter > 0:
            self._check_resumed(model)
        elif len(model.bank):  # load_from brought it along
            model.bank.clear()
        if runner.iter == 0:
            runner.message_hub.update_info_dict({_ENDED: 0, _FIGURES: {}})

    def before_train_epoch(self, runner: Any) -> None:
        """Fill the bank when its time has come."""
        found = runner.message_hub.get_info(_FIGURES, {})  # resumed inside an epoch
        self._latest = found["figures"] if found.get("epoch") == runner.epoch else {}
        model = unwrap(runner.model)
        warm = runner.epoch >= self.warmup_epochs
        model.loss_lambda = self._loss_lambda if warm else 0.0
        if warm and len(model.bank) == 0:
            self._start(runner, model)
        if warm:
            self._loader = None  # and with it another copy of what the dataset holds

    def after_train_iter(
        self,
        runner: Any,
        batch_idx: int,
        data_batch: Any = None,
        outputs: dict | None = None,
    ) -> None:
        """Publish the figures at the interval."""
        # As LoggerHook counts, whose line then has the figures of its own step.
        if len(unwrap(runner.model).bank) and self.every_n_inner_iters(
            batch_idx, self.interval
        ):
            self._publish(runner)

    def after_train_epoch(self, runner: Any) -> None:
        """Let the labels follow the epoch; one readable line."""
        model = unwrap(runner.model)
        if len(model.bank) == 0:
            return
        labels = model.pseudo_labels
        hub = runner.message_hub
        # A run that was stopped by a later hook calls this one again.
        if hub.get_info(_ENDED, 0) <= runner.epoch:
            labels.end_epoch(runner.epoch + 1, model.bank)
            hub.update_info(_ENDED, runner.epoch + 1)
            self._publish(runner)
        latest = self._latest
        low, middle, high = (
            f"{latest[f'size_{name}']:.0f}" for name in ("min", "median", "max")
        )
        text = (
            f"Pseudo-labels in epoch {runner.epoch + 1}: {labels.num_clusters} "
            f"clusters of {low} to {high} images (median {middle})"
        )
        if "change_rate" in latest:
            text += f", {latest['change_rate']:.1%} of the images seen changed theirs"
        if "nmi" in latest:
            text += (
                f"; purity {latest['purity']:.3f}, NMI {latest['nmi']:.3f} (labels "
                "serve these two figures only)"
            )
        runner.logger.info(text)

    def _build_loader(self, runner: Any) -> Any:
        """The loader of the feature pass, in the order of the dataset."""
        config = runner.cfg.train_dataloader.dataset
        loader = {
            "sampler": {"type": "DefaultSampler", "shuffle": False},
            "collate_fn": {"type": "default_collate"},
            **self.dataloader,
            "dataset": {**deepcopy(config), **self.changes},
        }
        try:
            with preserved_rng():
                return runner.build_dataloader(loader, seed=runner.seed)
        except TypeError as error:
            raise ConfigError(f"PseudoLabelHook, feature pass: {error}") from error

    def _check_resumed(self, model: Any) -> None:
        images = len(model.bank)
        if int(model.bank.fingerprint) != self._fingerprint:
            raise ConfigError(
                f"The checkpoint's feature bank belongs to {images} other images than "
                "the training set has now, or in another order: its rows would be "
                "mixed up. Resume with the same data, or start a new run from the "
                "weights alone (load_from)."
            )
        try:
            model.pseudo_labels.check(model.bank)
        except ValueError as error:
            raise ConfigError(str(error)) from error

    def _start(self, runner: Any, model: Any) -> None:
        started = time.perf_counter()
        with (
            preserved_rng(),
            interruptible("feature pass", self._loader),
            _progress(runner, "Embedding images: batch") as progress,
        ):
            found = extract_features(
                model, self._loader, progress=progress, names=["embedding"]
            )
        extracted = time.perf_counter()
        features = found.features["embedding"]
        with _progress(runner, "Clustering: iteration") as progress:
            model.start_bank(features, self._fingerprint, runner.seed, progress)
        if text := model.sampler.complaint(len(features)):
            runner.logger.warning(text)
        bank = model.bank.features
        runner.logger.info(
            f"Feature bank: {len(bank)} images x {bank.shape[1]} as {bank.dtype}, "
            f"{bank.numel() * bank.element_size() / 1e6:.1f} MB on every device and in "
            f"every checkpoint; embedded in {extracted - started:.1f} s, "
            f"{model.pseudo_labels.num_clusters} clusters made in "
            f"{time.perf_counter() - extracted:.1f} s."
        )

    def _publish(self, runner: Any) -> None:
        labels = unwrap(runner.model).pseudo_labels
        figures = cluster_figures(labels.labels, labels.num_clusters, self._classes)
        values = torch.stack([*figures.values(), *labels.visits.double()]).tolist()
        *values, seen, changed = values
        latest = dict(zip(figures, values, strict=True))
        if seen:
            latest["change_rate"] = changed / seen
        elif "change_rate" in self._latest:  # the epoch ended with an interval
            latest["change_rate"] = self._latest["change_rate"]
        self._latest = latest
        found = {"epoch": runner.epoch, "figures": latest}
        runner.message_hub.update_info(_FIGURES, found)
        labels.visits.zero_()
        for name, value in self._latest.items():
            runner.message_hub.update_scalar(f"train/cluster/{name}", value)


@contextmanager
def _progress(runner: Any, text: str) -> Iterator[Callable[[int, int], None]]:
    """A bar on rank 0's terminal; elsewhere a log line for each tenth of many steps."""
    console = Console(stderr=True)
    if runner.rank != 0 or not console.is_terminal:
        yield log_tenths(runner.logger, text)
        return
    with Progress(console=console, transient=True) as progress:
        task = progress.add_task(text, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)
