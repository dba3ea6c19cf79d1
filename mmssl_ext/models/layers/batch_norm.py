"""Protection against the BatchNorm leak between a query and its key.

Query and positive key come from the same batch, so shared batch statistics tell which
key belongs to which query (MoCo, arXiv 1911.05722, section 3.3). The key's batch must
see other statistics: shuffled over the ranks where there are several, shuffled over
groups of one batch (SplitBatchNorm, as in the official CIFAR-10 demo) where there is
one.
"""

import contextlib
import warnings
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from mmengine.dist import get_world_size
from torch import Tensor, nn

from mmssl_ext import compat
from mmssl_ext.errors import UserValueError
from mmssl_ext.registry import MODELS


def protect_batch_norm(parts: Mapping[str, nn.Module], num_splits: int) -> bool:
    """Prepare an encoder for keys with batch statistics of their own.

    On one device its plain BatchNorm layers are replaced by :class:`SplitBatchNorm`; on
    several nothing changes, since shuffling over the ranks is enough.

    Args:
        parts: The modules of the encoder by name; changed in place.
        num_splits: Groups of the batch on one device; 1 is plain BatchNorm.

    Returns:
        Whether the key's batch has to be shuffled
        (:func:`~mmssl_ext.models.layers.shuffle_batch`).

    Raises:
        ValueError: ``num_splits`` is not positive.
    """
    if type(num_splits) is not int or num_splits < 1:
        raise UserValueError(
            f"bn_splits={num_splits!r} is no number of groups; 8 is usual, 1 is plain "
            "BatchNorm."
        )
    plain = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, SplitBatchNorm)
    if not any(isinstance(m, plain) for part in parts.values() for m in part.modules()):
        return False
    if get_world_size() > 1:
        return True
    if num_splits == 1:
        warnings.warn(
            "bn_splits=1 on one device: query and key share batch statistics, which "
            "leak the answer. Set bn_splits=8 unless this is a comparison.",
            stacklevel=3,
        )
        return False
    for part in parts.values():
        split_batch_norm(part, num_splits)
    return True


@contextlib.contextmanager
def without_statistics(parts: Iterable[nn.Module]) -> Iterator[None]:
    """Let the BatchNorm of ``parts`` leave its running statistics as they are.

    In training it normalises by those of the batch all the same.
    """
    every = (m for part in parts for m in part.modules())
    norms = [m for m in every if isinstance(m, compat.BatchNorm)]
    before = [norm.track_running_stats for norm in norms]
    for norm in norms:
        norm.track_running_stats = False
    try:
        yield
    finally:
        for norm, tracked in zip(norms, before, strict=True):
            norm.track_running_stats = tracked


