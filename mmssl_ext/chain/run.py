"""Run the stages of a chain, each as a process of its own, and never twice."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import torch

from mmssl_ext import interrupt
from mmssl_ext.engine.checkpoint.run_folder import find_run
from mmssl_ext.engine.resilience.lock import Lock
from mmssl_ext.engine.resilience.preemption import SIGNALS
from mmssl_ext.errors import Preempted, UserError
from mmssl_ext.files import sha256
from mmssl_ext.room import writing
from mmssl_ext.text import printable
from mmssl_ext.visualization.page import duration

from .results import (
    CHAIN_FILE,
    LOG_FILE,
    STAGE_FILE,
    Record,
    read_json,
    read_record,
    write_csv,
    write_json,
)
from .spec import PRETRAIN, Chain, Stage, check_stages

# What a stage is about to do, by its state on disk.
NEW, RESUME, AGAIN, DONE = "to run", "to go on", "to run again", "finished"

_TO_SAVE = 600.0  # seconds that a stage has to save what it has done
_ERROR = re.compile(r"^(Error: |\S*(Error|Exception|Interrupt)\b)")


class _Stop(BaseException):
    """A signal (None: sent to a stage) asks the chain to stop."""

    def __init__(self, number: int | None = None) -> None:
        super().__init__()
        self.number = number


@dataclass
class Task:
    """A stage with what is to be done about it.

    Attributes:
        stage: The stage.
        todo: ``to run``, ``to go on``, ``to run again`` or ``finished``.
        changes: What differs from the inputs of the run that is there.
        loss: Whether running it again would put training time aside.
    """

    stage: Stage
    todo: str
    changes: list[str]
    loss: bool = False


class ChainRunner:
    """Runs stages of a chain in a work dir.

    Args:
        chain: The chain.
        work_dir: Its folder; one subfolder per stage.
        tools: Folder of train.py and dist_train.sh.
        gpus: Processes per stage; above one by dist_train.sh.
        jobs: Stages that run at once; each gets GPUs of its own as far as there are.
    """

    def __init__(
        self,
        chain: Chain,
        work_dir: str | Path,
        tools: Path,
        gpus: int = 1,
        jobs: int = 1,
    ) -> None:
        self.chain = chain
        self.work_dir = Path(work_dir)
        self.tools = tools
        self.gpus = gpus
        self.jobs = jobs
        self._processes: list[subprocess.Popen] = []
        self._guard = threading.Lock()  # of stdout and of starting processes
        self._stopping = False
        self._preempted = False
        self._hashes: dict[tuple, str] = {}

    # What is there, and what is to be done

    def tasks(self, stages: list[Stage]) -> list[Task]:
        """Compare stages with what stands in the work dir."""
        found: list[Task] = []
        for stage in stages:
            pending = any(
                task.stage.name == stage.needs and task.todo != DONE for task in found
            )
            found.append(self._task(stage, pending))
        return found

    def check(self, stages: list[Stage], rerun: bool = False) -> list[Task]:
        """Check everything that can be checked before the first stage starts.

        Raises:
            UserError: A config, an option or a file cannot be used, or a result would
                have to give way that ``rerun`` does not give up.
        """
        check_stages(stages)
        names = {stage.name for stage in stages}
        for stage in stages:
            if stage.needs and stage.needs not in names:
                self._checkpoint(stage)
        tasks = self.tasks(stages)
        if refused := [task for task in tasks if task.loss and not rerun]:
            listed = "".join(
                f"\n  {task.stage.name}: {'; '.join(task.changes)}" for task in refused
            )
            raise UserError(
                f"{self.work_dir} holds stages with other inputs than "
                f"{self.chain.file} asks for now:{listed}\nAdd --rerun to run them "
                f"again (what is there moves to {self.work_dir / 'old'}), undo the "
                "change, or name the other stages with --only."
            )
        return tasks

    def record(self, stage: Stage) -> Record:
        """Return what is known of a stage."""
        return read_record(self.work_dir, _entry(stage))

    def _task(self, stage: Stage, pending: bool) -> Task:
        record = self.record(stage)
        if not record.state.get("inputs"):
            if (found := find_run(record.folder)) is None:
                return Task(stage, NEW, [])
            change = f"its folder holds {found}, which no chain has started"
            return Task(stage, AGAIN, [change], loss=True)
        finished = record.status == "finished"
        if finished and "output" not in record.state:
            self._finish(stage, record.result["seconds"])  # the chain was killed
        changes = _differences(record.state.get("inputs") or {}, stage.inputs())
        digest = record.state.get("checkpoint_sha256")
        if pending and (finished or digest):
            changes.append("the pretraining that it starts from is not finished")
        elif not pending and stage.checkpoint is not None:
            now = self._checkpoint(stage)[1]
            if digest is not None and now != digest:
                changes.append(f"checkpoint: SHA-256 {digest[:8]} -> {now[:8]}")
        if changes:
            kept = finished or find_run(record.folder) is not None
            return Task(stage, AGAIN, changes, loss=kept)
        return Task(stage, DONE if finished else RESUME, [])

    def _checkpoint(self, stage: Stage) -> tuple[str | None, str]:
        """Return path and SHA-256 of what a stage starts from."""
        if stage.checkpoint is None:
            return None, ""
        if stage.checkpoint != PRETRAIN:
            path = Path(stage.checkpoint)
        else:
            record = self.record(self.chain.stage(PRETRAIN))
            if record.status != "finished":
                raise UserError(
                    f"Stage {stage.name} starts from the pretraining, which has not "
                    f"finished in {self.work_dir}. Run the stage pretrain first."
                )
            path = Path(str(record.state.get("output")))
            # The folder may have been moved since.
            path = path if path.is_file() else record.folder / path.name
            if not path.is_file():
                raise UserError(
                    f"The checkpoint of the pretraining, {path}, is gone. Put it back, "
                    f"or delete {record.folder / STAGE_FILE} and add --rerun to "
                    "pretrain again."
                )
        path = path.absolute()
        key = (path, path.stat().st_mtime_ns, path.stat().st_size)
        if key not in self._hashes:
            self._hashes[key] = sha256(path)
        return str(path), self._hashes[key]

    # Running

    def run(
        self, stages: list[Stage], rerun: bool = False, keep_going: bool = True
    ) -> int:
        """Run what is not finished.

        A signal that asks to stop goes on to the stages that are running, which then
        save what they have done; a second one ends them at once.

        Returns:
            0; 1 where a stage failed; 75 where a signal stopped the chain or a stage.

        Raises:
            Interrupted: Ctrl-C stopped the chain.
            UserError: Found by :meth:`check`, or another chain is at work here.
        """
        with Lock(self.work_dir / "chain.lock", f"The work dir {self.work_dir}").held():
            return self._run(self.check(stages, rerun), keep_going)

    def run_alone(self, stage: Stage, rerun: bool = False) -> int:
        """Run one stage beside others that other processes may be running."""
        return self._run(self.check([stage], rerun), keep_going=True)

    def save_plan(self) -> None:
        """Write ``chain.json``, by which the results are read."""
        stages = [_entry(stage) for stage in self.chain.stages]
        value = {"chain": str(self.chain.file), "stages": stages}
        write_json(self.work_dir / CHAIN_FILE, value)

    def _run(self, tasks: list[Task], keep_going: bool) -> int:
        self.save_plan()
        todo = [task for task in tasks if task.todo != DONE]
        done = len(tasks) - len(todo)
        _say(
            f"Chain {self.chain.file.stem}: {len(todo)} of {len(tasks)} stages to run"
            f"{f', {done} finished before' if done else ''}. Logs: "
            f"{self.work_dir / 'STAGE' / LOG_FILE}"
        )
        failures = self._run_tasks(todo, keep_going)
        write_csv(self.work_dir)
        if self._preempted:
            return Preempted.exit_code
        if failures:
            _say(f"{len(failures)} of {len(todo)} stages did not finish:")
        for name, reason in failures.items():
            _say(f"  {name}: {reason}")
        return int(bool(failures))

    def _run_tasks(self, todo: list[Task], keep_going: bool) -> dict[str, str]:
        """Run tasks, some at once; return why stages failed by their names."""
        failures: dict[str, str] = {}
        waiting = {task.stage.name: task for task in todo}
        running: dict[Future[str | None], tuple[str, int]] = {}
        started: set[str] = set()
        slots = list(range(self.jobs))
        with ThreadPoolExecutor(self.jobs) as pool, self._stoppable():
            try:
                while waiting or running:
                    for name, task in list(waiting.items()):
                        needs = task.stage.needs
                        if needs in failures or (failures and not keep_going):
                            self._skip(waiting.pop(name).stage, needs, failures)
                        elif slots and not self._awaits(needs, waiting, running):
                            slot = slots.pop(0)
                            started.add(name)
                            start = pool.submit(self._attempt, waiting.pop(name), slot)
                            running[start] = name, slot
                    for future in wait(running, return_when=FIRST_COMPLETED).done:
                        name, slot = running.pop(future)
                        slots.append(slot)
                        reason = future.result()
                        if self._preempted:
                            raise _Stop
                        if reason is not None:
                            log = self.work_dir / name / LOG_FILE
                            failures[name] = f"{reason} (log: {log})"
                        left = [task for task in todo if task.stage.name in waiting]
                        done = len(todo) - len(left) - len(running)
                        place = f"[{done}/{len(todo)}] {name}"
                        self._tell(name, place, failures, left)
            except _Stop as why:
                self._preempted = True
                self._stop_all(_TO_SAVE)
                wait(running)
                write_csv(self.work_dir)
                states = {x: self.record(self.chain.stage(x)).status for x in started}
                names = [x for x, state in states.items() if state == "interrupted"]
                within = f" in {', '.join(sorted(names))}" if names else ""
                _say(f"Stopped{within}; the same command goes on from here.")
                if why.number == signal.SIGINT:
                    error = interrupt.Interrupted()
                    error.logged = True
                    raise error from None
        return failures

    @staticmethod
    def _awaits(needs: str | None, waiting: dict, running: dict) -> bool:
        return needs in waiting or needs in [name for name, _ in running.values()]

    def _skip(self, stage: Stage, needs: str | None, failures: dict[str, str]) -> None:
        why = f"{needs} failed" if needs in failures else "an earlier one failed"
        failures[stage.name] = f"not run, because {why}"
        _say(f"{stage.name}: {failures[stage.name]}")
        self._set(stage, status="skipped", reason=failures[stage.name])

    def _tell(
        self, name: str, place: str, failures: dict[str, str], left: list[Task]
    ) -> None:
        """Say how a stage ended and what time the rest will take."""
        write_csv(self.work_dir)
        if name in failures:
            with self._guard:
                _say(f"{place}: FAILED. {failures[name]}")
            return
        record = self.record(self.chain.stage(name))
        metric, value = record.headline
        text = f"{metric} {value:.2f}, " if value is not None else ""
        rest = (self._time_left(left) or 0) / self.jobs
        with self._guard:
            _say(
                f"{place}: {text}{duration(record.state['seconds'])}"
                f"{f'; about {duration(rest)} left' if rest else ''}"
            )

    def _attempt(self, task: Task, slot: int) -> str | None:
        name = task.stage.name
        with Lock(self.work_dir / "locks" / name, f"Stage {name}").held() as lock:
            return self._run_stage(task.stage, lock, slot)

    def _run_stage(self, stage: Stage, lock: Lock, slot: int) -> str | None:
        """Run a stage; return why it failed, None where it did not."""
        with self._guard:  # one after the other: reading a config diverts stdout
            prepared = self._prepare(stage)
        if prepared is None:
            return None
        command, spent = prepared
        folder = self.work_dir / stage.name
        start = time.monotonic()
        code = self._call(command, folder, lock, slot)
        seconds = round(spent + time.monotonic() - start, 1)
        if code == 0 and self.record(stage).result:
            self._finish(stage, seconds)
            return None
        self._preempted |= code == Preempted.exit_code and not self._stopping
        if code == Preempted.exit_code or self._stopping:
            self._set(stage, status="interrupted", seconds=seconds)
            return None
        reason = _last_error(folder / LOG_FILE) or f"exit code {code}"
        if code == 0:
            reason = "it ended without a result.json"
        elif code < 0:
            reason = f"ended by {signal.Signals(-code).name}"
        self._set(stage, status="failed", reason=reason, seconds=seconds)
        return reason

    def _prepare(self, stage: Stage) -> tuple[list[str], float] | None:
        """Return the command of a stage and the seconds spent; None if it is done."""
        # Things have changed since the plan: the pretraining may have finished only
        # now, and another process may have run this stage.
        task = self._task(stage, pending=False)
        folder = self.work_dir / stage.name
        if task.todo == DONE:
            return None
        if task.todo == AGAIN:
            old = self._move_aside(folder)
            _say(f"{stage.name} has other inputs now: {'; '.join(task.changes)}")
            _say(f"  what was there is in {old}")
        checkpoint, digest = self._checkpoint(stage)
        resume = task.todo == RESUME and find_run(folder) is not None
        verb = "goes on" if resume else "starts"
        _say(f"{datetime.now():%H:%M:%S} {stage.name} {verb}")
        config = self.work_dir / "configs" / f"{stage.name}.py"
        stage.write(config, checkpoint)
        inputs = stage.inputs()
        lines = "".join(f"{key} = {value}\n" for key, value in sorted(inputs.items()))
        spent = self.record(stage).state.get("seconds", 0.0) if resume else 0.0
        self._set(
            stage,
            status="started",
            reason=None,
            config=str(stage.config),
            config_sha256=hashlib.sha256(lines.encode()).hexdigest(),
            checkpoint=checkpoint,
            checkpoint_sha256=digest or None,
            inputs=inputs,
            started=datetime.now().astimezone().isoformat("T", "seconds"),
        )
        return self.command(stage, config, resume), spent

    def _finish(self, stage: Stage, seconds: float) -> None:
        output = self.record(stage).result.get("checkpoint")
        digest = sha256(output) if output and Path(output).is_file() else None
        self._set(
            stage,
            status="finished",
            seconds=seconds,
            output=output,
            output_sha256=digest,
        )

    def command(self, stage: Stage, config: Path, resume: bool) -> list[str]:
        """Command line of a stage."""
        alone = self.gpus == 1 or stage.load(None).get("train_cfg") is None
        if alone:
            command = [sys.executable, str(self.tools / "train.py"), str(config)]
        else:
            script = str(self.tools / "dist_train.sh")
            command = ["bash", script, str(config), str(self.gpus)]
        command += ["--work-dir", str(self.work_dir / stage.name)]
        return command + ["--resume"] * resume

    def _call(self, command: list[str], folder: Path, lock: Lock, slot: int) -> int:
        path = folder / LOG_FILE
        with writing(path), path.open("a", encoding="utf-8") as log, self._guard:
            if self._stopping:
                return 1
            log.write(printable(f"$ {shlex.join(command)}\n"))
            log.flush()
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self._environment(slot),
                start_new_session=True,  # Ctrl-C is ours to pass on
                pass_fds=lock.inheritable,  # it may outlive this process
            )
            self._processes.append(process)
        lock.give_to(process.pid)
        return process.wait()

    def _environment(self, slot: int) -> dict[str, str]:
        """Environment of a stage; beside others it has its share of the machine."""
        env = {**os.environ, "PYTHONUNBUFFERED": "1"}
        env.setdefault("PYTHON", sys.executable)
        if self.jobs > 1:
            threads = max((os.cpu_count() or 1) // self.jobs, 1)
            env.setdefault("OMP_NUM_THREADS", str(threads))
            given = os.environ.get("CUDA_VISIBLE_DEVICES")
            count = range(torch.cuda.device_count())
            devices = given.split(",") if given else [str(i) for i in count]
            if len(devices) > 1:
                first = slot * self.gpus
                own = [devices[(first + i) % len(devices)] for i in range(self.gpus)]
                env["CUDA_VISIBLE_DEVICES"] = ",".join(own)
        return env

    @contextlib.contextmanager
    def _stoppable(self) -> Iterator[None]:
        """Let signals stop the stages, not this process."""
        asked = False

        def stop(number: int, _: Any) -> None:
            nonlocal asked
            if asked:  # theirs to judge whether it is the same notice once more
                self._signal_all(signal.SIGTERM)
                return
            asked = True
            interrupt.note()
            if number == signal.SIGHUP:
                interrupt.leave_terminal()
            raise _Stop(number)

        heeded = [number for number in SIGNALS if not interrupt.is_ignored(number)]
        try:
            before = {number: signal.signal(number, stop) for number in heeded}
        except ValueError:  # not the main thread
            yield
            return
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _stop_all(self, patience: float) -> None:
        with self._guard:  # no further process starts
            self._stopping = True
        self._signal_all(signal.SIGTERM)
        end = time.monotonic() + patience
        for process in self._processes:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(max(end - time.monotonic(), 0))
        self._signal_all(signal.SIGKILL)

    def _signal_all(self, number: int) -> None:
        for process in self._processes:
            if process.poll() is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, number)

    def _set(self, stage: Stage, **values: Any) -> None:
        path = self.work_dir / stage.name / STAGE_FILE
        write_json(path, {**read_json(path), **values})

    def _move_aside(self, folder: Path) -> Path:
        old = self.work_dir / "old"
        old.mkdir(exist_ok=True)
        number = 1
        while (target := old / f"{folder.name}.{number}").exists():
            number += 1
        return folder.rename(target)

    def _time_left(self, tasks: list[Task]) -> float | None:
        """Seconds, by what finished runs of the same transfers took, else of any.

        None before there are any, and while stages wait for a pretraining whose
        end nobody knows.
        """
        needed = {task.stage.needs for task in tasks} - {None}
        for name in needed:
            if self.record(self.chain.stage(str(name))).status != "finished":
                return None
        taken: dict[str, list[float]] = {}
        for stage in self.chain.stages:
            record = self.record(stage)
            if record.status == "finished" and "seconds" in record.state:
                taken.setdefault(stage.transfer, []).append(record.state["seconds"])
        pretraining = taken.pop(PRETRAIN, [])
        everything = [seconds for times in taken.values() for seconds in times]
        if not everything:
            return None
        taken[PRETRAIN] = pretraining
        known = [taken.get(task.stage.transfer) or everything for task in tasks]
        return sum(sum(times) / len(times) for times in known)


def _entry(stage: Stage) -> dict[str, Any]:
    return {
        "name": stage.name,
        "transfer": stage.transfer,
        "title": stage.title,
        "source": stage.source,
        "scratch": stage.transfer != PRETRAIN and stage.checkpoint is None,
        "seed": stage.seed,
    }


def _differences(old: dict[str, str], new: dict[str, str]) -> list[str]:
    changed = [name for name in {**old, **new} if old.get(name) != new.get(name)]
    texts = [
        f"{name}: {_short(old.get(name))} -> {_short(new.get(name))}"
        for name in changed[:4]
    ]
    rest = len(changed) - len(texts)
    return texts + ([f"{rest} settings more"] if rest else [])


def _short(value: str | None) -> str:
    text = "nothing" if value is None else value
    return text if len(text) <= 60 else f"{text[:57]}..."


def _last_error(log: Path) -> str | None:
    """Return the line of a log that says what went wrong."""
    with log.open(encoding="utf-8", errors="replace") as stream:
        lines = [line.strip() for line in deque(stream, 200) if line.strip()]
    errors = [line for line in lines if _ERROR.match(line)]
    return next(reversed(errors or lines), None)


def _say(text: str) -> None:
    print(printable(text), flush=True)
