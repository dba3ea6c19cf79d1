"""Pictures of what the network has learned, for the report and for TensorBoard."""

from __future__ import annotations

import time
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from mmengine.hooks import Hook
from mmengine.visualization import LocalVisBackend

from mmssl_ext.datasets.base import SSLDataset
from mmssl_ext.engine.monitor.augmentation_seed import seeded_datasets
from mmssl_ext.engine.monitor.knn import KNNHook
from mmssl_ext.errors import UserTypeError, UserValueError
from mmssl_ext.evaluation.features import preserved_rng
from mmssl_ext.registry import HOOKS
from mmssl_ext.unwrap import unwrap

_KINDS = ("pca", "similarity", "matches", "neighbours", "embedding", "filters")


@HOOKS.register_module()
class LearnedPicturesHook(Hook):
    """Draw what the network has learned to ``work_dir/pictures/`` when training ends.

    The images are those of the kNN query set where the run has one, else the first
    data set of the training. ``index.json`` beside the pictures describes them; the
    report shows them, and visualizer backends that keep images elsewhere, as
    TensorBoard's, get them as ``pictures/<kind>``. Rank 0 draws. Training is the same
    with and without this hook, and what cannot be drawn is a warning, never the end of
    the run.

    Args:
        kinds: Which pictures.
        num_images: Images whose feature maps are shown, 12 at most.
        max_images: Images that are searched for neighbours and embedded, at most.
        interval: Epochs between two sets of pictures, of which the newer replaces the
            older; None: at the end of training alone.

    Raises:
        ValueError: A kind is unknown, or a number out of range.
    """

    priority = 95  # after the checkpoint (90), before the report (100)

    def __init__(
        self,
        kinds: Sequence[str] = _KINDS,
        num_images: int = 6,
        max_images: int = 500,
        interval: int | None = None,
    ) -> None:
        if unknown := [kind for kind in kinds if kind not in _KINDS]:
            raise UserValueError(
                f"LearnedPicturesHook: there is no kind {unknown[0]!r}; choose of "
                f"{', '.join(_KINDS)}."
            )
        if not 1 <= num_images <= 12 or not 3 <= max_images <= 5000:
            raise UserValueError(
                "LearnedPicturesHook: num_images must be 1 to 12 and max_images 3 to "
                f"5000, but they are {num_images} and {max_images}."
            )
        if interval is not None and interval < 1:
            raise UserValueError(
                f"LearnedPicturesHook: interval={interval} must be at least 1, or None."
            )
        self.kinds = tuple(dict.fromkeys(kinds))
        self.num_images = num_images
        self.max_images = max_images
        self.interval = interval

    def after_train_epoch(self, runner: Any) -> None:
        """Draw at the interval; :meth:`after_train` draws the last ones."""
        if self.interval is None or self.is_last_train_epoch(runner):
            return
        if self.every_n_epochs(runner, self.interval):
            self._run(runner, runner.epoch + 1)

    def after_train(self, runner: Any) -> None:
        """Draw the trained network."""
        self._run(runner, runner.epoch)

    def _run(self, runner: Any, epoch: int) -> None:
        if runner.rank != 0 or not self.kinds:
            return
        start = time.perf_counter()
        try:
            with preserved_rng():
                count, folder = self._draw(runner, epoch)
        except Exception as error:  # e.g. a full disk, or images that are gone
            runner.logger.warning(
                "LearnedPicturesHook: no pictures of what was learned "
                f"({type(error).__name__}: {error}); the run goes on without."
            )
            return
        runner.logger.info(
            f"Pictures of what was learned: {count} in {folder} "
            f"({time.perf_counter() - start:.1f} s)."
        )

    def _draw(self, runner: Any, epoch: int) -> tuple[int, Path]:
        # Imported late: matplotlib is needed only where something is drawn.
        from mmssl_ext.visualization.pictures import learned

        dataset, is_evaluation = _images(runner)
        training = _dataset(runner.train_dataloader.dataset)
        options = learned.Options(num=self.num_images, most=self.max_images)
        subject = learned.Subject(
            unwrap(runner.model),
            learned.Source(dataset),
            training.pipeline,
            learned.evaluation_steps(dataset.pipeline) if is_evaluation else None,
            options,
        )
        pictures = []
        for kind in self.kinds:
            if kind == "embedding" and find_spec("sklearn") is None:
                runner.logger.info("No embedding is drawn without scikit-learn.")
                continue
            try:
                picture = learned.draw(subject, kind)
                pictures.append((picture, picture.sheet.pixels()))
            except Exception as error:
                runner.logger.warning(
                    f"LearnedPicturesHook: no picture '{kind}' "
                    f"({type(error).__name__}: {error})"
                )
        folder = Path(runner.work_dir, learned.FOLDER)
        learned.save(pictures, folder, _checkpoint(runner, epoch), epoch)
        backends = getattr(runner.visualizer, "_vis_backends", None) or {}
        for backend in backends.values():
            if isinstance(backend, LocalVisBackend):  # it would write a second copy
                continue
            for picture, pixels in pictures:
                backend.add_image(f"pictures/{picture.kind}", pixels, step=runner.iter)
        return len(pictures), folder


def _images(runner: Any) -> tuple[SSLDataset, bool]:
    """The images to draw, and whether their pipeline is that of an evaluation."""
    for hook in runner.hooks:
        if isinstance(hook, KNNHook):
            dataset = getattr(hook.loaders[1], "dataset", None)
            if isinstance(dataset, SSLDataset):
                return dataset, True
    return _dataset(runner.train_dataloader.dataset), False


def _dataset(given: Any) -> SSLDataset:
    for dataset in seeded_datasets(given):
        if isinstance(dataset, SSLDataset):
            return dataset
    raise UserTypeError(
        f"{type(given).__name__} is not a dataset of mmssl_ext, whose images could be "
        "read one by one"
    )


def _checkpoint(runner: Any, epoch: int) -> str | None:
    """Name of the file that holds these weights, where there is one."""
    for name in (f"epoch_{epoch}.pth", f"iter_{runner.iter}.pth"):
        if Path(runner.work_dir, name).is_file():
            return name
    return None
