"""Checks of what a method is given: pairs, weights, terms, and what these return."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mmpretrain.models import GlobalAveragePooling
from torch import Tensor, nn

from mmssl_ext.errors import UserValueError
from mmssl_ext.fit import map_channels

from ..comparisons import Comparison
from ..part import in_features, out_features


def read_pairs(
    pairs: Sequence[Sequence[int]], own: bool = False
) -> tuple[tuple[int, int], ...]:
    """Pairs of views as tuples.

    Args:
        pairs: (query view, target view).
        own: A view may be compared with itself.

    Raises:
        ValueError: They are no pairs, or one stands there twice.
    """
    try:
        found = tuple((a, b) for a, b in pairs)
    except (TypeError, ValueError):
        found = ()
    numbers = all(type(v) is int and v >= 0 for pair in found for v in pair)
    sound = found and numbers and (own or all(a != b for a, b in found))
    if not sound or len(set(found)) < len(found):
        raise UserValueError(
            f"pairs={pairs!r} must name different pairs of two views by number, "
            "((0, 1),) for one direction or ((0, 1), (1, 0)) for both, or count crops, "
            "dict(locals=6)."
        )
    return found


def by_name(weights: Any) -> dict[str, Any]:
    """The weights, which are given by the name of the loss."""
    if weights is not None and not isinstance(weights, Mapping):
        raise UserValueError(
            f"weights={weights!r} must be a dict by the name of the loss, such as "
            "dict(instance=1, consistency=0.3)."
        )
    return dict(weights or {})


def configs(terms: Any) -> Sequence[Mapping[str, Any]]:
    """The configs of the terms, which are a list."""
    whole = isinstance(terms, (list, tuple))
    if not whole or not all(isinstance(t, Mapping) and "type" in t for t in terms):
        raise UserValueError(
            f"terms={terms!r} must be a list of configs with a type, such as "
            "[dict(type='Consistency', temperature=0.05)]."
        )
    return terms


def named_losses(compare: Comparison, losses: Any) -> dict[str, Tensor]:
    """The losses of a comparison, if they are those that its ``names`` say."""
    if not isinstance(losses, Mapping) or set(losses) != set(compare.names):
        found = sorted(losses) if isinstance(losses, Mapping) else type(losses).__name__
        raise UserValueError(
            f"{type(compare).__name__} must return its losses as a dict with the keys "
            f"{list(compare.names)}, which its names say, not {found}."
        )
    return dict(losses)


def check_scalars(losses: Mapping[str, Any]) -> None:
    """Refuse losses of a user's own that could not be weighted and summed."""
    for name, value in losses.items():
        whole = isinstance(value, Tensor) and value.is_floating_point()
        if not whole or value.numel() != 1:
            found = (
                f"{value.dtype} of the shape {tuple(value.shape)}"
                if isinstance(value, Tensor)
                else f"a {type(value).__name__}"
            )
            raise UserValueError(
                f"The loss {name} must be a scalar tensor of floats, not {found}; "
                "return the mean over the images."
            )


def embedding_size(
    neck: nn.Module, backbone: Any, channels: int | None, feat_dim: int | None
) -> tuple[int | None, int]:
    """Compare the projector with the backbone.

    Args:
        neck: The projector.
        backbone: The backbone.
        channels: Of its last map, None where it does not say.
        feat_dim: Size D of the embedding, None where it follows from the projector.

    Returns:
        The channels where they are known by now, and D.

    Raises:
        ValueError: Their sizes differ, or D is not known; the message says what to set.
    """
    taken, size = in_features(neck), out_features(neck)
    if size is None and isinstance(neck, GlobalAveragePooling):
        channels = channels or map_channels(backbone) or feat_dim
        size = channels
    if size and feat_dim and size != feat_dim:
        raise UserValueError(
            f"The neck returns {size} features but feat_dim is {feat_dim}; leave "
            "feat_dim out."
        )
    if taken and channels and taken != channels:
        raise UserValueError(
            f"The backbone returns {channels} channels but the neck takes {taken}; set "
            f"neck.in_channels to {channels}."
        )
    if not (size or feat_dim):
        raise UserValueError(
            f"How many features a {type(neck).__name__} returns is not known; set "
            "feat_dim."
        )
    return channels, size or feat_dim or 0
