"""Numbers, paths and names in a config; the toolboxes assert some, deep inside."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

from mmssl_ext.errors import ConfigError

# Options of the loop and of hooks, and the least that they may be.
_LOOP = {"max_epochs": 1, "max_iters": 1, "val_interval": 1}
_HOOK = {"interval": -1, "max_keep_ckpts": -1}  # -1: never, or all
_STEPS = {"accumulative_counts": 1}
_SEEDS = 2**32  # what NumPy takes
_LOADER = {"batch_size": 1, "num_workers": 0}


def check_values(cfg: Any) -> None:
    """Refuse numbers, paths, class names and anchor sizes that no run can use.

    Raises:
        ConfigError: The message names the places and what they may be.
    """
    if mistakes := list(_mistakes(cfg)):
        raise ConfigError("\n".join(mistakes))
    _check_class_names(cfg)
    _check_anchors(cfg.get("model"))


def _mistakes(cfg: Any) -> Iterator[str]:
    yield from _no_paths(cfg)
    yield from _wrong(cfg.get("train_cfg"), "train_cfg", _LOOP)
    yield from _wrong(cfg.get("optim_wrapper"), "optim_wrapper", _STEPS)
    for name in ("train_dataloader", "val_dataloader", "test_dataloader"):
        yield from _wrong(cfg.get(name), name, _LOADER)
    yield from _wrong_seed(cfg.get("randomness"))
    yield from _ended(cfg.get("param_scheduler"))
    hooks = cfg.get("default_hooks")
    for name, hook in hooks.items() if isinstance(hooks, dict) else ():
        yield from _wrong(hook, f"default_hooks.{name}", _HOOK)


def _no_paths(cfg: Any) -> Iterator[str]:
    hooks = cfg.get("default_hooks")
    checkpoint = (hooks or {}).get("checkpoint") if isinstance(hooks, dict) else None
    given = {"work_dir": cfg.get("work_dir"), "load_from": cfg.get("load_from")}
    if isinstance(checkpoint, dict):
        given["default_hooks.checkpoint.out_dir"] = checkpoint.get("out_dir")
    for place, value in given.items():
        if value is None or (isinstance(value, (str, os.PathLike)) and str(value)):
            continue
        hint = f" For a name of digits write ./{value}." if type(value) is int else ""
        yield f"{place} is {value!r}: it must be the path of a file or folder.{hint}"
    resume = cfg.get("resume")
    if resume not in (None, True, False):
        yield (
            f"resume is {resume!r}: it must be True or False. Name the checkpoint by "
            "--resume FILE, or by load_from beside resume=True."
        )


def _wrong(node: Any, place: str, least: dict[str, int]) -> Iterator[str]:
    for key in least if isinstance(node, dict) else ():
        value = node.get(key)
        whole = isinstance(value, int) and not isinstance(value, bool)
        if value is not None and not (whole and value >= least[key]):
            yield (
                f"{place}.{key} is {value!r}: it must be a whole number of "
                f"{least[key]} or more."
            )


def _wrong_seed(randomness: Any) -> Iterator[str]:
    seed = randomness.get("seed") if isinstance(randomness, dict) else None
    if seed is not None and not (type(seed) is int and 0 <= seed < _SEEDS):
        yield (
            f"randomness.seed is {seed!r}: it must be a whole number from 0 to "
            f"{_SEEDS - 1}, or None for another one each time."
        )


def _ended(schedulers: Any) -> Iterator[str]:
    """Schedules that end before they begin, as behind a warm-up of a short training."""
    listed = [schedulers] if isinstance(schedulers, dict) else schedulers
    for place, one in enumerate(listed if isinstance(listed, (list, tuple)) else ()):
        told = one if isinstance(one, dict) else {}
        begin, end = told.get("begin"), told.get("end")
        if not (isinstance(begin, (int, float)) and isinstance(end, (int, float))):
            continue
        if end <= begin:
            yield (
                f"param_scheduler.{place} ({told.get('type')}) begins at {begin} and "
                f"ends at {end}: train for longer than the warm-up (lr_warmup) lasts, "
                "or shorten that."
            )


def _check_class_names(cfg: Any) -> None:
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


def _check_anchors(model: Any) -> None:
    """Refuse another number of anchor sizes than levels, which mmdet only asserts.

    Raises:
        ConfigError: The message names the sizes and how many there must be.
    """
    if isinstance(model, (list, tuple)):
        for item in model:
            _check_anchors(item)
    if not hasattr(model, "items"):
        return
    for key, value in model.items():
        if key != "anchor_generator" or not hasattr(value, "get"):
            _check_anchors(value)
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
