"""Which run may go on from a checkpoint, and what is said of what has changed."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from mmengine.dataset import DefaultSampler, InfiniteSampler
from torch.utils.data import BatchSampler

from mmssl_ext.compat import load_from
from mmssl_ext.datasets.identity import VERSION
from mmssl_ext.datasets.identity import differences as differences_of_data
from mmssl_ext.engine.resilience.agreement import share
from mmssl_ext.engine.weights.report import compare
from mmssl_ext.engine.weights.start import advice, can_start
from mmssl_ext.errors import CheckpointFileError
from mmssl_ext.unwrap import unwrap

from .facts import DATA, data_of, facts, sampler
from .foreign_state import suit
from .read import check_finite

_LISTED = 10  # differences that a message shows
_NAMES = {
    "method": "model.type",
    "optimizer": "optim_wrapper.optimizer.type",
    "accumulative_counts": "optim_wrapper.accumulative_counts",
    "images": "train_dataloader.dataset, images",
    "epoch_length": "train_dataloader, iterations per epoch",
}
_NOTHING = "nothing"  # in place of a value that one of two configs lacks

# Parts of a config that a training step depends on ...
_PARTS = (
    *("model", "data_preprocessor", "optim_wrapper", "param_scheduler", "train_cfg"),
    *("train_dataloader", "custom_hooks", "randomness"),
)
# ... and keys in them that change nothing, or how fast it is; the batch size is
# compared by itself, and data may be moved.
_SILENT = {"num_workers", "persistent_workers", "pin_memory", "prefetch_factor"}
_SILENT |= {"timeout", "multiprocessing_context", "batch_size", "root", "data_root"}
_SILENT |= {"val_interval", "val_begin", "dynamic_intervals", "interval", "dataloader"}
_SILENT |= {"init_cfg", "_scope_"}
_OBSERVERS = {"KNNHook", "CollapseMonitorHook", "PicturesHook", "FeatureMapHook"}
_OBSERVERS |= {"OnlineProbeHook"}


def check_kind(runner: Any, checkpoint: dict) -> None:
    """Refuse weights that no run of mmengine's wrote, before anything is asked of them.

    Raises:
        CheckpointFileError: The message says how to start from them.
    """
    meta = checkpoint.get("meta")
    if isinstance(meta, dict) and {"epoch", "iter"} <= meta.keys():
        return
    state = checkpoint.get("state_dict", checkpoint)
    tensors = {str(n): v for n, v in state.items() if isinstance(v, torch.Tensor)}
    fits = _compare_tensors(unwrap(runner.model), tensors).complete
    raise CheckpointFileError(
        f"The run cannot be resumed from {load_from(runner)}: it holds weights, but no "
        "state of a run (epoch and iteration). Start a new run from them: "
        f"{_other_start(runner, checkpoint, fits)}"
    )


def check_resume(
    runner: Any, checkpoint: dict, allow_other_data: bool = False
) -> tuple[list[str], dict[str, Any] | None]:
    """Compare a checkpoint with the run that wants to go on from it, on all ranks.

    Returns:
        Warnings, a sentence or a few lines each, and on rank 0 what identifies the
        data.

    Raises:
        CheckpointFileError: It cannot go on from this one: a state that is not finite,
            another method, other tensors, another optimizer, other images or another
            batch. The message lists the differences and says what to do.
    """
    check_kind(runner, checkpoint)
    check_finite(checkpoint, load_from(runner))
    data = _compare_data(runner, checkpoint, allow_other_data)
    saved = checkpoint.get("training_state")
    refused: list[str] = []
    changed: list[str] = []
    remedy = ""
    if saved is None:
        warnings = [
            "The checkpoint has no training_state: mmengine alone or an earlier "
            "version of this package wrote it. Random generators start afresh, and "
            "whether method, data and batch are still the same is not known."
        ]
    else:
        now = facts(runner)
        changed = differences(saved["config"], now["config"])
        refused, remedy, warnings = _judge(saved, now, data, runner.train_dataloader)
    report = _compare_tensors(unwrap(runner.model), checkpoint.get("state_dict") or {})
    if report.complete:  # else the groups differ anyway
        refused += _group_changes(runner, checkpoint)
    if refused or not report.complete:
        parts = {re.split(r"\W", line)[0] for line in refused} & set(_PARTS)
        parts |= set() if report.complete else {"model"}
        refused += [line for line in changed if line.split(".")[0] in parts]
        raise CheckpointFileError(
            f"The run cannot be resumed from {load_from(runner)}, which was written by "
            f"a run with other settings or data (checkpoint -> now):{shown(refused)}"
            f"{report.details()}\n{remedy}Undo the change to resume, or start a new "
            f"run from the weights alone, in a work_dir of its own: "
            f"{_other_start(runner, checkpoint, report.complete)}"
        )
    if changed:
        warnings.append(
            "The config is not the one that the checkpoint was written with "
            f"(checkpoint -> now); the run goes on with it:{shown(changed)}"
        )
    return warnings, data.now


class _Data(NamedTuple):
    """What the data of a checkpoint and of a run differ in."""

    text: str  # the end of a sentence; empty where they are the same or not known
    allowed: bool  # the run may go on nevertheless
    known: bool  # both say which data they have
    now: dict[str, Any] | None  # on rank 0: what identifies those of the run


def _compare_data(runner: Any, checkpoint: dict, allowed: bool) -> _Data:
    """Compare them; rank 0 does it for all."""
    now: list[dict[str, Any] | None] = [None]

    def judge() -> tuple[str, bool, bool]:
        now[0] = data_of(runner)
        before = checkpoint["meta"].get(DATA)
        if now[0] is None or before is None or before.get("version") != VERSION:
            return "", allowed, now[0] is None
        text, missing = differences_of_data(before, now[0])
        skips = getattr(runner.train_dataloader.dataset, "on_error", None) == "skip"
        return text, allowed or (missing and skips), True

    return _Data(*share(judge), now[0])


def _judge(
    saved: dict, now: dict, data: _Data, loader: Any
) -> tuple[list[str], str, list[str]]:
    """Return what is refused, what to do then, and what is only warned of."""
    batch, remedy = batch_changes(saved, now)
    images, refused, warnings = _changes(saved, now, "images"), [], []
    other = [f"train_dataloader.dataset, other images: {data.text}"] * bool(data.text)
    if data.allowed and (other or images):
        text = data.text or images[0]
        warnings.append(f"The run goes on with other data: {text}.")
    else:
        refused = other + images
        refused += [] if batch else _changes(saved, now, "epoch_length")
        if not data.known:
            warnings.append(
                "The checkpoint does not say which files it was trained on, for an "
                "earlier version of this package wrote it: whether the data are still "
                "the same is not known."
            )
    refused += [*_changes(saved, now, "method", "optimizer"), *batch]
    if refused and (other or images):
        remedy += "To go on with other data, add --allow-other-data "
        remedy += "(default_hooks.resume.allow_other_data=True). "
    threads = saved.get("threads")
    if saved["world_size"] != now["world_size"]:
        warnings.append(on_other_ranks(saved, now, loader))
    elif threads and now["threads"] not in (None, threads):
        warnings.append(
            f"The checkpoint was written on {threads} CPU threads, this run has "
            f"{now['threads']}. Their sums round differently: it goes on, but not bit "
            f"for bit. OMP_NUM_THREADS={threads} makes it exact."
        )
    return refused, remedy, warnings


def on_other_ranks(saved: dict, now: dict, loader: Any) -> str:
    """Say what stays the same on another number of ranks, and what does not."""
    dealt = type(sampler(loader)) in (DefaultSampler, InfiniteSampler)
    if dealt and type(loader.batch_sampler) is BatchSampler:
        images = "Every iteration sees the same images as before, in the same order of "
        images += "iterations."
    else:
        kind = type(loader.batch_sampler or loader.sampler).__name__
        images = f"Which images an iteration sees changes: {kind} depends on the rank."
    return (
        f"The checkpoint was written by {saved['world_size']} ranks, now there are "
        f"{now['world_size']}. {images} Not the same: the images that share BatchNorm "
        "statistics and their shuffling, random numbers that the ranks draw, the order "
        "of keys within an iteration, and rounding."
    )


def batch_changes(saved: dict, now: dict) -> tuple[list[str], str]:
    """Return the differences, and what to set where the batch is another."""
    lines = _changes(saved, now, "accumulative_counts")
    sizes = [(x["world_size"], x["batch_size"]) for x in (saved, now)]
    if None in (size for _, size in sizes):
        return lines, ""
    (before, old), (after, new) = ((n * m, f"{n} x {m}") for n, m in sizes)
    if before == after:
        return lines, ""
    lines.append(
        "images per iteration (ranks x train_dataloader.batch_size): "
        f"{before} = {old} -> {after} = {new}"
    )
    ranks, each = now["world_size"], f"{before} images per iteration"
    if before % ranks:
        return lines, f"{each} cannot be shared evenly by {ranks} ranks. "
    size = before // ranks
    return lines, f"Set train_dataloader.batch_size={size} for {each} as before. "


def _group_changes(runner: Any, checkpoint: dict) -> list[str]:
    """Parameter groups that the optimizer's state was not made for."""
    saved = (checkpoint.get("optimizer") or {}).get("param_groups")
    optimizer = getattr(runner.optim_wrapper, "optimizer", None)
    if saved is None or optimizer is None:
        return []
    before, after = (
        [len(group["params"]) for group in groups]
        for groups in (saved, optimizer.param_groups)
    )
    texts = [f"{len(x)} with {sum(x)} parameters" for x in (before, after)]
    line = f"optim_wrapper.optimizer, its groups: {' -> '.join(texts)}"
    return [] if before == after else [line]


