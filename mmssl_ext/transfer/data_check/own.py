"""List the images of this package's data sets before a stage needs them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import chain
from typing import Any

from mmssl_ext.datasets import SSLDataset
from mmssl_ext.errors import ConfigError, UserError
from mmssl_ext.registry import DATASETS, SCOPE

from .check import datasets


def check_own_data(cfg: Mapping[str, Any], seen: set[Any]) -> None:
    """Build the data sets of this package that a config names, without a pipeline.

    A run does so as it starts; a chain comes to the run of a stage days later.

    Args:
        cfg: Of the stage; data sets of the toolboxes are passed over.
        seen: What was built before, which transfers share; the new ones are added.

    Raises:
        ConfigError: One cannot be built; the message has its place in the config.
    """
    scope = cfg.get("default_scope", SCOPE)
    found = (datasets(x, f"{place}.dataset") for place, x in _loaders(cfg))
    for place, node in chain.from_iterable(found):
        head, _, name = str(node.get("type")).rpartition(".")
        cls = DATASETS.module_dict.get(name) if (head or scope) == SCOPE else None
        given = {**node, "type": f"{SCOPE}.{name}", "pipeline": []}
        if cls is None or not issubclass(cls, SSLDataset) or repr(given) in seen:
            continue
        seen.add(repr(given))
        try:
            DATASETS.build(given)
        except (UserError, OSError) as error:
            raise ConfigError(f"{place}: {error}") from error


def _loaders(node: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    """The data sets of all dataloaders below a node, and where those are."""
    for key, value in node.items() if isinstance(node, Mapping) else ():
        here = f"{place}.{key}" if place else str(key)
        if str(key).endswith("dataloader") and isinstance(value, Mapping):
            yield here, value.get("dataset")
        else:
            yield from _loaders(value, here)
