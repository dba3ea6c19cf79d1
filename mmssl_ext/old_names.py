"""Checkpoints of version 0.1: what their tensors are called now."""

from __future__ import annotations

import re
from collections.abc import MutableMapping

import torch
from torch import Tensor

_RENAMED = {
    "encoder_k": "target",
    "queue": "compare.queue",
    "head.predictor": "compare.predictor",
    "dense_queue": "terms.dense.queue",
    "region": "terms.region.sampler",
    "bank": "terms.inter.bank",
    "pseudo_labels": "terms.inter.labels",
}
_OLD = re.compile(rf"^(module\.)?({'|'.join(map(re.escape, _RENAMED))})\.")
_CLOCK = "clock.steps"


def new_name(name: str) -> str:
    """What a tensor of version 0.1 is called now."""
    return _OLD.sub(lambda m: f"{m[1] or ''}{_RENAMED[m[2]]}.", name)


def rename_0_1(state: MutableMapping[str, Tensor]) -> None:
    """Rename the tensors of a state in place, if version 0.1 wrote it.

    The count of iterations, which it had not got, is that of the updates of its key
    encoder; a run that is resumed sets it anyway.
    """
    prefix = "module." if any(name.startswith("module.") for name in state) else ""
    known = any(name.startswith(f"{prefix}backbone.") for name in state)
    if not known or prefix + _CLOCK in state:
        return
    steps = state.get(f"{prefix}encoder_k.steps")
    for name in list(state):
        if (new := new_name(name)) != name:
            state[new] = state.pop(name)
    state[prefix + _CLOCK] = (
        torch.zeros(1, dtype=torch.long) if steps is None else steps.clone()
    )
