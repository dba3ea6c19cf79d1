"""What a method's parts make of some views, for pictures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..layers import unit

if TYPE_CHECKING:
    from .method import Method


def inspect_terms(method: Any, inputs: Sequence[Tensor], objects: Any) -> dict:
    """What the last term that has something to draw returns, else nothing."""
    for term in reversed(method.terms.values()):
        given = objects is not None and term.needs_objects
        known = {"objects": objects} if given else {}
        if found := term.inspect(method, inputs, **known):
            return found
    return {}


def inspect_shares(method: Method, inputs: Sequence[Tensor]) -> dict[str, Any]:
    """What the first target view of each image stands for, among these images.

    Returns:
        ``shares``, N x N with rows that sum to 1, and ``view``, the number of that
        view; nothing where every image stands for itself alone.
    """
    view = method.target_views[0]
    given = {view: method.views_of(inputs)[view]}
    found = method.encode_all(method.target_encoder, given)
    k = unit(found[view]["projection"])  # N x D
    shares = torch.zeros(len(k), len(k))
    for i, own in enumerate(torch.eye(len(k), dtype=torch.bool)):
        others = method.compare.shares(k[i : i + 1], k[~own.to(k.device)])
        if others is None:
            return {}
        shares[i, ~own] = others[0].float().cpu()
        shares[i, i] = 1 - shares[i].sum()
    return {"shares": shares, "view": view}
