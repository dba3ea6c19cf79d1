"""Datasets with or without labels, and the transforms of the loader's workers.

Their modules, and with them torch, are imported at the first use of a name.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .registered import *  # noqa: F403


def __getattr__(name: str) -> Any:
    if name.startswith("__") and name != "__all__":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.registered"), name)


def __dir__() -> list[str]:
    return __getattr__("__all__")
