"""Numbers in a config by which a run counts; mmengine asserts some, deep inside."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from .errors import ConfigError

# Options of the loop and of hooks, and the least that they may be.
_LOOP = {"max_epochs": 1, "max_iters": 1, "val_interval": 1}
_HOOK = {"interval": -1, "max_keep_ckpts": -1}  # -1: never, or all
_STEPS = {"accumulative_counts": 1}
_LOADER = {"batch_size": 1, "num_workers": 0}


def check_numbers(cfg: Any) -> None:
    """Refuse lengths and intervals that are no whole numbers or too small.

    Raises:
        ConfigError: The message names the places and what they may be.
    """
    if mistakes := list(_mistakes(cfg)):
        raise ConfigError("\n".join(mistakes))


def _mistakes(cfg: Any) -> Iterator[str]:
    yield from _wrong(cfg.get("train_cfg"), "train_cfg", _LOOP)
    yield from _wrong(cfg.get("optim_wrapper"), "optim_wrapper", _STEPS)
    for name in ("train_dataloader", "val_dataloader", "test_dataloader"):
        yield from _wrong(cfg.get(name), name, _LOADER)
    hooks = cfg.get("default_hooks")
    for name, hook in hooks.items() if isinstance(hooks, dict) else ():
        yield from _wrong(hook, f"default_hooks.{name}", _HOOK)


def _wrong(node: Any, place: str, least: dict[str, int]) -> Iterator[str]:
    for key in least if isinstance(node, dict) else ():
        value = node.get(key)
        whole = isinstance(value, int) and not isinstance(value, bool)
        if value is not None and not (whole and value >= least[key]):
            yield (
                f"{place}.{key} is {value!r}: it must be a whole number of "
                f"{least[key]} or more."
            )