def _other_start(runner: Any, checkpoint: dict, fits: bool) -> str:
    """How to start from the weights of a checkpoint that no run can go on from."""
    path, model = str(load_from(runner)), unwrap(runner.model)
    if fits or can_start(model, checkpoint, path):
        return "--cfg-options load_from=FILE in place of --resume."
    if found := advice(model, checkpoint, path):
        return f"load_from does not take this file.{found}"
    return "load_from does not take this file either."


def differences(saved: dict, now: dict) -> list[str]:
    """Return ``name: before -> after`` of all that a training step may depend on."""
    before, after = (
        dict(_flatten({p: x.get(p) for p in _PARTS})) for x in (saved, now)
    )
    pairs = {
        name: (before.get(name, _NOTHING), after.get(name, _NOTHING))
        for name in sorted(before.keys() | after.keys())
    }
    return [f"{name}: {a} -> {b}" for name, (a, b) in pairs.items() if a != b]


def _flatten(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (dotted name, value) of what nested data holds."""
    if name == "custom_hooks":
        hooks = [hook for hook in value or [] if isinstance(hook, dict)]
        value = {str(hook.get("type")): hook for hook in hooks}
        value = {k: v for k, v in value.items() if k.split(".")[-1] not in _OBSERVERS}
    if isinstance(value, list):
        value = {str(i): item for i, item in enumerate(value)}
    if not isinstance(value, dict):
        yield name, value
        return
    for key, item in value.items():
        if key not in _SILENT:
            yield from _flatten(item, f"{name}.{key}" if name else key)


def _compare_tensors(model: Any, state: dict) -> Any:
    suit(model, state)
    # As mmengine loads it.
    state = {name.removeprefix("module."): value for name, value in state.items()}
    return compare(model.state_dict(), state, whole=True)


def _changes(saved: dict, now: dict, *names: str) -> list[str]:
    return [
        f"{_NAMES[name]}: {saved[name]} -> {now[name]}"
        for name in names
        if saved[name] != now[name]
    ]


def shown(lines: list[str]) -> str:
    """Return the first ten different lines, indented, each after a line break."""
    lines = list(dict.fromkeys(lines))
    if len(lines) > _LISTED:
        lines = [*lines[:_LISTED], f"... and {len(lines) - _LISTED} more"]
    return "".join(f"\n  {line}" for line in lines)
