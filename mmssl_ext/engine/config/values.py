"""Numbers and paths of a run in a config; mmengine asserts some, deep inside."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

from mmssl_ext.errors import ConfigError

# Options of the loop and of hooks, and the least that they may be.
_LOOP = {"max_epochs": 1, "max_iters": 1, "val_interval": 1}
_HOOK = {"interval": -1, "max_keep_ckpts": -1}  # -1: never, or all
_STEPS = {"accumulative_counts": 1}
_LOADER = {"batch_size": 1, "num_workers": 0}


def check_values(cfg: Any) -> None:
    """Refuse numbers that are no whole ones or too small, and paths that are none.

    Raises:
        ConfigError: The message names the places and what they may be.
    """
    if mistakes := list(_mistakes(cfg)):
        raise ConfigError("\n".join(mistakes))


def _mistakes(cfg: Any) -> Iterator[str]:
    yield from _no_paths(cfg)
    yield from _wrong(cfg.get("train_cfg"), "train_cfg", _LOOP)
    yield from _wrong(cfg.get("optim_wrapper"), "optim_wrapper", _STEPS)
    for name in ("train_dataloader", "val_dataloader", "test_dataloader"):
        yield from _wrong(cfg.get(name), name, _LOADER)
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
