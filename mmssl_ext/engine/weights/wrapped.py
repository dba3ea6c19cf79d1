"""timm's own files for networks that wrap one of timm, and name tensors otherwise."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from .files import Weights
from .match import best_prefix

_WRAPPED = "timm_model."
_WRAPPERS = ("TIMMBackbone", "TimmEmbedding")


def for_wrapper(weights: Weights, module: Any, encoder: str) -> Weights:
    """The weights by the names that a wrapped network of timm has.

    ``stages.0.blocks.0...`` of timm's files is ``timm_model.stages_0.blocks.0...`` in a
    ``TIMMBackbone`` that returns maps, and ``timm_model.model.blocks.0...`` in that of
    a transformer. Files in which the wrapper's names stand, and all other networks, are
    left as they are.

    Args:
        weights: Of the file.
        module: That takes them.
        encoder: As for ``PretrainedBackbone``.
    """
    if type(module).__name__ not in _WRAPPERS:
        return weights
    own = list(module.state_dict())
    if best_prefix(own, weights.tensors, encoder) is not None:
        return weights
    published = _published(own)
    prefix = best_prefix(published, weights.tensors, encoder)
    if prefix is None:
        return weights
    tensors = {
        prefix + published.get(name.removeprefix(prefix), name.removeprefix(prefix))
        if name.startswith(prefix)
        else name: value
        for name, value in weights.tensors.items()
    }
    return weights._replace(tensors=tensors)


def _published(own: Iterable[str]) -> dict[str, str]:
    """The wrapper's names by those of timm's files."""
    found = {}
    for name in own:
        inner = name.removeprefix(_WRAPPED).removeprefix("model.")
        found[re.sub(r"^(\w+?)_(\d+)\.", r"\1.\2.", inner)] = name
    return found
