"""What a model takes from a state although it is not called or sized as its own."""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import Any

from torch import Tensor


def suit(model: Any, state: MutableMapping[str, Tensor]) -> None:
    """Make a state and a model suit each other, in place, before they are compared.

    Buffers that are as long as a dataset take their length from the state
    (``adopt_sizes`` of a module); names that an earlier version wrote become those of
    now (``adopt_names`` of the model).
    """
    if hasattr(model, "adopt_names"):
        model.adopt_names(state)
    bare = {name.removeprefix("module."): value for name, value in state.items()}
    for name, module in model.named_modules():
        if hasattr(module, "adopt_sizes"):
            module.adopt_sizes(bare, f"{name}.")
