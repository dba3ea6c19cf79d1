"""kNN accuracy during training: does it learn?"""

from __future__ import annotations

import time
from typing import Any

from mmengine.hooks import Hook
from torch.utils.data import DataLoader

from mmssl_ext import compat
from mmssl_ext.engine.resilience.preemption import interruptible
from mmssl_ext.errors import ConfigError, UserValueError
from mmssl_ext.evaluation.classes import class_names, in_numbers_of
from mmssl_ext.evaluation.clustering import SCORES, clustering_of
from mmssl_ext.evaluation.copies import say_copied_files, say_copies
from mmssl_ext.evaluation.features import MODES, extract_features, preserved_rng
from mmssl_ext.evaluation.knn import knn_accuracy
from mmssl_ext.registry import HOOKS
from mmssl_ext.unwrap import unwrap

from .first_look import look_at_loader, watched_read

HISTORY = "knn_history"


@HOOKS.register_module()
class KNNHook(Hook):
    """Classify a labelled set by its nearest neighbours in a labelled bank.

    Runs before training (what untrained weights reach; not after a resume), every
    ``interval`` epochs and after the last; in a loop without epochs at both ends.
    Beside it stand the scores of clusters of the query set
    (:func:`~mmssl_ext.evaluation.clustering_scores`).
    Figures in percent go to the log, to the JSON log as ``knn/backbone_top1``,
    ``clustering/backbone_nmi`` and the like (with ``key_`` for the key encoder), and as
    plain records to ``knn_history`` of the message hub, which survives a resume:
    ``[{"epoch": 0, "iter": 0, "backbone_top1": ..., "backbone_nmi": ...}, ...]``, epoch
    0 being the start.
    Training is the same with and without this hook: mode, buffers and random
    generators are left as they were.

    Classes are those of the same name in both sets. Where images of the query set stand
    in the bank as well, or their files among those of the training, a warning says so.

    Args:
        bank_dataloader: Config of the loader of the images that vote.
        query_dataloader: Config of the loader of the images to classify.
        k: Number of voters.
        temperature: Sharpness of the vote, exp(similarity / temperature).
        interval: Epochs between two runs.
        encoder: ``query``, ``key`` or ``both``.
        features: Which of the features that ``forward(mode="embed")`` returns.
        before_train: Whether to run before training.
        num_clusters: Clusters of the query set; None is one per class, 0 none at all.

    Raises:
        ConfigError: Before the first step, where images have no labels, or are of a
            class that the bank does not have.
    """

    # after the guard (30), before the checkpoint (90), which holds the history
    priority = "BELOW_NORMAL"

    def __init__(
        self,
        bank_dataloader: dict | DataLoader,
        query_dataloader: dict | DataLoader,
        k: int = 200,
        temperature: float = 0.1,
        interval: int = 1,
        encoder: str = "query",
        features: tuple[str, ...] | list[str] = ("backbone", "embedding"),
        before_train: bool = True,
        num_clusters: int | None = None,
    ) -> None:
        if encoder not in MODES:
            raise UserValueError(f"encoder='{encoder}' must be query, key or both.")
        whole = type(num_clusters) is int and num_clusters >= 0
        if num_clusters is not None and not whole:
            raise UserValueError(
                f"num_clusters={num_clusters!r} of KNNHook must be a number of "
                "clusters, None for one per class of the query set, or 0 for none."
            )
        self.loaders: list[Any] = [bank_dataloader, query_dataloader]
        self.k = k
        self.temperature = temperature
        self.interval = interval
        self.encoder = encoder
        prefixes = MODES[encoder].values()
        self.names = tuple(p + name for p in prefixes for name in features)
        self.at_start = before_train
        self.num_clusters = num_clusters
        self._compared = False  # the pixels of the two sets
        self._said = False  # that images stand in both

    def before_train(self, runner: Any) -> None:
        """Check the datasets and, unless resumed, measure the starting weights."""
        with preserved_rng():
            self.loaders = [
                runner.build_dataloader(loader, seed=runner.seed)
                for loader in self.loaders
            ]
        bank, query = (loader.dataset for loader in self.loaders)
        _check_labels(bank, query)
        root = getattr(runner.train_dataloader.dataset, "root", None)
        # Of a bank that is the training set, all has been said.
        self._said = _say_training_images(runner, query) and (
            getattr(bank, "root", None) == root
        )
        known = {root}
        for loader, name in zip(self.loaders, ("bank", "query set"), strict=True):
            root = getattr(loader.dataset, "root", None)
            if root not in known:  # no one has looked at these images
                known.add(root)
                look_at_loader(loader, f"The {name} of kNN")
        if self.k > len(bank):
            runner.logger.warning(
                f"k={self.k} exceeds the {len(bank)} images of the kNN bank; all vote."
            )
            self.k = len(bank)
        if runner.iter == 0:
            runner.message_hub.update_info(HISTORY, [])
            if self.at_start:
                self._run(runner, epoch=0)

    def after_train_epoch(self, runner: Any) -> None:
        """Measure at the interval and after the last epoch."""
        due = self.every_n_epochs(runner, self.interval)
        if due or self.is_last_train_epoch(runner):
            self._run(runner, runner.epoch + 1)

    def _run(self, runner: Any, epoch: int) -> None:
        start = time.perf_counter()
        scores = self._measure(runner)
        hub = runner.message_hub
        now = {"epoch": epoch, "iter": runner.iter}
        history = [*hub.get_info(HISTORY, []), {**now, **scores}]
        hub.update_info(HISTORY, history)
        tags = {tag_of(name): value for name, value in scores.items()}
        for tag, value in tags.items():
            hub.update_scalar(tag, value)
        runner.visualizer.add_scalars(
            {**tags, **now}, step=runner.iter, file_path=f"{runner.timestamp}.json"
        )
        seconds = time.perf_counter() - start
        runner.logger.info(f"{self._line(runner, history)} ({seconds:.1f} s)")
        if clusters := self._clusters_line(scores):
            runner.logger.info(clusters)

    def _measure(self, runner: Any) -> dict[str, float]:
        model, first = unwrap(runner.model), not self._compared
        with preserved_rng(), interruptible("kNN", *self.loaders):
            bank, query = (
                extract_features(model, loader, self.encoder, digests=first)
                for loader in self.loaders
            )
        self._compared = True
        if first and runner.rank == 0 and not self._said:
            say_copies(query, bank, ("kNN query", "bank"))
        for found, loader in zip((bank, query), self.loaders, strict=True):
            if found.labels is None:
                raise _unlabelled(loader.dataset)
        device = next(model.parameters()).device
        options = self.names, self.num_clusters, device
        scores = knn_accuracy(query, bank, self.k, self.temperature, self.names, device)
        clusters = clustering_of(query, *options)
        if not clusters:
            self.num_clusters = 0  # what hinders is said once
        return scores | clusters

    def _line(self, runner: Any, history: list[dict]) -> str:
        now, first = history[-1], history[0]
        top1 = [name for name in now if name.endswith("_top1")]
        parts = [
            f"{name.removesuffix('_top1').replace('_', ' ')} {now[name]:.1f} %"
            for name in top1
        ]
        # `load_from` starts from somebody's weights: those are not untrained.
        given = compat.load_from(runner) is not None and not compat.resumes(runner)
        start = "start" if given else "untrained"
        where = f"epoch {now['epoch']}" if now["epoch"] else start
        text = f"kNN (k={self.k}, t={self.temperature:g}) {where}: {', '.join(parts)}"
        if now["epoch"] and first["epoch"] == 0 and top1[0] in first:
            text += f"; {start} {first[top1[0]]:.1f} %"
        return text

    def _clusters_line(self, scores: dict[str, float]) -> str:
        names = [name.removesuffix("_nmi") for name in scores if name.endswith("_nmi")]
        parts = []
        for name in names:
            said = (f"{x.upper()} {scores[f'{name}_{x}']:.1f} %" for x in SCORES)
            parts.append(f"{name.replace('_', ' ')} {', '.join(said)}")
        return f"Clusters of the kNN query set: {'; '.join(parts)}" if parts else ""


