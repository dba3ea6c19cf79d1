"""What a chain has done and what is to be done, by the files in its work dir."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmssl_ext.engine.checkpoint.run_folder import find_run
from mmssl_ext.errors import UserError
from mmssl_ext.files import sha256

from .results import CHAIN_FILE, STAGE_FILE, Record, read_json, read_record, write_json
from .spec import PRETRAIN, Chain, Stage, check_stages

# What a stage is about to do, by its state on disk.
NEW, RESUME, AGAIN, DONE = "to run", "to go on", "to run again", "finished"


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


class Plan:
    """The stages of a chain beside what stands in its work dir.

    Args:
        chain: The chain.
        work_dir: Its folder; one subfolder per stage.
    """

    def __init__(self, chain: Chain, work_dir: Path) -> None:
        self.chain, self.work_dir = chain, work_dir
        self._hashes: dict[tuple, str] = {}

    def tasks(self, stages: list[Stage]) -> list[Task]:
        """Compare stages with what stands in the work dir."""
        found: list[Task] = []
        for stage in stages:
            pending = any(
                task.stage.name == stage.needs and task.todo != DONE for task in found
            )
            found.append(self.task(stage, pending))
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
                self.checkpoint(stage)
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

    def task(self, stage: Stage, pending: bool) -> Task:
        """What is to be done about a stage; ``pending``: its pretraining still runs."""
        record = self.record(stage)
        if not record.state.get("inputs"):
            if (found := find_run(record.folder)) is None:
                return Task(stage, NEW, [])
            change = f"its folder holds {found}, which no chain has started"
            return Task(stage, AGAIN, [change], loss=True)
        finished = record.status == "finished"
        if finished and "output" not in record.state:
            self.finish(stage, record.result["seconds"])  # the chain was killed
        changes = _differences(record.state.get("inputs") or {}, inputs_of(stage))
        digest = record.state.get("checkpoint_sha256")
        if pending and (finished or digest):
            changes.append("the pretraining that it starts from is not finished")
        elif not pending and stage.checkpoint is not None:
            now = self.checkpoint(stage)[1]
            if digest is not None and now != digest:
                changes.append(f"checkpoint: SHA-256 {digest[:8]} -> {now[:8]}")
        if changes:
            kept = finished or find_run(record.folder) is not None
            return Task(stage, AGAIN, changes, loss=kept)
        return Task(stage, DONE if finished else RESUME, [])

    def checkpoint(self, stage: Stage) -> tuple[str | None, str]:
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

    def finish(self, stage: Stage, seconds: float) -> None:
        """Write that a stage has finished, and which checkpoint it left."""
        output = self.record(stage).result.get("checkpoint")
        digest = sha256(output) if output and Path(output).is_file() else None
        self.set(
            stage,
            status="finished",
            seconds=seconds,
            output=output,
            output_sha256=digest,
        )

    def set(self, stage: Stage, **values: Any) -> None:
        """Change the record of a stage."""
        path = self.work_dir / stage.name / STAGE_FILE
        write_json(path, {**read_json(path), **values})

    def save(self) -> None:
        """Write ``chain.json``, by which the results are read."""
        stages = [_entry(stage) for stage in self.chain.stages]
        said = {"chain": str(self.chain.file), "note": self.chain.note}
        write_json(self.work_dir / CHAIN_FILE, {**said, "stages": stages})

    def move_aside(self, folder: Path) -> Path:
        """Move the folder of a stage below ``old``, and return where it is."""
        old = self.work_dir / "old"
        old.mkdir(exist_ok=True)
        number = 1
        while (target := old / f"{folder.name}.{number}").exists():
            number += 1
        return folder.rename(target)

    def time_left(self, tasks: list[Task]) -> float | None:
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


def inputs_of(stage: Stage) -> dict[str, str]:
    """Every setting of a stage's config, by its dotted name."""
    settings = stage.load().to_dict()
    settings.pop("work_dir", None)
    return dict(_flat(settings))


def _flat(node: Any, name: str = "") -> list[tuple[str, str]]:
    """Leaves of nested settings as (dotted name, repr)."""
    if isinstance(node, dict) and node:
        parts = node.items()
    elif isinstance(node, list | tuple) and any(isinstance(x, dict) for x in node):
        parts = {str(i): item for i, item in enumerate(node)}.items()
    else:
        return [(name, repr(node))]
    return [
        leaf
        for key, item in parts
        for leaf in _flat(item, f"{name}.{key}" if name else str(key))
    ]


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
