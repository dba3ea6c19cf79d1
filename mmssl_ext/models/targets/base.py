"""The interface of targets, and the network as its own target."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from mmssl_ext.registry import MODELS

from ..layers import unit
from ..part import Features

if TYPE_CHECKING:
    from ..algorithms.method import Method

# What is encoded as one: images N x 3 x H x W, or a tuple of tensors of N rows.
View = Any


class Target(nn.Module):
    """Base of the targets.

    Attributes:
        is_own: The target features are those of the online network.
        is_trained: They have a gradient.
        encodes: It has a backbone and a projector of its own.
        dim: Size of its embedding, None where it is that of the online projection.
        takes_own_view: A view may be compared with itself, as this network sees it.
        index: Positions of the step's images in the dataset, N, or None.
    """

    is_own = False
    is_trained = False
    encodes = False
    dim: int | None = None
    takes_own_view = False
    index: Tensor | None = None

    def attach(self, method: Method) -> None:
        """Take what follows from the method's other parts."""

    def follow(self, method: Method) -> None:
        """Take the online network's weights as they are, when they were initialised."""

    def start(self, method: Method) -> None:
        """Before the first step of a run.

        Raises:
            ValueError: The run does not suit the target.
        """

    def check_inputs(self, method: Method, views: list[View]) -> None:
        """Try the target views of one batch, in eval mode.

        Raises:
            ValueError: They do not suit the target.
        """

    def features(
        self, method: Method, views: dict[int, View], online: dict[int, Features]
    ) -> dict[int, Features]:
        """Features of the target views.

        Args:
            method: That it belongs to.
            views: Target views by number, as the preprocessor returned them.
            online: Online features of all views that have some.
        """
        raise NotImplementedError


@MODELS.register_module()
class OwnTarget(Target):
    """The online network itself, with gradient (SimCLR, arXiv 2002.05709)."""

    is_own = True
    is_trained = True

    def features(
        self, method: Method, views: dict[int, View], online: dict[int, Features]
    ) -> dict[int, Features]:
        """The online features; the embedding is that of the projection."""
        return {v: _projected(online[v]) for v in views}


@MODELS.register_module()
class StoppedTarget(Target):
    """The online network's projection without gradient (SimSiam, arXiv 2011.10566)."""

    is_own = True

    def features(
        self, method: Method, views: dict[int, View], online: dict[int, Features]
    ) -> dict[int, Features]:
        """The online features, constant; the embedding is that of the projection."""
        constant = {v: {n: x.detach() for n, x in online[v].items()} for v in views}
        return {v: _projected(features) for v, features in constant.items()}


def _projected(features: Features) -> Features:
    """Features whose embedding is that of the projection, not of a prediction."""
    return features | {"embedding": unit(features["projection"])}
