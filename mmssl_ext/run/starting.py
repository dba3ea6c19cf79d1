"""Before a run is built: what it goes on from, and folders that are its own."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mmengine.config import Config

from mmssl_ext.engine.checkpoint import identity
from mmssl_ext.engine.checkpoint.read import check_checkpoint_file, find_resumable
from mmssl_ext.engine.checkpoint.run_folder import find_run
from mmssl_ext.engine.resilience.agreement import share
from mmssl_ext.errors import ConfigError, UserError

from .work_dir import hold, not_writable

Notices = list[tuple[int, str]]


def set_checkpoint(
    cfg: Config, resume: bool | str | os.PathLike[str], notices: Notices
) -> None:
    """Settle what to go on from, or whose weights to start with, and check the file.

    ``--resume`` looks into the work_dir first: a config's ``load_from`` is where the
    run began.
    """
    identity.relocate(cfg.work_dir, checkpoint_out_dir(cfg))
    again = identity.goes_on(cfg.work_dir) and find_run(cfg.work_dir) is not None
    if again and resume is not True:
        text = "This start was made once more by Slurm or torchrun: it goes on."
        notices.append((logging.INFO, text))
        resume = True
    if isinstance(resume, (str, os.PathLike)):
        cfg.load_from, cfg.resume = os.fspath(resume), True
    elif resume or (cfg.get("resume") and cfg.get("load_from") is None):
        found, notes = find_resumable(cfg.work_dir)
        notices += [(logging.WARNING, text) for text in notes]
        if found is not None:
            cfg.load_from, cfg.resume = str(found), True
        elif not (cfg.get("resume") and cfg.get("load_from")):
            start = cfg.get("load_from")
            how = f"starting from {start}" if start else "starting afresh"
            text = f"--resume: {cfg.work_dir} holds no checkpoint; {how}."
            notices.append((logging.WARNING, text))
            cfg.resume = False
    if (given := cfg.get("load_from")) is not None:
        check_checkpoint_file(given, resume=bool(cfg.get("resume")))
    if cfg.get("resume"):
        notices.append((logging.INFO, f"Resuming from {given}."))


def set_start(cfg: Config, weights: str) -> None:
    """Let the backbone begin with the weights of a file, in place.

    Raises:
        ConfigError: The config has no backbone, or names weights of the whole model.
    """
    if "backbone" not in (cfg.get("model") or {}):
        raise ConfigError(
            "--init-from gives a backbone its weights, but the config has no "
            "model.backbone."
        )
    if cfg.get("load_from") and not cfg.get("resume"):
        raise ConfigError(
            f"The whole model starts from load_from={cfg.load_from}, its backbone from "
            f"--init-from {weights}: leave one out."
        )
    given = cfg.model.backbone.get("init_cfg")
    adapts = isinstance(given, dict) and given.get("adapt_input")
    cfg.model.backbone.init_cfg = {
        "type": "mmssl_ext.PretrainedBackbone",
        "checkpoint": weights,
        **({"adapt_input": True} if adapts else {}),
    }


@contextlib.contextmanager
def own_folders(
    cfg: Config, overwrite: bool, asked: bool, notices: Notices
) -> Iterator[None]:
    """Hold the folders that a training run of a prepared config writes to.

    Those are its work_dir and, where ``checkpoint.out_dir`` is set, the folder of its
    checkpoints. Rank 0 does all; the other ranks wait for what it found.

    Args:
        cfg: A prepared config; its ``load_from`` changes where that file moves.
        overwrite: Put a run aside that is there.
        asked: The run was to go on. Where nothing is there from which it can, as when
            only its best checkpoints are, these are put aside as well.
        notices: What the user should read in the log is appended.

    Raises:
        UserError: On all ranks: another run uses a folder, one cannot be written, or
            the work_dir holds a run that this one is not, and ``overwrite`` is not set.
    """
    with contextlib.ExitStack() as stack:

        def take() -> tuple[str | None, Any]:
            try:
                stack.enter_context(hold(cfg.work_dir))
                return None, _settle(cfg, overwrite, asked, stack)
            except OSError as error:  # a folder has changed in between
                return str(_not_writable(cfg, error)), None
            except UserError as error:
                return str(error), None

        refusal, settled = share(take)
        if refusal is not None:
            raise UserError(refusal)
        run, cfg.load_from, told = settled
        notices += [(logging.WARNING, text) for text in told if text]
        hook, out_dir = _hook(cfg), checkpoint_out_dir(cfg)
        own = str(hook.get("type", "")).endswith("PlainCheckpointHook")
        if out_dir is not None and not own:  # mmengine's appends the work_dir's name
            hook["out_dir"] = str(Path(out_dir, run.folder))
        stack.enter_context(identity.claimed(cfg.work_dir, run))
        yield


def _settle(
    cfg: Config, overwrite: bool, asked: bool, stack: contextlib.ExitStack
) -> tuple[identity.RunIdentity, str | None, list[str]]:
    """Return the run's identity, what to load, and what to tell."""
    work_dir, given = Path(cfg.work_dir), cfg.get("load_from")
    resumed = Path(given) if given and cfg.get("resume") else None
    out_dir, moved, told = checkpoint_out_dir(cfg), None, []
    try:
        identity.check_free(work_dir, resumed)
    except UserError:
        unusable = asked and resumed is None and find_run(work_dir) is not None
        if not (overwrite or unusable):
            raise
        needed = texts_of({**cfg.to_dict(), "load_from": None})  # it may move as well
        moved = identity.put_aside(work_dir, needed)
    if moved is not None:
        told.append(f"The run that was in {work_dir} is in {moved} now.")
        if given and not Path(given).exists():
            given = str(moved / Path(given).name)
    elif resumed is not None:
        gone_on_with = find_run(work_dir) is not None
        if overwrite and gone_on_with and not identity.goes_on(work_dir):
            raise ConfigError(
                f"--overwrite moves the run in {work_dir} aside, but this start goes "
                f"on with it, from {resumed}: leave --overwrite out, choose another "
                "--work-dir, or start afresh (no --resume; --cfg-options resume=False "
                "where the config says resume=True)."
            )
        told.append(identity.later_files(work_dir, resumed))
    run = identity.claim(work_dir, resumed, out_dir)
    if out_dir is not None:
        folder = Path(out_dir, run.folder)
        stack.enter_context(hold(folder, "checkpoint folder", "checkpoint.out_dir"))
    return run, given, told


def texts_of(node: Any) -> Iterator[str]:
    """Yield all texts of a config, some of which are names of files."""
    if isinstance(node, str):
        yield node
    elif isinstance(node, Mapping):
        for value in node.values():
            yield from texts_of(value)
    elif isinstance(node, (list, tuple)):
        for value in node:
            yield from texts_of(value)


def _not_writable(cfg: Config, error: OSError) -> UserError:
    """Name the folder that refused, and the option that chooses another one."""
    place, out_dir = Path(error.filename or cfg.work_dir), checkpoint_out_dir(cfg)
    if out_dir is not None and place.is_relative_to(Path(out_dir).absolute()):
        option = "default_hooks.checkpoint.out_dir"
        return not_writable(place, error, "checkpoint folder", option)
    return not_writable(place, error)


def checkpoint_out_dir(cfg: Config) -> str | None:
    """Return the local folder below which a run keeps its checkpoints, if it is set."""
    out_dir = identity.below_of(_hook(cfg).get("out_dir"), cfg.work_dir)
    return None if out_dir is None or "://" in out_dir else out_dir


def _hook(cfg: Config) -> Any:
    return (cfg.get("default_hooks") or {}).get("checkpoint") or {}
