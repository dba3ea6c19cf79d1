"""The scores of ``save_best``: where they come from, and which one is the best."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from mmengine.hooks import CheckpointHook

from mmssl_ext.errors import ConfigError

# Rules of scores of this package and of the toolboxes that mmengine does not know.
_LESS = ("loss", "alignment", "uniformity", "error")
_GREATER = ("rank", "std_ratio", "gap", "ap50", "ap75", "recall", "f1")
# What a run logs besides scores.
_NO_SCORES = ("time", "lr", "memory", "eta", "img_per_s", "data_wait", "momentum")
_TOOLBOXES = {"mmssl_ext", "mmengine", "mmcv", "mmdet", "mmseg", "mmpretrain"}
_RANK = "health/effective_rank"


def rule_of(key: str) -> str | None:
    """Return ``greater`` or ``less``; None for a score that only mmengine may know."""
    name = key.lower()
    if any(part in name for part in _LESS):
        return "less"
    greater = (*_GREATER, *(x.lower() for x in CheckpointHook._default_greater_keys))
    return "greater" if any(part in name for part in greater) else None


def is_better(score: Any, best: Any, rule: str) -> bool:
    """Whether a score is a number and better than the best so far, if there is one."""
    if score is None or not math.isfinite(score):
        return False
    if best is None:
        return True
    return bool(score > best if rule == "greater" else score < best)


class LoggedScores:
    """Scores among the scalars that the hooks of a run log, each time it is new."""

    def __init__(self) -> None:
        self._seen: dict[str, Any] = {}

    def skip(self, runner: Any) -> None:
        """Leave out what is there: of untrained weights, or from before a resume."""
        scalars = runner.message_hub.log_scalars
        self._seen = {name: buffer.data[0] for name, buffer in scalars.items()}

    def new(self, runner: Any, keys: Iterable[str]) -> dict[str, float]:
        """Return those that were logged since the last call; losses as in the log."""
        scalars = runner.message_hub.log_scalars
        found = {}
        for key in keys:
            name = key if key in scalars else f"train/{key}"
            if name not in scalars:
                continue
            buffer = scalars[name]
            history = buffer.data[0]  # every update makes another array
            if len(history) == 0 or self._seen.get(name) is history:
                continue
            self._seen[name] = history
            window = getattr(runner.log_processor, "window_size", 10)
            smooth = "loss" in key and isinstance(window, int)
            found[key] = float(buffer.mean(window) if smooth else buffer.current())
        return found


def automatic(runner: Any) -> str | None:
    """Return what ``save_best="auto"`` means where nothing is validated, once known.

    It is the first kNN accuracy, and without a labelled set the effective rank.
    """
    if runner._val_loop is not None:
        return None
    if _has(runner, "KNNHook"):
        tops = [x for x in runner.message_hub.log_scalars if x.startswith("knn/")]
        return tops[0] if tops else None
    return _RANK


def names(runner: Any, metrics: Iterable[str] = ()) -> list[str]:
    """Return the scores that a run has logged so far, and these metrics."""
    logged = (x.removeprefix("train/") for x in runner.message_hub.log_scalars)
    scores = [x for x in logged if not x.split("/")[-1].endswith(_NO_SCORES)]
    return sorted({*metrics, *scores})


def missing(runner: Any, keys: Iterable[str], metrics: Iterable[str] = ()) -> list[str]:
    """Return the scores of ``save_best`` that were not logged yet."""
    known = {*names(runner, metrics), *runner.message_hub.log_scalars, "auto"}
    return [key for key in keys if key not in known]


def may_come(runner: Any, key: str, validated: bool) -> bool:
    """Whether a score that was not logged yet may be logged later.

    Args:
        runner: After its first epoch or validation.
        key: Of the score.
        validated: Whether a validation has been made.
    """
    key = key.removeprefix("train/")
    logged = [x.removeprefix("train/") for x in runner.message_hub.log_scalars]
    for prefix, hook in (("knn/", "KNNHook"), ("health/", "CollapseMonitorHook")):
        if key.startswith(prefix):
            spoken = any(name.startswith(prefix) for name in logged)
            return _has(runner, hook) and not spoken
    if runner._val_loop is not None and not validated:
        return True
    modules = {type(hook).__module__.split(".")[0] for hook in runner.hooks}
    return not modules <= _TOOLBOXES  # a hook of the user's may log it


def check_interval(runner: Any, keys: Iterable[str]) -> None:
    """Refuse a figure of the monitor that is due only after the end of the run.

    Raises:
        ConfigError: With the interval that would do.
    """
    wanted = [x for x in keys if x.removeprefix("train/").startswith("health/")]
    monitors = [x for x in runner.hooks if type(x).__name__ == "CollapseMonitorHook"]
    every = min((getattr(hook, "interval", 1) for hook in monitors), default=0)
    if not wanted or every < 1 or not missing(runner, wanted):
        return
    if (runner.iter // every + 1) * every > runner.max_iters > runner.iter:
        raise ConfigError(
            f"default_hooks.checkpoint.save_best: {wanted[0]} is measured every "
            f"{every} iterations, but the run has {runner.max_iters}. Set "
            "default_hooks.collapse.interval to the iterations of an epoch or less."
        )


def refusal(keys: Iterable[str], known: Iterable[str], saved: str = "") -> ConfigError:
    """Return the error about scores that do not come."""
    there = ", ".join(known) or "none"
    done = f" All is saved in {saved}; then go on with --resume." if saved else ""
    return ConfigError(
        f"default_hooks.checkpoint.save_best: this run logs no {', '.join(keys)}. "
        f"Name one of its scores ({there}), or remove save_best.{done}"
    )


def _has(runner: Any, hook: str) -> bool:
    return any(type(found).__name__ == hook for found in runner.hooks)
