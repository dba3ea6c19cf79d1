"""Does the model accept what the training pipeline makes, in batches of this size?"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Iterator, Sized
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from mmengine.dataset import InfiniteSampler
from mmengine.dist import get_world_size
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.model import BaseModel
from torch import nn
from torch.utils.data import IterableDataset

from mmssl_ext import compat
from mmssl_ext.datasets import SSLDataset, UnreadableImageError
from mmssl_ext.engine.checkpoint.facts import batch_size, sampler
from mmssl_ext.errors import ConfigError
from mmssl_ext.evaluation.features import evaluating, preserved_rng
from mmssl_ext.fit import check_parts
from mmssl_ext.registry import HOOKS
from mmssl_ext.text import shown
from mmssl_ext.unwrap import unwrap
from mmssl_ext.upstream import check_views

from .augmentation_seed import seeded_datasets
from .first_look import look_at_loader, watched_read

_TRIES = 5  # images, where the first cannot be read
_PAIR = 2  # values of which there is a variance


@HOOKS.register_module()
class InputCheckHook(Hook):
    """Try the training pipeline, and the model on it, before any work is done.

    1. There is a whole batch to train on.
    2. A thread reads the first sample: a disk that does not answer is waited for no
       longer than a loader's worker would be, and a signal ends the wait. An image that
       cannot be read is passed over, for the dataset's ``on_error`` decides about it.
    3. Rank 0 looks at a few images more and warns of what is in them, but not read:
       further pages, a fourth band, 12 bits that use little of 16.
    4. The model gets the sample as a batch of one, in eval mode and without gradients.
       It may have ``check_inputs(inputs)``, which raises ValueError or TypeError with a
       sentence for the user where the views do not suit it; of any other model with a
       backbone it is tried whether backbone, neck and head fit. Of the views that its
       ``needs_boxes_of`` numbers it must be known where they were cut.
    5. BatchNorm, splits of it and queues suit the size of the batches.

    Training is the same with and without this hook: modes, buffers, generators and the
    counters of the datasets are left as they were. A dataset without indices is left
    alone.

    Raises:
        ConfigError: Pipeline and model do not fit, the images make no batch, or one
            of a single image, of which BatchNorm has no variance.
        LoaderError: The first images cannot be read within the loader's timeout.
    """

    priority = "HIGH"  # before KNNHook (60) embeds whole datasets

    def before_train(self, runner: Any) -> None:
        """Make the five checks."""
        loader, model = runner.train_dataloader, unwrap(runner.model)
        if isinstance(loader.dataset, IterableDataset):
            return
        _check_length(loader, runner.world_size)
        name = f"The first training images ({_path(loader.dataset)}, ...)"
        with preserved_rng(), _preserved_counters(loader.dataset):
            item = watched_read(
                lambda: _first_item(loader.dataset), name, loader.timeout
            )
            look_at_loader(loader, name)
            if item is None:
                return
            single = _try_model(model, loader, item)
        if single and (size := batch_size(loader)) is not None:
            _check_single_images(loader, size, single[0])
        _warn_of_small_batches(loader, model)


# The dataset


def _check_length(loader: Any, ranks: int) -> None:
    if len(loader) == 0:
        each = f" on each of {ranks} ranks" if ranks > 1 else ""
        raise ConfigError(
            f"The {len(loader.dataset)} training images make no whole batch of "
            f"{batch_size(loader)}{each}, and the rest is dropped (drop_last), so "
            "nothing would be trained. Lower train_dataloader.batch_size "
            "(batch_size in the shipped configs)."
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
            text = f"The training pipeline fails on sample {index}: {error}"
            if "numpy.ndarray" in str(error):
                text += '. Transforms for PIL images need DecodeImage(backend="pil").'
            raise ConfigError(text) from error
    return None


@contextmanager
def _preserved_counters(dataset: Any) -> Iterator[None]:
    """Take back what a dataset without a key counts: its fresh draws."""
    datasets = [d for d in seeded_datasets(dataset) if isinstance(d, SSLDataset)]
    keys = [d.augmentation_seed for d in datasets]
    counts = [key.unseeded for key in keys]
    try:
        yield
    finally:
        for key, count in zip(keys, counts, strict=True):
            key.unseeded = count


# The model


def _try_model(model: Any, loader: Any, item: Any) -> list[str]:
    """Refuse a sample that does not suit; return what :func:`_single_values` found."""
    try:
        with evaluating(model), torch.no_grad(), _single_values(model) as single:
            batch = loader.collate_fn([item])
            _check_extra_fields(model.data_preprocessor, batch)
            data = model.data_preprocessor(batch, False)
            _check_forward(model, data)
            if views := getattr(model, "needs_boxes_of", ()):
                # Models import the toolboxes.
                from mmssl_ext.models.layers.geometry import require_boxes

                require_boxes(data.get("boxes"), type(model).__name__, views)
            if getattr(model, "needs_objects", False):
                from mmssl_ext.models.layers.roi import require_objects

                require_objects(data.get("objects"), type(model).__name__)
            if hasattr(model, "check_inputs"):
                model.check_inputs(data["inputs"])
            elif hasattr(model, "backbone"):
                for view in check_views(model, data["inputs"]):
                    check_parts(model, view)
    except (ValueError, TypeError) as error:
        raise ConfigError(str(error)) from error
    return single


def _check_extra_fields(preprocessor: Any, batch: Any) -> None:
    """Refuse boxes where mmpretrain unpacks a batch as inputs and data_samples."""
    names = {cls.__name__ for cls in type(preprocessor).__mro__}
    if "SelfSupDataPreprocessor" in names and _extra(batch):
        raise _takes_no_boxes(preprocessor)


def _check_forward(model: Any, data: Any) -> None:
    """Where all of a batch goes to the model, it must take boxes and index."""
    if getattr(type(model), "train_step", None) is not BaseModel.train_step:
        return  # it may take the batch apart itself
    parameters = inspect.signature(model.forward).parameters.values()
    takes_all = any(p.kind == p.VAR_KEYWORD for p in parameters)
    if not takes_all and _extra(data) - {p.name for p in parameters}:
        raise _takes_no_boxes(model)


def _extra(batch: Any) -> set[str]:
    """Which of the fields that PackViews adds a batch has."""
    return (
        {"boxes", "index", "objects"} & set(batch) if isinstance(batch, dict) else set()
    )


def _takes_no_boxes(part: Any) -> ConfigError:
    return ConfigError(
        f"{type(part).__name__} takes no boxes and index, which say where each view "
        "was cut and of which image; set geometry=False in PackViews of the training "
        'pipeline, or model.data_preprocessor.type="mmssl_ext.MultiViewPreprocessor".'
    )


# The size of the batches, of which a batch of one in eval mode shows nothing


@contextmanager
def _single_values(model: nn.Module) -> Iterator[list[str]]:
    """Find the BatchNorm layers that get one value per channel from a batch of one.

    Yields:
        Their names, filled while the model runs.
    """
    found: list[str] = []

    def note(name: str, _: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        # Of patches or regions a single image has several rows.
        if inputs[0].numel() < _PAIR * inputs[0].shape[1]:
            found.append(name)

    several = get_world_size() > 1
    with ExitStack() as stack:
        for name, module in model.named_modules():
            is_shared = several and isinstance(module, nn.SyncBatchNorm)
            if isinstance(module, compat.BatchNorm) and not is_shared:
                handle = module.register_forward_pre_hook(partial(note, name))
                stack.enter_context(handle)
        yield found


def _check_single_images(loader: Any, size: int, layer: str) -> None:
    """Refuse a batch of one image, of which ``layer`` gets one value."""
    if size == 1:
        what = "Batches have one image"
        how = (
            "Raise train_dataloader.batch_size (batch_size in the shipped configs) to "
            "2 or more"
        )
    elif _images(loader) % size == 1:
        what = (
            f"The last batch of an epoch has one image ({_images(loader):,} images in "
            f"batches of {size}, drop_last=False)"
        )
        how = "Set train_dataloader.drop_last=True, or change the batch size"
    else:
        return
    raise ConfigError(
        f"{what}, of which BatchNorm ({layer}) has one value per channel and no "
        f"variance. {how}."
    )


def _images(loader: Any) -> int:
    """Images of this rank in an epoch; 0 where all batches are whole, or unknown."""
    if getattr(loader.batch_sampler, "drop_last", loader.drop_last):
        return 0
    found = sampler(loader)
    endless = isinstance(found, InfiniteSampler) or not isinstance(found, Sized)
    return 0 if endless else len(found)


def _warn_of_small_batches(loader: Any, model: nn.Module) -> None:
    """Log what goes on, but not as the config may mean it: splits and queues."""
    # Models import the toolboxes, which the check of other data does without.
    from mmssl_ext.models.layers import SplitBatchNorm
    from mmssl_ext.models.memory import KeyQueue

    size = batch_size(loader)
    if size is None:  # dealt out by a sampler that does not tell
        return
    modules = list(model.modules())
    warn = partial(print_log, logger="current", level=logging.WARNING)
    splits = max(
        (m.num_splits for m in modules if isinstance(m, SplitBatchNorm)), default=1
    )
    if splits > 1 and size < 2 * _PAIR:
        warn(
            f"Batches of {size} cannot be split into groups (bn_splits={splits}), so "
            "query and key share batch statistics, which leak the answer. Raise "
            "batch_size to 4 or more; 16 gives 8 groups of two."
        )
    keys = size * get_world_size()
    length = min(
        (m.keys.shape[-2] for m in modules if isinstance(m, KeyQueue)), default=keys
    )
    if length < keys:
        warn(
            f"The queue of {length:,} keys is shorter than a step of {keys:,} images, "
            "so most of the keys are never compared with. Set queue_len to "
            f"{keys:,} or more."
        )
