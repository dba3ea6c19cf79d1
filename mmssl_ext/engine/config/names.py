"""Lists in a config that must have one entry for each of something."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

from mmssl_ext.errors import ConfigError


def check_class_names(cfg: Any) -> None:
    """Refuse what is no list of class names: a string, which would be its letters.

    A data set of the toolboxes may name a text file of names, which they read. Names
    are text: to the toolboxes the number 1 is not the name '1' of a category.

    Raises:
        ConfigError: The message names the place and says how classes are written.
    """
    for place, value in _classes(cfg, ""):
        if not isinstance(value, str):
            _check_names(place, value)
            continue
        if place != "classes" and os.path.isfile(value):
            continue
        raise ConfigError(
            f"{place}={value} is one string, which would count as {len(value)} "
            "classes, a letter each. Write a list of names, one class as "
            f'"{place}=({value})" on the command line and '
            f'{place.rpartition(".")[2]} = ("{value}",) in a config.'
        )


def _check_names(place: str, names: Any) -> None:
    if not isinstance(names, (list, tuple)):
        return
    if odd := [name for name in names if not isinstance(name, str) or not name.strip()]:
        text = ",".join(repr(str(n)) for n in names if str(n).strip())
        name = odd[0]
        what = "is no text" if not isinstance(name, str) else "is empty"
        raise ConfigError(
            f"{place}: the name {name!r} {what}. Write names in quotes, "
            f'"{place}=({text})" on the command line and '
            f"{place.rpartition('.')[2]} = ({text}{',' * (len(names) == 1)}) in a "
            "config."
        )


def check_anchors(model: Any) -> None:
    """Refuse another number of anchor sizes than levels, which mmdet only asserts.

    Raises:
        ConfigError: The message names the sizes and how many there must be.
    """
    if isinstance(model, (list, tuple)):
        for item in model:
            check_anchors(item)
    if not hasattr(model, "items"):
        return
    for key, value in model.items():
        if key != "anchor_generator" or not hasattr(value, "get"):
            check_anchors(value)
            continue
        sizes, strides = value.get("base_sizes"), value.get("strides")
        if sizes is not None and strides is not None and len(sizes) != len(strides):
            raise ConfigError(
                f"There are {len(sizes)} anchor sizes, {list(sizes)}, but "
                f"{len(strides)} levels with the strides {list(strides)}: give one "
                "size per level, from the smallest to the largest (anchor_sizes of the "
                "shipped configs, base_sizes of an anchor_generator)."
            )


def _classes(node: Any, place: str) -> Iterator[tuple[str, Any]]:
    """Every ``classes`` that is a string or a list, with its place."""
    if isinstance(node, (list, tuple)):
        for i, item in enumerate(node):
            yield from _classes(item, f"{place}.{i}")
    elif hasattr(node, "items"):
        for key, value in node.items():
            inner = f"{place}.{key}" if place else str(key)
            if key == "classes" and isinstance(value, (str, list, tuple)):
                yield inner, value
            else:
                yield from _classes(value, inner)
