"""What comparisons and terms have in common: they belong to a method and remember."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from mmengine.model import BaseModule
from torch import Tensor, nn

from mmssl_ext.errors import UserValueError
from mmssl_ext.registry import MODELS

if TYPE_CHECKING:
    from .algorithms.method import Method, Step
    from .memory.clock import Clock
    from .schedules import Schedule

Features = dict[str, Tensor]  # by name, the batch in the first dimension


class Part(BaseModule):
    """A comparison or a term of a :class:`~mmssl_ext.models.algorithms.Method`.

    Attributes:
        remembers_first: A step is remembered before its loss, not after it.
        schedules: What changes in it in the course of a training, but for its weight.
    """

    remembers_first = False
    schedules: tuple[Schedule, ...] = ()

    def attach(self, method: Method) -> None:
        """Take what follows from the method's other parts, such as the feature size.

        Raises:
            ValueError: It cannot work with them; the message says why.
        """

    def parts(self) -> dict[str, nn.Module]:
        """Trained modules that the target needs a copy of, by a name of their own."""
        return {}

    def frozen(self, iteration: int, clock: Clock) -> list[Tensor]:
        """Parameters that the optimizer must leave alone in an iteration."""
        return []

    def collect(self, method: Method, step: Step) -> Features:
        """What is to be remembered of a step, N rows each; constant."""
        return {}

    def remember(self, found: Features) -> None:
        """Take what :meth:`collect` returned, of all of an optimizer step."""

    def check_inputs(self, method: Method, views: list[Any]) -> None:
        """Try the query views of one batch, in eval mode.

        Raises:
            ValueError: They do not suit the part.
        """

    first_epoch = 0  # that must have passed before the part does anything

    def start(self, training: Any) -> None:
        """See :meth:`~mmssl_ext.models.algorithms.Method.start`."""

    def start_epoch(self, training: Any, weight: float) -> None:
        """Before an epoch; ``weight``: what this part's loss counts in it at most."""

    def end_epoch(self, training: Any) -> None:
        """After an epoch."""


def build_part(name: str, config: Any, kind: type = object) -> Any:
    """Build what a config describes.

    Args:
        name: Its key in the config of the model, for messages.
        config: The config.
        kind: What its class must be derived from.

    Raises:
        ValueError: It is none, has no type, or one of another kind.
    """
    if not isinstance(config, Mapping) or "type" not in config:
        raise UserValueError(
            f"{name}={config!r} must be a config with a type: {name}=dict(type=...)."
        )
    try:
        part = MODELS.build(config)
    except (TypeError, ValueError, RuntimeError) as error:
        if not isinstance(error, UserValueError):
            check_widths(name, config)  # torch says it in words of its own
        raise
    check_widths(name, config)
    if not isinstance(part, kind):
        raise UserValueError(
            f"{name}: a {type(part).__name__} is no {kind.__name__}; take a class that "
            f"is derived from {kind.__module__.rpartition('.')[0]}.{kind.__name__}."
        )
    return part


def check_widths(name: str, config: Mapping[str, Any]) -> None:
    """Refuse widths of layers, ``*_channels`` in a config, that none can have.

    Raises:
        ValueError: One is no whole number above 0, nor a list of such.
    """
    for key, value in config.items():
        if value is None or not key.endswith("channels"):
            continue
        many = value if isinstance(value, (list, tuple)) and value else [value]
        if not all(map(is_count, many)):
            raise UserValueError(
                f"{name}.{key}={value!r} must be a whole number above 0, a layer's "
                "width."
            )


def choices(method: str, given: Mapping[str, Any], **made: Any) -> dict[str, Any]:
    """The choices that a named method makes, beside those that a config gives.

    Args:
        method: Its type, for messages.
        given: What the config gives it besides.
        **made: Choices that are its own.

    Raises:
        ValueError: One is given that is its own.
    """
    if both := sorted(set(made) & set(given)):
        raise UserValueError(
            f"{method} makes its own {both[0]}: leave model.{both[0]} out and set the "
            f"options of {method}, or let type='Method' leave the choice to you."
        )
    return {**made, **given}


def shares(
    method: str, given: Mapping[str, Any] | None, name: str, share: Any
) -> dict[str, Any]:
    """Weights of a named method by its ``loss_lambda``, and those of more terms.

    Args:
        method: Its type, for messages.
        given: ``weights`` of its config.
        name: Of the loss that counts ``loss_lambda``; the base's counts the rest.
        share: The schedule of ``loss_lambda``.

    Raises:
        ValueError: A weight is given that follows from ``loss_lambda``.
    """
    own = {"instance": share.complement(), name: share}
    if both := sorted(set(own) & set(given or {})):
        raise UserValueError(
            f"The weight of {both[0]} is given twice, as weights.{both[0]} and by "
            f"loss_lambda of {method}; leave weights.{both[0]} out."
        )
    return {**own, **(given or {})}


def one_of(name: str, value: str, choices: tuple[str, ...]) -> str:
    """The value if it is one of the choices."""
    if value not in choices:
        raise UserValueError(f"{name}={value!r} must be one of {', '.join(choices)}.")
    return value


def is_number(value: Any) -> bool:
    """Whether a setting is a finite number."""
    real = isinstance(value, (int, float)) and not isinstance(value, bool)
    return real and math.isfinite(value)


def is_count(value: Any) -> bool:
    """Whether a setting is a whole number above 0."""
    return type(value) is int and value > 0


def check_positive(name: str, value: float) -> float:
    """Return a temperature if it is one, else say what to change."""
    if not is_number(value) or value <= 0:
        raise UserValueError(
            f"{name}={value!r} is not a temperature: it divides the similarities and "
            "must be positive (usual values lie between 0.04 and 1)."
        )
    return value


def in_features(module: nn.Module) -> int | None:
    """Size of what a projector or predictor takes, by its first layer."""
    layers = _layers(module)
    return layers[0].weight.shape[1] if layers else None


def out_features(module: nn.Module) -> int | None:
    """Size of what a projector or predictor returns, by its last layer."""
    layers = _layers(module)
    return layers[-1].weight.shape[0] if layers else None


def _layers(module: nn.Module) -> list[Any]:
    """Its linear layers; without any, its convolutions of 1 x 1."""
    every = list(module.modules())
    linear = [m for m in every if isinstance(m, nn.Linear)]
    flat = (m for m in every if isinstance(m, nn.Conv2d) and m.kernel_size == (1, 1))
    return linear or list(flat)
