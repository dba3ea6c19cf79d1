"""Before a training run is built: its folders are free, held, and its own."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mmengine.config import Config

from .agreement import share
from .errors import UserError
from .put_aside import put_aside
from .run_folder import RunIdentity, below_of, check_free, claim, claimed
from .work_dir import hold, not_writable

Notices = list[tuple[int, str]]


@contextlib.contextmanager
def own_folders(cfg: Config, overwrite: bool, notices: Notices) -> Iterator[None]:
    """Hold the folders that a training run of a prepared config writes to.

    Those are its work_dir and, where ``checkpoint.out_dir`` is set, the folder of its
    checkpoints. Rank 0 does all; the other ranks wait for what it found.

    Args:
        cfg: A prepared config; its ``load_from`` changes where that file moves.
        overwrite: Put a run aside that is there.
        notices: What the user should read in the log is appended.

    Raises:
        UserError: On all ranks: another run uses a folder, one cannot be written, or
            the work_dir holds a run that this one is not, and ``overwrite`` is not set.
    """
    with contextlib.ExitStack() as stack:

        def take() -> tuple[str | None, Any]:
            try:
                stack.enter_context(hold(cfg.work_dir))
                return None, _settle(cfg, overwrite, stack)
            except OSError as error:  # a folder has changed in between
                return str(
                    not_writable(Path(error.filename or cfg.work_dir), error)
                ), None
            except UserError as error:
                return str(error), None

        refusal, settled = share(take)
        if refusal is not None:
            raise UserError(refusal)
        run, moved, cfg.load_from = settled
        if moved is not None:
            text = f"--overwrite: the run that was in {cfg.work_dir} is in {moved}."
            notices.append((logging.WARNING, text))
        _separate(cfg, run)
        stack.enter_context(claimed(cfg.work_dir, run))
        yield


def _settle(
    cfg: Config, overwrite: bool, stack: contextlib.ExitStack
) -> tuple[RunIdentity, Path | None, str | None]:
    """Return the identity of the run, where an old one went, and what to load."""
    work_dir, given = Path(cfg.work_dir), cfg.get("load_from")
    resumed = Path(given) if given and cfg.get("resume") else None
    out_dir = checkpoint_out_dir(cfg)
    moved = None
    try:
        check_free(work_dir, resumed)
    except UserError:
        if not overwrite:
            raise
        moved = put_aside(work_dir)
        if given and not Path(given).exists() and moved is not None:
            given = str(moved / Path(given).name)
    run = claim(work_dir, resumed, out_dir)
    if out_dir is not None:
        folder = Path(out_dir, run.folder)
        stack.enter_context(hold(folder, "checkpoint folder", "checkpoint.out_dir"))
    return run, moved, given


def checkpoint_out_dir(cfg: Config) -> str | None:
    """Return the local folder below which a run keeps its checkpoints, if it is set."""
    out_dir = below_of(_hook(cfg).get("out_dir"), cfg.work_dir)
    return None if out_dir is None or "://" in out_dir else out_dir


def _separate(cfg: Config, run: RunIdentity) -> None:
    """Give mmengine's own hook, which appends the name of the work_dir, a folder."""
    hook, out_dir = _hook(cfg), checkpoint_out_dir(cfg)
    own = str(hook.get("type", "")).endswith("PlainCheckpointHook")
    if out_dir is not None and not own:
        hook["out_dir"] = str(Path(out_dir, run.folder))


def _hook(cfg: Config) -> Any:
    return (cfg.get("default_hooks") or {}).get("checkpoint") or {}
