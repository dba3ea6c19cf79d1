"""Stop on a signal, or on a fault of the data loader, with everything saved."""

from __future__ import annotations

import contextlib
import functools
from pathlib import Path
from typing import Any

from mmengine.dist import all_gather_object, barrier, is_main_process
from mmengine.hooks import Hook
from mmengine.runner import BaseLoop, EpochBasedTrainLoop
from torch.utils.data import DataLoader

from mmssl_ext import compat
from mmssl_ext.engine.checkpoint.facts import accumulation
from mmssl_ext.engine.checkpoint.loops import ExactEpochLoop
from mmssl_ext.errors import LoaderError, Preempted
from mmssl_ext.files import write_text
from mmssl_ext.registry import HOOKS
from mmssl_ext.text import as_line

from .loading import WorkerError, end_workers, guard_workers
from .preemption import Interruption, StopSignals

# In the message hub, for loops that do not know it. mmengine logs what begins by "val".
_DUE = "stopped_in_validation"


@HOOKS.register_module()
class PreemptionHook(Hook):
    """Finish the step, save and exit where a signal asks for it.

    Signals are SIGTERM, SIGUSR1, Ctrl-C (SIGINT) and a closed terminal (SIGHUP); the
    latter two only where they were not ignored at the start, as under ``nohup``.

    The run then ends with exit code 75 (:class:`Preempted`), and ``--resume`` goes on
    from there. One rank that is told is enough: all agree before the next step. While a
    rank waits for data, or evaluates, the signal ends that at once; an evaluation that
    was cut short runs again after the resume. Within accumulated gradients the run goes
    on to the end of the optimizer step. Before the first
    step there is nothing to save; after the last the run just finishes.

    A second signal ends the process at once (130 after Ctrl-C), except within two
    seconds of the first: launchers (torchrun, srun, mpirun) pass on to every process
    what the scheduler may have sent to all of them already.

    Where data cannot be loaded on some rank, all save likewise and end with
    :class:`LoaderError`, exit code 4, which names the worker, its batch and images; all
    images of the batch are listed in ``failed_batch.txt`` in the work_dir.

    Checkpoints are written by :class:`PlainCheckpointHook`, or by mmengine where the
    run has no such hook. A run without training, too, ends with 75.
    """

    priority = "VERY_LOW"  # encloses what other hooks put around the loop

    def before_run(self, runner: Any) -> None:
        """Take the signals over until the loop ends, in whatever way."""
        self._signals = StopSignals(lambda: not runner.iter % accumulation(runner))
        self._evaluation = contextlib.ExitStack()
        self._start = 0
        self._signals.install()
        training = compat.train_loop(runner)
        for loop in (training, compat.test_loop(runner)):
            if isinstance(loop, BaseLoop):
                loop.run = self._enclosed(runner, loop)
        if isinstance(training, BaseLoop):
            self._signals.trains(_innermost(training.dataloader))

    def before_train(self, runner: Any) -> None:
        """Run a validation that an earlier part of the run was stopped in."""
        hub = runner.message_hub
        if runner.iter > 0 and hub.get_info(_DUE, False):
            runner.val_loop.run()
            hub.update_info(_DUE, False)

    def before_val(self, runner: Any) -> None:
        """Let a signal end the validation."""
        self._begin("validation", runner.val_loop)

    def after_val(self, runner: Any) -> None:
        """The validation is complete."""
        self._evaluation.close()

    def before_test(self, runner: Any) -> None:
        """Let a signal end the test."""
        self._begin("test", runner.test_loop)

    def after_test(self, runner: Any) -> None:
        """The test is complete."""
        self._evaluation.close()

    def _begin(self, what: str, loop: Any) -> None:
        found = [getattr(loop, x, None) for x in ("train_dataloader", "dataloader")]
        loaders = [_innermost(loader) for loader in found if loader is not None]
        self._evaluation.enter_context(self._signals.evaluates(what, *loaders))

    def _enclosed(self, runner: Any, loop: Any) -> Any:
        run = loop.run

        @functools.wraps(run)
        def run_or_leave() -> Any:
            self._start = runner.iter
            try:
                try:
                    return run()
                except Interruption as why:
                    error = self._leave(runner, loop, why)
                raise error
            finally:
                self._signals.give_back()

        return run_or_leave

    def _leave(self, runner: Any, loop: Any, why: Interruption) -> Exception:
        """Save on all ranks; return what tells why the run ends."""
        end_workers()
        place = f"after iteration {runner.iter}"
        if isinstance(loop, EpochBasedTrainLoop):
            place = f"in epoch {runner.epoch + 1} {place}"
        if why.during is not None:
            place = f"during the {why.during} {place}"
            if why.during == "validation" and not isinstance(loop, ExactEpochLoop):
                runner.message_hub.update_info(_DUE, True)
        if not why.failed:
            self._signals.leave()
            asked = self._signals.asked
            sent = asked.name if asked else "a signal that another rank was sent"
            text = f"The run was stopped by {sent} {place}. {self._save(runner, loop)}"
            error: Exception = Preempted(text)
            log = runner.logger.warning
        else:
            told = all_gather_object(_told(runner, why.error))
            if len(told) > 1:
                told = [
                    f"Rank {i}: {text}" if text else "" for i, text in enumerate(told)
                ]
            end = f"The run was stopped {place}. {self._save(runner, loop)}"
            text = "\n".join([*filter(None, told), end])
            error = LoaderError(text)
            log = runner.logger.error
            if why.error is not None and not isinstance(why.error, LoaderError):
                # It may come from anywhere in this process: its traceback is needed.
                log(text)
                return why.error
        if runner.rank == 0:
            log(text)
        error.logged = True  # type: ignore[attr-defined]
        error.__cause__ = why.error
        return error

    def _save(self, runner: Any, loop: Any) -> str:
        """Save the state where it is not saved yet; return a sentence about it."""
        if loop is not compat.train_loop(runner) or runner.iter == 0:
            return "No step was done, so there is nothing to save; start it again."
        if runner.iter == self._start:
            given = Path(compat.load_from(runner) or "")
            inside = given.absolute().parent == Path(runner.work_dir).absolute()
            return (
                f"No step was done since it went on from {given}; go on with --resume"
                f"{'' if inside else f' {given}'}."
            )
        hooks = [hook for hook in runner.hooks if hasattr(hook, "save_now")]
        path = hooks[0].save_now(runner) if hooks else _save_by_mmengine(runner, loop)
        exact = any(hasattr(hook, "restore_random_state") for hook in runner.hooks)
        left = 0 if exact else runner.iter % accumulation(runner)
        but = f", except gradients accumulated over {left} iterations" if left else ""
        return f"Everything is saved{but} in {path}; go on with --resume."


