"""What terms on the cells of projected maps have in common."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from mmssl_ext.errors import UserValueError

from ..layers import require_boxes
from ..losses import cosines
from ..necks import ConvProjector
from ..part import Features, is_count
from .base import Term

if TYPE_CHECKING:
    from ..algorithms.method import Method, Step


class MapTerm(Term):
    """A term that projects the backbone's last map and keeps it a map.

    Args:
        hid_channels: Hidden width of its projector; None is that of the map.
        out_channels: D of its projector; None is that of the base.
        weight: See :class:`Term`.
        init_cfg: As for every mmengine module.

    Attributes:
        shares_neck: The projector is the neck, where that is a ``ConvProjector``.

    Raises:
        ValueError: A size is no whole number, or the neck has the projector already;
            nobody knows the channels of the map.
    """

    always = True
    needs_features = True
    needs_boxes = True
    shares_neck = False

    def __init__(
        self,
        hid_channels: int | None = None,
        out_channels: int | None = None,
        weight: Any = None,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(weight, init_cfg)
        sizes = {"hid_channels": hid_channels, "out_channels": out_channels}
        for key, size in sizes.items():
            if size is not None and not is_count(size):
                raise UserValueError(
                    f"{key}={size!r} of the term {type(self).__name__} must be a whole "
                    "number above 0."
                )
        self.hid_channels, self.out_channels = hid_channels, out_channels
        self.head: ConvProjector | None = None
        self.dim = 0  # of a cell

    def attach(self, method: Method) -> None:
        """Make the projector, where the neck is not it."""
        self.check_views(method)
        name = type(self).__name__
        self.dim = self.out_channels or method.dim
        if self.shares_neck and isinstance(method.neck, ConvProjector):
            if self.hid_channels or self.out_channels:
                raise UserValueError(
                    f"The projector of the term {name} is the neck; set hid_channels "
                    "and out_channels there."
                )
        elif method.channels is None:
            raise UserValueError(
                f"The term {name} projects feature maps, but how many channels those "
                "of the backbone have is not known; take a backbone that returns maps."
            )
        else:
            hidden = self.hid_channels or method.channels
            self.head = ConvProjector(method.channels, hidden, self.dim)

    @property
    def key(self) -> str:
        """Name of the projected map among the features of a view."""
        return f"{self.name}_map"

    def parts(self) -> dict[str, nn.Module]:
        """The term's own projector."""
        return {} if self.head is None else {f"{self.name}_head": self.head}

    def features(self, encoder: Any, maps: Any, outputs: Any) -> Features:
        """The projected map, N x D x h x w."""
        if maps[-1].ndim != 4:
            raise UserValueError(
                f"The term {type(self).__name__} compares the cells of feature maps, "
                f"but {type(encoder.backbone).__name__} returns "
                f"{tuple(maps[-1].shape)}; let it return its maps."
            )
        if self.head is None:
            return {self.key: outputs[1]}
        head: Any = getattr(encoder, f"{self.name}_head", self.head)
        return {self.key: head.project(maps[-1])}

    def seen(self, maps: Tensor) -> Tensor:
        """An online map as it is compared, N x D x h x w."""
        return maps

    def boxes(self, step: Step) -> Tensor:
        """Where the views were cut, N x V x 4.

        Raises:
            ValueError: The batch does not say.
        """
        if step.boxes is None:
            require_boxes(None, type(self).__name__, ())
        assert step.boxes is not None
        return step.boxes

    @torch.no_grad()
    def inspect(self, method: Method, inputs: list[Tensor]) -> dict[str, Any]:
        """Likeness of the cells of the first pair of views.

        Returns:
            ``cosine`` of what is compared (N x P x Q) and ``grids``, (h, w) of both;
            ``propagation``, the weights by which a cell gathers, N x P x P, if it does.
        """
        a, b = method.pairs[0]
        query = method.encode(method, inputs[a])[self.key]
        target = method.encode(method.target_encoder, inputs[b])[self.key]
        found = {"cosine": cosines(cells(self.seen(query)), cells(target))}
        grids = tuple(tuple(x.shape[-2:]) for x in (query, target))
        return found | {"grids": grids}


def cells(maps: Tensor) -> Tensor:
    """The cells of maps N x C x h x w, row by row: N x h*w x C."""
    return maps.flatten(2).mT
