"""What a run tells the model that it trains: lengths, seed, and its images."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from copy import deepcopy
from typing import Any

from mmengine.runner import EpochBasedTrainLoop
from torch import Tensor

from mmssl_ext.datasets import SSLDataset
from mmssl_ext.engine.checkpoint.facts import batch_size
from mmssl_ext.engine.resilience.preemption import interruptible
from mmssl_ext.errors import ConfigError
from mmssl_ext.evaluation.features import extract_features, preserved_rng
from mmssl_ext.text import tenths
from mmssl_ext.unwrap import unwrap


class Training:
    """A run as its model sees it (:meth:`~mmssl_ext.models.algorithms.Method.start`).

    Its ``seed`` and ``logger`` are those of the run.
    """

    def __init__(self, runner: Any) -> None:
        self._runner = runner
        self.seed: int = runner.seed
        self.logger: logging.Logger = runner.logger

    @property
    def iteration(self) -> int:
        """Iterations that are done."""
        return self._runner.iter

    @property
    def epoch(self) -> int:
        """Epochs that are done."""
        return self._runner.epoch

    @property
    def by_epoch(self) -> bool:
        """Whether the run counts epochs."""
        return isinstance(self._runner.train_loop, EpochBasedTrainLoop)

    @property
    def epoch_end(self) -> int:
        """Iterations that will be done when this epoch ends, or a run without any."""
        length = len(self._runner.train_dataloader)
        return (self.epoch + 1) * length if self.by_epoch else self._runner.max_iters

    @property
    def batch_size(self) -> int | None:
        """Images of all ranks in an iteration; None where the loader does not tell."""
        size = batch_size(self._runner.train_dataloader)
        return None if size is None else size * self._runner.world_size

    @property
    def dataset(self) -> SSLDataset:
        """The training set.

        Raises:
            ConfigError: It numbers no images.
        """
        trained = self._runner.train_dataloader.dataset
        if not isinstance(trained, SSLDataset):
            raise ConfigError(
                "A feature bank needs images that are numbered through. A "
                f"{type(trained).__name__} around datasets numbers them anew; train on "
                "one ImageFolder, ImageList or CIFAR10."
            )
        return trained

    def now(self, schedule: Any) -> float:
        """The value of a :class:`~mmssl_ext.models.schedules.Schedule`."""
        return schedule(unwrap(self._runner.model).clock)

    def images(self, options: dict | None, by: str) -> TrainingImages:
        """All training images, to be embedded in the order of the dataset.

        Args:
            options: ``pipeline``, the transforms of one view, and options of the
                loader, such as ``batch_size`` and ``num_workers``.
            by: Who asks, for messages.

        Raises:
            ConfigError: The dataset numbers no images, or the options make no loader.
        """
        trained = self.dataset
        if not options or "pipeline" not in options:
            raise ConfigError(
                f"{by} embeds all training images and has to know how they are read: "
                "set images=dict(pipeline=[...], batch_size=..., num_workers=...) of "
                "the term (model.images of InterCLR); the pipeline makes one view."
            )
        config = self._runner.cfg.train_dataloader.dataset
        loader = {
            "sampler": {"type": "DefaultSampler", "shuffle": False},
            "collate_fn": {"type": "default_collate"},
            "batch_size": 64,
            "num_workers": 0,
            **{name: value for name, value in options.items() if name != "pipeline"},
            "dataset": {**deepcopy(config), "pipeline": options["pipeline"]},
        }
        try:
            with preserved_rng():
                built = self._runner.build_dataloader(loader, seed=self.seed)
        except TypeError as error:
            raise ConfigError(f"The images of {by}: {error}") from error
        return TrainingImages(self._runner, built, trained.fingerprint())

    def progress(self, text: str) -> AbstractContextManager[Callable[[int, int], None]]:
        """Give a function of done and total steps that logs each tenth of many."""
        return nullcontext(tenths(self.logger.info, text))


class TrainingImages:
    """The training images of a run in the order of their numbers.

    ``fingerprint`` is that of the dataset.
    """

    def __init__(self, runner: Any, loader: Any, fingerprint: int) -> None:
        self._runner, self._loader = runner, loader
        self.fingerprint = fingerprint

    def __len__(self) -> int:
        return len(self._loader.dataset)

    def embed(self, encoder: str = "query") -> Tensor:
        """Embeddings in eval mode, n x D, equal on all ranks.

        Args:
            encoder: ``query``, the online network, or ``key``, the target network.
        """
        progress = tenths(self._runner.logger.info, "Embedding images: batch")
        name = "key_embedding" if encoder == "key" else "embedding"
        with preserved_rng(), interruptible("feature pass", self._loader):
            found = extract_features(
                unwrap(self._runner.model),
                self._loader,
                progress=progress,
                encoder=encoder,
                names=[name],
            )
        return found.features[name]
