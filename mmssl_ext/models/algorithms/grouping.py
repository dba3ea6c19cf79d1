"""Which views go through a network together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from mmssl_ext.errors import UserValueError

from ..layers import without_statistics
from ..part import Features, one_of
from ..targets.base import View

if TYPE_CHECKING:
    from .method import Method


def read_grouping(grouping: str, plain_views: bool) -> str:
    """The grouping, if there is one of that name.

    Args:
        grouping: As the config says it.
        plain_views: A view is one image.

    Raises:
        ValueError: There is none, or views that are several tensors would be grouped.
    """
    if grouping == "joint" and not plain_views:
        raise UserValueError(
            "grouping='joint' takes views that are one image each; leave it out."
        )
    return one_of("grouping", grouping, ("view", "size", "joint"))


def groups_of(views: Mapping[int, View], grouping: str) -> list[list[int]]:
    """Numbers of the views that a backbone sees at once.

    Views of one size need not stand next to each other.
    """
    groups: dict[Any, list[int]] = {}
    for v, view in views.items():
        alone = grouping == "view" or not isinstance(view, Tensor)
        groups.setdefault(v if alone else tuple(view.shape[2:]), []).append(v)
    return list(groups.values())


def encode_groups(
    method: Method, encoder: Any, batches: Sequence[View]
) -> Iterator[Features]:
    """Features of groups of views, one after the other in each.

    A group is encoded when its features are asked for, so that what terms do with one
    view comes before the next view, as far as the projector does not wait for all.

    BatchNorm's running statistics are those of the largest views. A network that sees
    whole images later must not average them with those of small crops; to training they
    make no difference.

    Args:
        method: Whose parts they are.
        encoder: What has the parts as attributes: the method or its target.
        batches: A group each, normalised.
    """
    areas = [_area(batch) for batch in batches]
    own = method.parts  # of a term or the comparison, no attributes of the method
    parts = [own[n] if encoder is method else getattr(encoder, n) for n in own]
    joint = method.grouping == "joint"
    maps: list[Any] = []
    for area, batch in zip(areas, batches, strict=True):
        with without_statistics(parts if area < max(areas) else ()):
            found = encoder.backbone(batch) if joint else method.encode(encoder, batch)
        if joint:
            maps.append(found)
        else:
            yield found
    if joint:
        yield from _project_jointly(method, encoder, maps)


def _project_jointly(
    method: Method, encoder: Any, maps: Sequence[Any]
) -> list[Features]:
    """Features of groups by one pass of the projector, from the maps of each."""
    pooled = torch.cat([_pooled(x[-1]) for x in maps])
    outputs = encoder.neck((pooled,))
    if len(outputs) > 1:
        raise UserValueError(
            "grouping='joint' shows the projector the means of all maps at once, of "
            f"which a {type(encoder.neck).__name__} can make no maps; set "
            "grouping='size'."
        )
    rows = outputs[0].split([len(x[-1]) for x in maps])
    return [method.complete(encoder, x, (z,)) for x, z in zip(maps, rows, strict=True)]


def _area(view: View) -> int:
    image = view if isinstance(view, Tensor) else view[0]
    return image.shape[-2] * image.shape[-1]


def _pooled(x: Tensor) -> Tensor:
    """The mean of a map as one of one cell, N x C x 1 x 1; vectors as they are."""
    return adaptive_avg_pool2d(x, 1) if x.ndim == 4 else x
