"""Test loops that classify by frozen features: nearest neighbours and linear SVMs."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import Any

from mmengine.runner.base_loop import BaseLoop
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d

from mmssl_ext import compat
from mmssl_ext.errors import UserValueError
from mmssl_ext.registry import LOOPS
from mmssl_ext.text import tenths
from mmssl_ext.unwrap import unwrap

from .classes import match_classes
from .clustering import SCORES, clustering_of
from .copies import say_copies
from .features import Features, extract_features
from .knn import knn_accuracy
from .svm import COSTS, LabelledFeatures, full_svm, low_shot_svm


class PooledBackbone(nn.Module):
    """A model with a backbone, as :func:`extract_features` wants it.

    Without ``pool_kernel`` the last feature map, N x C x H x W, is averaged to N x C;
    with it windows of that side (at most the map's), one pixel apart, are, and
    concatenated.
    """

    def __init__(self, model: Any, pool_kernel: int | None = None) -> None:
        super().__init__()
        self.model = model
        self.data_preprocessor = model.data_preprocessor
        self.pool_kernel = pool_kernel

    def forward(
        self, inputs: Tensor, data_samples: Any = None, mode: str = "embed"
    ) -> dict[str, Tensor]:
        """Return ``backbone``: one row per image."""
        maps = self.model.backbone(inputs)[-1]
        # Vectors are as of a transformer's class token.
        if self.pool_kernel is None or maps.ndim == 2:
            return {"backbone": maps.mean((2, 3)) if maps.ndim > 2 else maps}
        kernel = min(self.pool_kernel, *maps.shape[2:])
        return {"backbone": avg_pool2d(maps, kernel, stride=1).flatten(1)}


class FeatureTestLoop(BaseLoop):
    """Base of the loops that extract features and evaluate them.

    Initialises the model, because ``Runner.test`` leaves that to a checkpoint: so
    ``init_cfg`` transfers the pretrained weights, or gives random ones. A
    ``load_from`` comes after that and counts.

    Args:
        runner: The runner.
        dataloader: Loader of the images to classify.
        evaluator: Must be empty (``test_evaluator = []``).
        train_dataloader: Loader of the images to learn from.
        pool_kernel: See :class:`PooledBackbone`.

    Raises:
        ValueError: The two sets do not have the same classes.
    """

    def __init__(
        self,
        runner: Any,
        dataloader: Any,
        evaluator: Any,
        train_dataloader: Any,
        pool_kernel: int | None = None,
    ) -> None:
        if evaluator:
            raise UserValueError(
                f"{type(self).__name__} computes its figures itself; set "
                "test_evaluator = []."
            )
        super().__init__(runner, dataloader)
        self.train_dataloader = runner.build_dataloader(
            train_dataloader, seed=runner.seed
        )
        match_classes(self.dataloader.dataset, self.train_dataloader.dataset)
        self.pool_kernel = pool_kernel
        runner.visualizer.dataset_meta = self.dataloader.dataset.metainfo
        self.model = unwrap(runner.model)
        if not getattr(self.model, "is_init", False):
            compat.initialise(runner)

    def evaluate(self, train: Features, test: Features) -> dict[str, float]:
        """Return the figures in percent, and log what they consist of."""
        raise NotImplementedError

    def run(self) -> dict[str, float]:
        """Extract the features of both sets and evaluate them."""
        self.runner.call_hook("before_test")
        self.runner.call_hook("before_test_epoch")
        start = time.perf_counter()
        train = self._extract("training", self.train_dataloader)
        test = self._extract("test", self.dataloader)
        if self.runner.rank == 0:
            say_copies(test, train, ("test", "training"))
        extracted = time.perf_counter()
        metrics = self.evaluate(train, test)
        self.runner.logger.info(
            f"{len(train.paths)} training and {len(test.paths)} test images, "
            f"{train.features['backbone'].shape[1]} features each: extracted in "
            f"{extracted - start:.1f} s, evaluated in "
            f"{time.perf_counter() - extracted:.1f} s."
        )
        self.runner.call_hook("after_test_epoch", metrics=metrics)
        self.runner.call_hook("after_test")
        return metrics

    def _extract(self, name: str, loader: Any) -> Features:
        model = PooledBackbone(self.model, self.pool_kernel)
        text = f"Features of the {name} images: batch"
        report = tenths(self.runner.logger.info, text)
        return extract_features(model, loader, progress=report, digests=True)


@LOOPS.register_module()
class KNNTestLoop(FeatureTestLoop):
    """Weighted kNN classification by pooled backbone features.

    Gives ``knn/top1`` and, above five classes, ``knn/top5``, in percent; and of
    clusters of the test images ``clustering/nmi``, ``clustering/ari`` and
    ``clustering/acc`` (:func:`clustering_scores`), NaN where there can be none.

    Args:
        k: Number of voters; all images vote where there are fewer.
        temperature: Sharpness of the vote, exp(similarity / temperature).
        num_clusters: Clusters of the test images; None is one per class, 0 none.
        **loop: See :class:`FeatureTestLoop`.
    """

    def __init__(
        self,
        k: int = 200,
        temperature: float = 0.1,
        num_clusters: int | None = None,
        **loop: Any,
    ) -> None:
        super().__init__(**loop)
        self.k = k
        self.temperature = temperature
        self.num_clusters = num_clusters

    def evaluate(self, train: Features, test: Features) -> dict[str, float]:
        """Classify and cluster the test images."""
        device = next(self.model.parameters()).device
        found = knn_accuracy(test, train, self.k, self.temperature, device=device)
        figures = {n.replace("backbone_", "knn/"): x for n, x in found.items()}
        scores = clustering_of(test, num_clusters=self.num_clusters, device=device)
        return figures | {
            f"clustering/{n}": scores.get(f"backbone_{n}", math.nan) for n in SCORES
        }


@LOOPS.register_module()
class SVMTestLoop(FeatureTestLoop):
    """Linear SVMs on pooled backbone features of a multi-label set.

    The datasets give ``targets``, as :class:`VOCLabels` does. Without ``shots`` all
    labels are used: ``svm/mAP`` and ``svm/AP/<class>`` in percent. With them
    ``lowshot/k<k>``, the mean over the draws, and ``lowshot/k<k>_std``.

    Args:
        costs: Grid of the SVM's cost; None for the protocol's 26 values.
        folds: Parts of the cross-validation that chooses the cost.
        shots: Numbers of positives per class for low-shot training.
        trials: Independent draws of low-shot training.
        jobs: Processes on this machine, -1 for one per core.
        **loop: See :class:`FeatureTestLoop`.
    """

    def __init__(
        self,
        costs: Sequence[float] | None = None,
        folds: int = 3,
        shots: Sequence[int] | None = None,
        trials: int = 5,
        jobs: int = -1,
        **loop: Any,
    ) -> None:
        super().__init__(**loop)
        self.costs = tuple(costs) if costs else COSTS
        self.folds = folds
        self.shots = tuple(shots or ())
        self.trials = trials
        self.jobs = jobs

    def evaluate(self, train: Features, test: Features) -> dict[str, float]:
        """Train and test the SVMs."""
        parts = [
            _labelled(train, self.train_dataloader.dataset),
            _labelled(test, self.dataloader.dataset),
        ]
        return self._low_shot(*parts) if self.shots else self._full(*parts)

    def _full(
        self, train: LabelledFeatures, test: LabelledFeatures
    ) -> dict[str, float]:
        results = full_svm(train, test, self.costs, self.folds, self.jobs)
        each = dict(zip(test.classes, results, strict=True))
        said = [f"{n} {100 * r.ap:.2f} ({r.cost:.3g})" for n, r in each.items()]
        self.runner.logger.info(f"Linear SVM, AP (cost): {', '.join(said)}")
        figures = {f"svm/AP/{name}": 100 * r.ap for name, r in each.items()}
        return {"svm/mAP": sum(figures.values()) / len(figures), **figures}

    def _low_shot(
        self, train: LabelledFeatures, test: LabelledFeatures
    ) -> dict[str, float]:
        options = self.trials, self.costs, self.jobs, self.runner.seed
        metrics: dict[str, float] = {}
        for k, found in low_shot_svm(train, test, self.shots, *options).items():
            mean, std = 100 * found.mean, 100 * found.std
            metrics |= {f"lowshot/k{k}": mean, f"lowshot/k{k}_std": std}
            self.runner.logger.info(
                f"Low-shot SVM, {k} positives: mAP {mean:.2f} ± {std:.2f} over "
                f"{self.trials} draws (cost {found.cost:.3g})."
            )
        return metrics


def _labelled(found: Features, dataset: Any) -> LabelledFeatures:
    features = found.features["backbone"].numpy()
    return LabelledFeatures(features, dataset.targets, dataset.metainfo["classes"])