def _innermost(loader: Any) -> DataLoader:
    """The DataLoader that others are wrapped around, guarded."""
    while not isinstance(loader, DataLoader):
        loader = loader.loader
    return guard_workers(loader)


def _told(runner: Any, error: Exception | None) -> str:
    """What to tell of an error; a batch that is known goes to a file."""
    if error is None:
        return ""
    if not isinstance(error, LoaderError):
        return f"The data loader failed: {type(error).__name__}: {error}"
    if not isinstance(error, WorkerError) or not error.images:
        return str(error)
    rank = f".rank{runner.rank}" if runner.world_size > 1 else ""
    path = Path(runner.work_dir, f"failed_batch{rank}.txt")
    try:
        write_text(path, "".join(f"{as_line(name)}\n" for name in error.images))
    except OSError:
        return str(error)
    return f"{error}\nThe whole batch is listed in {path}."


def _save_by_mmengine(runner: Any, loop: Any) -> str:
    runner.call_hook("before_write_checkpoint")
    name = f"iter_{runner.iter}.pth"
    path = str(Path(runner.work_dir, name))
    meta = {"epoch": loop.epoch, "iter": loop.iter}
    runner.save_checkpoint(runner.work_dir, name, meta=meta)
    if is_main_process():
        write_text(Path(runner.work_dir, "last_checkpoint"), path)
    barrier()
    return path
