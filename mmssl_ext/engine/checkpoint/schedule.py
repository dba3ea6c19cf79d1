"""Schedules and options of the optimizer where a resumed run asks for other ones.

mmengine takes both from the checkpoint, so a run that is to be longer would train on at
the last, tiny rate. Where the config asks for others than the checkpoint has, they are
put in its place, in the state in which they would be by now: each schedule of the
config is stepped from its beginning to where the run stands. Rates are then those of a
run that had this config from its first step, to the last bit. Where nothing was changed
the checkpoint is left alone.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

from mmengine.optim import OptimWrapperDict

from mmssl_ext.compat import count_steps

from .facts import epoch_length, plain
from .plain import to_plain

# How far a schedule is, and what it was before; the rest of its state is its options.
_PROGRESS = {"last_step", "_global_step", "_last_value", "verbose"}
# Options of groups that do not change what is computed, but how.
_SILENT = {"params", "fused", "foreach", "capturable", "differentiable"}


def adapt(runner: Any, checkpoint: dict) -> list[str]:
    """Give a checkpoint the schedules that the run's config asks for.

    Args:
        runner: The run, with optimizer and schedules as the config makes them.
        checkpoint: Its ``optimizer`` and ``param_schedulers`` are changed in place.

    Returns:
        A sentence for the log for each optimizer with another schedule or options.
    """
    if _same_config(runner, checkpoint):
        return []
    notes = []
    done, epoch = checkpoint["meta"]["iter"], checkpoint["meta"]["epoch"]
    for name, wrapper, saved, schedules, states in _optimizers(runner, checkpoint):
        fresh = [_without(group, {"params"}) for group in wrapper.param_groups]
        if _same(saved, fresh, schedules, states):
            continue
        if any(getattr(x, "need_val_args", False) for x in schedules):
            notes.append(
                f"The schedules{name} follow a metric, so they are resumed from the "
                "checkpoint: other options of them, or of the optimizer, have no "
                "effect. To train on with others, start a new run by load_from."
            )
            continue
        before = saved[0]["lr"]
        groups, states[:] = _advanced(fresh, schedules, *_steps(runner, checkpoint))
        for old, new in zip(saved, groups, strict=True):
            params = old["params"]
            old.clear()
            old.update(new, params=params)
        notes.append(
            f"The schedule{name} is that of the config now, not that of the checkpoint:"
            f" after {epoch} epochs, {done} iterations, the learning rate is "
            f"{groups[0]['lr']:.4g}; the checkpoint's would be {before:.4g}. Options "
            "of the optimizer are the config's, too."
        )
    return notes


def _same_config(runner: Any, checkpoint: dict) -> bool:
    """Whether a checkpoint was written with this config, as far as schedules go."""
    state = checkpoint.get("training_state")
    if state is None or state["epoch_length"] != epoch_length(runner):
        return False
    parts = ("optim_wrapper", "param_scheduler", "train_cfg")
    now = plain({part: runner.cfg.get(part) for part in parts})
    return all(state["config"].get(part) == now[part] for part in parts)


def _optimizers(
    runner: Any, checkpoint: dict
) -> Iterator[tuple[str, Any, list[dict], list, list]]:
    """Yield name, optimizer, its saved groups, schedules and their saved states."""
    saved, wrapper = checkpoint.get("optimizer"), runner.optim_wrapper
    if not saved:
        return
    schedules = runner.param_schedulers or []
    states = checkpoint.setdefault("param_schedulers", [])
    if not isinstance(wrapper, OptimWrapperDict):
        yield "", wrapper, _groups(saved), schedules, states
        return
    for name, part in wrapper.items():
        mine = schedules.get(name, []) if isinstance(schedules, dict) else []
        state = states.setdefault(name, []) if isinstance(states, dict) else []
        yield f" of {name}", part, _groups(saved[name]), mine, state


def _groups(state: dict) -> list[dict]:
    """Groups of an optimizer's state, with mmengine's own that only has the rate."""
    base = state.get("base_param_settings")
    return [*state["param_groups"], *([] if base is None else [base])]


def _without(group: dict[str, Any], names: set[str]) -> dict[str, Any]:
    return {key: value for key, value in group.items() if key not in names}


def _same(saved: list[dict], fresh: list[dict], schedules: list, states: list) -> bool:
    """Whether options and schedules are those of the config, or have no counterpart."""

    def fixed(groups: list[dict], silent: set[str]) -> list:
        return [to_plain(_without(x, silent), []) for x in groups]

    silent = _SILENT | {x.param_name for x in schedules}
    if any(getattr(x, "use_betas", False) for x in schedules):
        silent.add("betas")
    now = [x.state_dict() for x in schedules]
    return len(saved) != len(fresh) or (
        fixed(saved, silent) == fixed(fresh, silent)
        and fixed(states, _PROGRESS) == fixed(now, _PROGRESS)
    )


def _steps(runner: Any, checkpoint: dict) -> tuple[int, int, int]:
    """Return iterations and epochs that are done, and iterations of an epoch."""
    iterations, epochs = checkpoint["meta"]["iter"], checkpoint["meta"]["epoch"]
    length = epoch_length(runner)
    if length is None:
        return iterations, 0, 0
    state = checkpoint.get("training_state") or {}
    if state.get("epoch_length") not in (None, length):  # epochs count, not iterations
        iterations = epochs * length + min(state["batch"], length)
    return iterations, epochs, length


def _advanced(
    fresh: list[dict], schedules: list, iterations: int, epochs: int, length: int
) -> tuple[list[dict], list[dict]]:
    """Return groups and states of schedules after so many iterations and epochs."""
    stand_in = _Groups(fresh)
    moving = [copy.copy(schedule) for schedule in schedules]
    for schedule in moving:
        schedule.optimizer = stand_in
        schedule.base_values = [schedule.base_values[i] for i in stand_in.chosen]
    done = 0
    for iteration in range(1, iterations + 1 if moving else 1):
        _step(moving, by_epoch=False)
        if length and iteration % length == 0 and done < epochs:
            done += 1
            _step(moving, by_epoch=True)
    for _ in range(epochs - done):
        _step(moving, by_epoch=True)
    states = []
    for schedule, original in zip(moving, schedules, strict=True):
        state = schedule.state_dict()
        state["_last_value"] = [state["_last_value"][i] for i in stand_in.kind]
        states.append(state | {"base_values": original.base_values})
    return [dict(stand_in.param_groups[i]) for i in stand_in.kind], states


def _step(schedules: list, by_epoch: bool) -> None:
    for schedule in schedules:
        if schedule.by_epoch == by_epoch:
            schedule.step()


class _Groups:
    """Stands for an optimizer in front of schedules; one of each kind of its groups."""

    def __init__(self, groups: list[dict[str, Any]]) -> None:
        kinds = [repr(sorted(group.items())) for group in groups]
        first = {kind: i for i, kind in reversed(list(enumerate(kinds)))}
        self.chosen = sorted(first.values())
        self.kind = [self.chosen.index(first[kind]) for kind in kinds]
        self.param_groups = [dict(groups[i]) for i in self.chosen]

    def step(self) -> None:
        """Schedules look whether this counts its calls."""

    count_steps(step)
    _global_step = 0