@MODELS.register_module()
class SplitBatchNorm(compat.BatchNorm):
    """BatchNorm whose training statistics come from groups of the batch.

    Sample n belongs to group n mod ``num_splits``. Running statistics are the average
    over the groups. Evaluation and the state dict equal plain BatchNorm's. A batch of
    fewer than ``2 * num_splits`` samples is split into groups of at least two.

    Args:
        num_features: Channels C.
        num_splits: Number of groups.
        **kwargs: As for :class:`torch.nn.BatchNorm2d`.

    Raises:
        ValueError: ``num_splits`` is not positive, or ``momentum`` is None.
    """

    def __init__(self, num_features: int, num_splits: int = 8, **kwargs: Any) -> None:
        super().__init__(num_features, **kwargs)
        if num_splits < 1:
            raise UserValueError(f"num_splits must be at least 1, but is {num_splits}.")
        if self.momentum is None:
            raise UserValueError(
                "SplitBatchNorm keeps exponential averages; set momentum to a number."
            )
        self.num_splits = num_splits
        self.then: tuple[str, ...] = ()  # children that follow, of a fused layer

    def forward(self, x: Tensor) -> Tensor:
        """Normalise N x C x ... inputs."""
        y = self._split(x)
        for name in self.then:
            y = getattr(self, name)(y)
        return y

    def _split(self, x: Tensor) -> Tensor:
        splits = min(self.num_splits, len(x) // 2)
        if not self.training or splits < 2:
            return super().forward(x)
        kept = (self.running_mean, self.running_var) if self.track_running_stats else ()
        if kept and self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
        tracked = [s for s in kept if s is not None]
        running = [s.repeat(splits, 1) for s in tracked]  # S x C each
        flat = [statistic.view(-1) for statistic in running]
        if len(x) % splits:  # unequal groups: one call for each
            y = torch.empty_like(x)
            for n in range(splits):
                y[n::splits] = self._normalise(x[n::splits], [s[n] for s in running])
        elif x.is_contiguous():
            # Groups become channels: N x C x ... -> N/S x S*C x ...
            grouped = x.view(len(x) // splits, splits * x.shape[1], *x.shape[2:])
            y = self._normalise(grouped, flat, splits).view_as(x)
        else:
            # In channels_last too, by a copy of whole rows of C there and back:
            # N x ... x C -> N/S x S x ... x C -> N/S x ... x S*C
            rows = x.movedim(1, -1).unflatten(0, (-1, splits))
            grouped = rows.movedim(1, -2).flatten(-2).movedim(-1, 1)
            y = self._normalise(grouped, flat, splits)
            rows = y.movedim(1, -1).unflatten(-1, (splits, -1)).movedim(-2, 1)
            y = rows.flatten(0, 1).movedim(-1, 1)
        for statistic, groups in zip(tracked, running, strict=True):
            statistic.copy_(groups.mean(0))
        return y

    def _normalise(self, x: Tensor, running: list[Tensor], repeats: int = 1) -> Tensor:
        mean, var = running or (None, None)
        return nn.functional.batch_norm(
            x,
            mean,
            var,
            None if self.weight is None else self.weight.repeat(repeats),
            None if self.bias is None else self.bias.repeat(repeats),
            training=True,
            momentum=self.momentum or 0.0,
            eps=self.eps,
        )

    def _check_input_dim(self, input: Tensor) -> None:
        if input.dim() < 2:
            raise UserValueError(f"Expected N x C x ... but got {tuple(input.shape)}.")

    def extra_repr(self) -> str:
        """Groups for ``print(model)``."""
        return f"{super().extra_repr()}, num_splits={self.num_splits}"


def split_batch_norm(module: nn.Module, num_splits: int) -> nn.Module:
    """Replace every plain BatchNorm below ``module``, sharing its parameters.

    timm's ``BatchNormAct2d`` is one and an activation; that stays behind it.

    Args:
        module: Changed in place.
        num_splits: Groups per batch.

    Returns:
        ``module``, or its replacement if it is itself a BatchNorm.

    Raises:
        ValueError: A BatchNorm computes more than that.
    """
    if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)):
        split = SplitBatchNorm(
            module.num_features,
            num_splits,
            eps=module.eps,
            momentum=module.momentum,
            affine=module.affine,
            track_running_stats=module.track_running_stats,
        )
        if type(module).forward is not compat.BatchNorm.forward:
            split.then = _what_follows(module)
            for name in split.then:
                split.add_module(name, getattr(module, name))
        split.train(module.training)
        for name, parameter in module.named_parameters(recurse=False):
            split.register_parameter(name, parameter)
        for name, buffer in module.named_buffers(recurse=False):
            split.register_buffer(name, buffer)
        return split
    for name, child in module.named_children():
        setattr(module, name, split_batch_norm(child, num_splits))
    return module


def _what_follows(module: nn.Module) -> tuple[str, ...]:
    """Children that a fused BatchNorm calls behind its own sum, in order."""
    if type(module).__name__ != "BatchNormAct2d":
        raise UserValueError(
            f"{type(module).__name__} is a BatchNorm and something else, so it cannot "
            "be split into groups of the batch. Set bn_splits=1, or take another "
            "backbone."
        )
    return "drop", "act"