def tag_of(name: str) -> str:
    """What a score is called in the log: ``knn/...`` or ``clustering/...``."""
    kind = "clustering" if name.rpartition("_")[2] in SCORES else "knn"
    return f"{kind}/{name}"


def _check_labels(bank: Any, query: Any) -> None:
    for dataset in (bank, query):
        if getattr(dataset, "labels", True) is None:
            raise _unlabelled(dataset)
    labels = getattr(query, "labels", None)
    if labels is None:  # a dataset of another package: seen with its first images
        return
    try:
        in_numbers_of(labels, class_names(query), class_names(bank))
    except ValueError as error:
        raise ConfigError(f"default_hooks.knn: {error}") from error


def _say_training_images(runner: Any, query: Any) -> bool:
    """Warn of images to classify that are trained on, too; all ranks must call it."""
    training, names = runner.train_dataloader.dataset, ("kNN query", "training")

    def look() -> bool:
        return runner.rank == 0 and say_copied_files(query, training, names)

    return watched_read(look, "The files of the kNN query set and the training set")


def _unlabelled(dataset: Any) -> ConfigError:
    return ConfigError(
        f"kNN needs labelled images, but {type(dataset).__name__} has images without "
        "labels. Give default_hooks.knn a labelled bank and query set, or switch it "
        "off with default_hooks.knn=None."
    )
