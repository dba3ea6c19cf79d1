"""Pictures of what the network has learned, for the report and for TensorBoard."""

from __future__ import annotations

import time
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from mmengine.hooks import Hook
from mmengine.visualization import LocalVisBackend

from mmssl_ext import compat
from mmssl_ext.datasets.base import SSLDataset
from mmssl_ext.engine.monitor.knn import KNNHook
from mmssl_ext.errors import UserValueError
from mmssl_ext.evaluation.features import preserved_rng
from mmssl_ext.registry import HOOKS
from mmssl_ext.unwrap import unwrap
from mmssl_ext.visualization.pictures import LEARNED, PROTOTYPES


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
        kinds: Which pictures; of prototypes where the method has some.
        num_images: Images whose feature maps are shown, 12 at most.
        max_images: Images that are searched for neighbours and embedded, at most.
        compare: Show the untrained network beside the feature maps and neighbours.
        interval: Epochs between two sets of pictures, of which the newer replaces the
            older; None: at the end of training alone.

    Raises:
        ValueError: A kind is unknown, or a number out of range.
    """

    priority = 95  # after the checkpoint (90), before the report (100)

    def __init__(
        self,
        kinds: Sequence[str] = LEARNED,
        num_images: int = 6,
        max_images: int = 500,
        interval: int | None = None,
        compare: bool = True,
    ) -> None:
        if unknown := [kind for kind in kinds if kind not in LEARNED]:
            raise UserValueError(
                f"LearnedPicturesHook: there is no kind {unknown[0]!r}; choose of "
                f"{', '.join(LEARNED)}."
            )
        number = 1 if interval is None else interval
        if not (1 <= num_images <= 12 and 3 <= max_images <= 5000 and number >= 1):
            raise UserValueError(
                f"LearnedPicturesHook: num_images={num_images} must be 1 to 12, "
                f"max_images={max_images} 3 to 5000, interval={interval} at least 1 or "
                "None."
            )
        self.kinds = tuple(dict.fromkeys(kinds))
        self.num_images, self.max_images = num_images, max_images
        self.interval, self.compare = interval, compare

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
        from mmssl_ext.visualization.pictures.images import own_dataset
        from mmssl_ext.visualization.pictures.prototypes import prototypes_of

        training = own_dataset(runner.train_dataloader.dataset)
        queries = _queries(runner)
        model = unwrap(runner.model)
        subject = learned.Subject(
            model,
            training if queries is None else queries,
            training.pipeline,
            learned.Options(num=self.num_images, most=self.max_images),
            self._untrained(runner, model),
        )
        pictures = []
        pairs = getattr(model, "num_views", 2) > 1
        for kind in self.kinds:
            if kind == "matches" and not pairs:
                continue
            if kind == PROTOTYPES and prototypes_of(subject.model) is None:
                continue
            if kind == "embedding" and find_spec("sklearn") is None:
                runner.logger.info("No embedding is drawn without scikit-learn.")
                continue
            try:
                pictures.append(learned.draw(subject, kind))
            except Exception as error:
                runner.logger.warning(
                    f"LearnedPicturesHook: no picture '{kind}' "
                    f"({type(error).__name__}: {error})"
                )
        folder = Path(runner.work_dir, learned.FOLDER)
        learned.save(pictures, folder, _checkpoint(runner, epoch), epoch)
        for backend in compat.vis_backends(runner.visualizer):
            if isinstance(backend, LocalVisBackend):  # it would write a second copy
                continue
            for picture in pictures:
                name = f"pictures/{picture.kind}"
                backend.add_image(name, picture.pixels, step=runner.iter)
        return len(pictures), folder

    def _untrained(self, runner: Any, model: Any) -> Any:
        """The model with random weights, None where it is not wanted or cannot be."""
        from mmssl_ext.visualization.pictures import learned

        backbone = (runner.cfg.get("model") or {}).get("backbone")
        if not (self.compare and backbone and hasattr(model, "backbone")):
            return None
        try:
            return learned.untrained_of(model, backbone, runner.seed or 0)
        except Exception as error:  # the other pictures do not need it
            runner.logger.warning(
                "LearnedPicturesHook: the untrained network is left out "
                f"({type(error).__name__}: {error})"
            )
            return None


def _queries(runner: Any) -> SSLDataset | None:
    """The images of the kNN evaluation, where there is one."""
    for hook in runner.hooks:
        if isinstance(hook, KNNHook):
            dataset = getattr(hook.loaders[1], "dataset", None)
            return dataset if isinstance(dataset, SSLDataset) else None
    return None


def _checkpoint(runner: Any, epoch: int) -> str | None:
    """Name of the file that holds these weights, where there is one."""
    for name in (f"epoch_{epoch}.pth", f"iter_{runner.iter}.pth"):
        if Path(runner.work_dir, name).is_file():
            return name
    return None
