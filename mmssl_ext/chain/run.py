"""Run the stages of a chain, each as a process of its own, and never twice."""

from __future__ import annotations

import hashlib
import re
import signal
import sys
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from datetime import datetime
from pathlib import Path

from mmssl_ext import interrupt
from mmssl_ext.engine.checkpoint.run_folder import find_run
from mmssl_ext.engine.resilience.lock import Lock
from mmssl_ext.errors import Preempted
from mmssl_ext.text import printable
from mmssl_ext.visualization.page import duration

from .plan import AGAIN, DONE, RESUME, Plan, Task, inputs_of
from .processes import Processes, Stop
from .results import LOG_FILE, write_csv
from .spec import Chain, Stage

_TO_SAVE = 600.0  # seconds that a stage has to save what it has done
_ERROR = re.compile(r"^(Error: |\S*(Error|Exception|Interrupt)\b)")


class ChainRunner:
    """Runs stages of a chain in a work dir.

    Args:
        chain: The chain.
        work_dir: Its folder; one subfolder per stage.
        tools: Folder of train.py and dist_train.sh.
        gpus: Processes per stage; above one by dist_train.sh.
        jobs: Stages that run at once; each gets GPUs of its own as far as there are.
        page: Writes the page of a work dir and returns its path; called at the start
            and after every stage.
    """

    def __init__(
        self,
        chain: Chain,
        work_dir: str | Path,
        tools: Path,
        gpus: int = 1,
        jobs: int = 1,
        page: Callable[[Path], Path] | None = None,
    ) -> None:
        self.chain = chain
        self.work_dir = Path(work_dir)
        self.tools = tools
        self.gpus = gpus
        self.jobs = jobs
        self.page = page
        self.plan = Plan(chain, self.work_dir)
        self.processes = Processes(gpus, jobs)
        self._preempted = False

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
            UserError: Found by :meth:`Plan.check`, or another chain is at work here.
        """
        with Lock(self.work_dir / "chain.lock", f"The work dir {self.work_dir}").held():
            return self._run(self.plan.check(stages, rerun), keep_going)

    def run_alone(self, stage: Stage, rerun: bool = False) -> int:
        """Run one stage beside others that other processes may be running."""
        return self._run(self.plan.check([stage], rerun), keep_going=True)

    def _run(self, tasks: list[Task], keep_going: bool) -> int:
        self.plan.save()
        todo = [task for task in tasks if task.todo != DONE]
        done = len(tasks) - len(todo)
        _say(
            f"Chain {self.chain.file.stem}: {len(todo)} of {len(tasks)} stages to run"
            f"{f', {done} finished before' if done else ''}. Logs: "
            f"{self.work_dir / 'STAGE' / LOG_FILE}"
        )
        if todo and (path := self._renew()):
            _say(f"Page, renewed after every stage: {path}")
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
        with ThreadPoolExecutor(self.jobs) as pool, self.processes.stoppable():
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
                            raise Stop
                        if reason is not None:
                            log = self.work_dir / name / LOG_FILE
                            failures[name] = f"{reason} (log: {log})"
                        left = [task for task in todo if task.stage.name in waiting]
                        done = len(todo) - len(left) - len(running)
                        place = f"[{done}/{len(todo)}] {name}"
                        self._tell(name, place, failures, left)
            except Stop as why:
                self._preempted = True
                self.processes.stop_all(_TO_SAVE)
                wait(running)
                write_csv(self.work_dir)
                states = {
                    x: self.plan.record(self.chain.stage(x)).status for x in started
                }
                names = [x for x, state in states.items() if state == "interrupted"]
                within = f" in {', '.join(sorted(names))}" if names else ""
                _say(f"Stopped{within}; the same command goes on from here.")
                if why.number == signal.SIGINT:
                    error = interrupt.Interrupted()
                    error.logged = True
                    raise error from None
        return failures

    def _renew(self) -> Path | None:
        """Write results and page; a page that cannot be made does not end the chain."""
        write_csv(self.work_dir)
        try:
            return self.page and self.page(self.work_dir)
        except Exception as error:
            with self.processes.guard:
                _say(f"The page could not be renewed: {error}")
            return None

    @staticmethod
    def _awaits(needs: str | None, waiting: dict, running: dict) -> bool:
        return needs in waiting or needs in [name for name, _ in running.values()]

    def _skip(self, stage: Stage, needs: str | None, failures: dict[str, str]) -> None:
        why = f"{needs} failed" if needs in failures else "an earlier one failed"
        failures[stage.name] = f"not run, because {why}"
        _say(f"{stage.name}: {failures[stage.name]}")
        self.plan.set(stage, status="skipped", reason=failures[stage.name])

    def _tell(
        self, name: str, place: str, failures: dict[str, str], left: list[Task]
    ) -> None:
        """Say how a stage ended and what time the rest will take."""
        self._renew()
        if name in failures:
            with self.processes.guard:
                _say(f"{place}: FAILED. {failures[name]}")
            return
        record = self.plan.record(self.chain.stage(name))
        metric, value = record.headline
        text = f"{metric} {value:.2f}, " if value is not None else ""
        rest = (self.plan.time_left(left) or 0) / self.jobs
        with self.processes.guard:
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
        with (
            self.processes.guard
        ):  # one after the other: reading a config diverts stdout
            prepared = self._prepare(stage)
        if prepared is None:
            return None
        command, spent = prepared
        folder = self.work_dir / stage.name
        start = time.monotonic()
        code = self.processes.call(command, folder, lock, slot)
        seconds = round(spent + time.monotonic() - start, 1)
        if code == 0 and self.plan.record(stage).result:
            self.plan.finish(stage, seconds)
            return None
        self._preempted |= code == Preempted.exit_code and not self.processes.stopping
        if code == Preempted.exit_code or self.processes.stopping:
            self.plan.set(stage, status="interrupted", seconds=seconds)
            return None
        reason = _last_error(folder / LOG_FILE) or f"exit code {code}"
        if code == 0:
            reason = "it ended without a result.json"
        elif code < 0:
            reason = f"ended by {signal.Signals(-code).name}"
        self.plan.set(stage, status="failed", reason=reason, seconds=seconds)
        return reason

    def _prepare(self, stage: Stage) -> tuple[list[str], float] | None:
        """Return the command of a stage and the seconds spent; None if it is done."""
        # Things have changed since the plan: the pretraining may have finished only
        # now, and another process may have run this stage.
        task = self.plan.task(stage, pending=False)
        folder = self.work_dir / stage.name
        if task.todo == DONE:
            return None
        if task.todo == AGAIN:
            old = self.plan.move_aside(folder)
            _say(f"{stage.name} has other inputs now: {'; '.join(task.changes)}")
            _say(f"  what was there is in {old}")
        checkpoint, digest = self.plan.checkpoint(stage)
        resume = task.todo == RESUME and find_run(folder) is not None
        verb = "goes on" if resume else "starts"
        _say(f"{datetime.now():%H:%M:%S} {stage.name} {verb}")
        config = self.work_dir / "configs" / f"{stage.name}.py"
        stage.write(config, checkpoint)
        inputs = inputs_of(stage)
        lines = "".join(f"{key} = {value}\n" for key, value in sorted(inputs.items()))
        spent = self.plan.record(stage).state.get("seconds", 0.0) if resume else 0.0
        self.plan.set(
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


def _last_error(log: Path) -> str | None:
    """Return the line of a log that says what went wrong."""
    with log.open(encoding="utf-8", errors="replace") as stream:
        lines = [line.strip() for line in deque(stream, 200) if line.strip()]
    errors = [line for line in lines if _ERROR.match(line)]
    return next(reversed(errors or lines), None)


def _say(text: str) -> None:
    print(printable(text), flush=True)
