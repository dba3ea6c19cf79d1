"""Does the model accept what the training pipeline makes?"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from torch.utils.data import IterableDataset

from mmssl_ext.datasets import SSLDataset, UnreadableImageError
from mmssl_ext.engine.checkpoint.facts import batch_size
from mmssl_ext.errors import ConfigError
from mmssl_ext.evaluation.features import evaluating, preserved_rng
from mmssl_ext.fit import check_parts
from mmssl_ext.registry import HOOKS
from mmssl_ext.text import shown
from mmssl_ext.unwrap import unwrap

from .batch_limits import check_batches, single_values, tell_of_batches
from .draw_key import keyed_datasets
from .first_look import look_at_loader, watched_read

_TRIES = 5


@HOOKS.register_module()
class InputCheckHook(Hook):
    """Try the training pipeline, and the model on it, before any work is done.

    The first sample is made in the main process, collated to a batch of one and
    preprocessed; a thread reads it, so that a disk that does not answer is waited for
    no longer than a loader's worker would be, and a signal ends the wait. Rank 0 looks
    at a few images more and warns of what is in them, but not read: further pages, a
    fourth band, 12 bits that use little of 16.

    A model takes part by ``check_inputs(inputs)``, called in eval mode and without
    gradients, which raises ValueError or TypeError, with a sentence for the user, where
    the views do not suit it. Of the views that its ``needs_boxes_of`` numbers it must
    be known where they were cut. Of any other model with a backbone it is tried whether
    backbone, neck and head fit. Training is the same with and without this hook: modes,
    buffers, generators and draws are left as they were.

    An image that cannot be read is passed over, for the dataset's ``on_error`` decides
    about it; so is a dataset without indices.

    Raises:
        ConfigError: Pipeline and model do not fit, the images make no batch, or one
            of a single image, of which BatchNorm has no variance.
        LoaderError: The first images cannot be read within the loader's timeout.
    """

    priority = "HIGH"  # before KNNHook (60) embeds whole datasets

    def before_train(self, runner: Any) -> None:
        """Check that there are batches, and one sample."""
        loader = runner.train_dataloader
        if isinstance(loader.dataset, IterableDataset):
            return
        if len(loader) == 0:
            ranks = runner.world_size
            each = f" on each of {ranks} ranks" if ranks > 1 else ""
            raise ConfigError(
                f"The {len(loader.dataset)} training images make no whole batch of "
                f"{batch_size(loader)}{each}, and the rest is dropped (drop_last), so "
                "nothing would be trained. Lower train_dataloader.batch_size "
                "(batch_size in the shipped configs)."
            )
        model = unwrap(runner.model)
        with preserved_rng(), _preserved_draws(loader.dataset):
            name = f"The first training images ({_path(loader.dataset)}, ...)"
            item = watched_read(
                lambda: _first_item(loader.dataset), name, loader.timeout
            )
            look_at_loader(loader, name)
            if item is None:
                return
            try:
                with evaluating(model), torch.no_grad(), single_values(model) as layers:
                    batch = loader.collate_fn([item])
                    _check_unpacking(model.data_preprocessor, batch)
                    data = model.data_preprocessor(batch, False)
                    _check_fields(model, data)
                    _check_boxes(model, data)
                    if hasattr(model, "check_inputs"):
                        model.check_inputs(data["inputs"])
                    elif hasattr(model, "backbone"):
                        check_parts(model, data["inputs"])
            except (ValueError, TypeError) as error:
                raise ConfigError(str(error)) from error
        check_batches(loader, layers)
        tell_of_batches(loader, model)


def _check_unpacking(preprocessor: Any, batch: Any) -> None:
    """Refuse boxes where mmpretrain unpacks a batch as inputs and data_samples."""
    names = {cls.__name__ for cls in type(preprocessor).__mro__}
    if "SelfSupDataPreprocessor" in names and _extra(batch):
        raise ConfigError(_without_boxes(f"{type(preprocessor).__name__} takes"))


def _check_fields(model: Any, data: Any) -> None:
    """Where all of a batch goes to the model, it must take boxes and index."""
    if getattr(type(model), "train_step", None) is not BaseModel.train_step:
        return  # it may take the batch apart itself
    parameters = inspect.signature(model.forward).parameters.values()
    takes_all = any(p.kind == p.VAR_KEYWORD for p in parameters)
    if not takes_all and _extra(data) - {p.name for p in parameters}:
        raise ConfigError(_without_boxes(f"{type(model).__name__} takes"))


def _extra(batch: Any) -> set[str]:
    """Which of the fields that PackViews adds a batch has."""
    return {"boxes", "index"} & set(batch) if isinstance(batch, dict) else set()


def _check_boxes(model: Any, data: Any) -> None:
    """Refuse a batch that lacks boxes which the model needs."""
    if views := getattr(model, "needs_boxes_of", ()):
        # Models import the toolboxes.
        from mmssl_ext.models.layers.geometry import require_boxes

        require_boxes(data.get("boxes"), type(model).__name__, views)


def _without_boxes(who: str) -> str:
    return (
        f"{who} no boxes and index, which say where each view was cut and of which "
        "image; set geometry=False in PackViews of the training pipeline, or "
        'model.data_preprocessor.type="mmssl_ext.MultiViewPreprocessor".'
    )


def _path(dataset: Any) -> str:
    try:
        return shown(dataset.get_data_info(0)["img_path"])
    except Exception:  # a dataset of another kind
        return type(dataset).__name__


def _first_item(dataset: Any) -> Any:
    """Return the first of a few samples whose image can be read, or None."""
    for index in range(min(_TRIES, len(dataset))):
        try:
            return dataset[index]
        except UnreadableImageError:
            continue
        except (ValueError, TypeError) as error:
            hint = (
                '. Transforms for PIL images need DecodeImage(backend="pil").'
                if "numpy.ndarray" in str(error)
                else ""
            )
            raise ConfigError(
                f"The training pipeline fails on sample {index}: {error}{hint}"
            ) from error
    return None


@contextmanager
def _preserved_draws(dataset: Any) -> Iterator[None]:
    """Take back what a dataset without a key counts: its fresh draws."""
    keys = [d._draw_key for d in keyed_datasets(dataset) if isinstance(d, SSLDataset)]
    counts = [key._fresh_draws for key in keys]
    try:
        yield
    finally:
        for key, count in zip(keys, counts, strict=True):
            key._fresh_draws = count
