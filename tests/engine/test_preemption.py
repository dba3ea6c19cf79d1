"""Real signals and faults in real runs: saved between two steps, and nothing lost."""

import os
import re
import signal
import subprocess
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.config import Config
from mmengine.evaluator import BaseMetric
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.registry import METRICS
from torch.utils.data import Dataset

from mmssl_ext.engine.resilience import preemption
from mmssl_ext.engine.resilience.processes import is_alive
from mmssl_ext.registry import DATASETS, MODELS, TRANSFORMS
from tests.distributed import Worker, wait_for
from tests.harness import (
    REPO,
    SLOW,
    RunHarness,
    Watch,
    assert_same,
    config,
    knn,
    make_runner,
)
from tests.warm import Command

VALIDATED = ["[validated 4: 16]", "[validated 8: 16]"]
VALIDATION = re.compile(r"\[validated .*\]")
STEPS = 8  # two epochs of four, or one round of as many iterations
HOOKS = {"resume": "ExactResumeHook", "preemption": "PreemptionHook"}
TERM, USR1, INT = signal.SIGTERM, signal.SIGUSR1, signal.SIGINT
ORDER = torch.randperm(16, generator=torch.Generator().manual_seed(0)).tolist()


def _once(file: Path) -> bool:
    """Say by a file that something happens now, in this process; not a second time."""
    if file.exists():
        return False
    draft = file.with_suffix(".draft")
    draft.write_text(str(os.getpid()))
    draft.rename(file)
    return True


@DATASETS.register_module()
class Stalling(Dataset):
    """16 numbers. At one, once: say so by a file, then sleep, fail or die.

    Args:
        file: Named after what happened; it holds the process that it happened in.
        at: The number.
        how: ``sleep``, ``raise`` or ``kill``.
    """

    def __init__(self, file: str = "", at: int = -1, how: str = "sleep") -> None:
        self.file, self.at, self.how = Path(file), at, how

    def __len__(self) -> int:
        return 16

    def get_data_info(self, index: int) -> dict:
        return {"img_path": f"number_{index}.png"}

    def __getitem__(self, index: int) -> dict:
        if index == self.at and _once(self.file):
            if self.how == "raise":
                raise ValueError("no such colour")
            if self.how == "kill":
                time.sleep(1)  # so that the batches before it are in use
                os.kill(os.getpid(), signal.SIGKILL)
            time.sleep(1000)
        return {"inputs": torch.tensor([float(index)]), "data_samples": index}


@MODELS.register_module()
class Line(BaseModel):
    """A straight line; knows from the order of the numbers which ones it has seen."""

    def __init__(self) -> None:
        super().__init__()
        self.line = torch.nn.Linear(1, 1)

    def forward(self, inputs: Any, data_samples: Any, mode: str) -> Any:
        if mode == "predict":
            return list(data_samples)
        return {"loss": (self.line(torch.stack(inputs)) / 16).square().mean()}


@METRICS.register_module()
class Number(BaseMetric):
    def process(self, data_batch: Any, data_samples: Any) -> None:
        self.results += [1] * len(data_samples)

    def compute_metrics(self, results: list) -> dict:
        return {"seen": len(results)}


@TRANSFORMS.register_module()
class Stall:
    """As :class:`Stalling`, for datasets of images: at the sixth."""

    def __init__(self, file: str) -> None:
        self.file = Path(file)

    def __call__(self, results: dict) -> dict:
        if results["sample_idx"] == 5 and _once(self.file):
            time.sleep(1000)
        return results


class Signal(Hook):
    """Send signals in the middle of a step, to this process or to its whole group."""

    priority = "LOWEST"

    def __init__(self, at: int, *numbers: int, pause: float = 0.0, group: bool = False):
        self.at, self.numbers, self.pause, self.group = at, numbers, pause, group

    def before_run(self, runner):
        if self.group:
            os.setsid()

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if runner.iter == self.at:
            for number in self.numbers:
                if self.group:  # by somebody else, as a scheduler would
                    subprocess.run(["kill", f"-{int(number)}", "--", f"-{os.getpid()}"])
                else:
                    os.kill(os.getpid(), number)
                time.sleep(self.pause)


class Report(Hook):
    """A line for each step and each validation that was completed."""

    priority = "LOWEST"

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        print(f"[step {runner.iter + 1}]", flush=True)

    def after_val_epoch(self, runner, metrics=None):
        print(f"[validated {runner.iter}: {metrics['seen']}]", flush=True)


def numbers(num_workers: int, infinite: bool = False, **options: Any) -> dict:
    sampler = "InfiniteSampler" if infinite else "DefaultSampler"
    return {
        "batch_size": 4,
        "num_workers": num_workers,
        "sampler": {"type": sampler, "shuffle": True},
        "dataset": {"type": "mmssl_ext.Stalling"},
        **options,
    }


def toy(
    work_dir: Path, num_workers: int = 0, by_epoch: bool = True, **loader
) -> Config:
    """A run of eight steps, as transfer runs are: not in the scope of this package."""
    by_iter = {"type": "IterBasedTrainLoop", "max_iters": STEPS, "val_interval": 4}
    hooks = {name: {"type": f"mmssl_ext.{hook}"} for name, hook in HOOKS.items()}
    return Config(
        {
            "default_scope": "mmengine",
            "model": {"type": "mmssl_ext.Line"},
            "train_dataloader": numbers(num_workers, not by_epoch, **loader),
            "train_cfg": {"by_epoch": True, "max_epochs": 2} if by_epoch else by_iter,
            "optim_wrapper": {"optimizer": {"type": "SGD", "lr": 0.1, "momentum": 0.9}},
            "param_scheduler": [{"type": "LinearLR", "by_epoch": by_epoch, "end": 2}],
            "default_hooks": {
                "checkpoint": {
                    "type": "mmssl_ext.PlainCheckpointHook",
                    "interval": 1 if by_epoch else 4,
                    "by_epoch": by_epoch,
                },
                **hooks,
            },
            "randomness": {"seed": 0},
            "env_cfg": {"mp_cfg": {"mp_start_method": "fork"}},
            "work_dir": str(work_dir),
        }
    )


def with_validation(cfg: Config) -> Config:
    cfg.val_dataloader = numbers(0)
    cfg.val_cfg, cfg.val_evaluator = {}, {"type": "Number"}
    return cfg


def harness(cfg: Config) -> RunHarness:
    return RunHarness.of(cfg, Report())


def start(cfg: Config, *hooks: Hook, only: int = 0, **how: Any):
    return harness(cfg).start(*hooks, only=only, **how)


def run(cfg: Config, *hooks: Hook, **how: Any) -> str:
    return harness(cfg).run(*hooks, only=0, **how)


def saved(cfg: Config) -> dict:
    return harness(cfg).saved()


def stall(cfg: Config, at: int, how: str = "sleep", where="train_dataloader") -> Path:
    file = Path(cfg.work_dir).with_suffix(".stalled")
    cfg[where].dataset.update(file=str(file), at=at, how=how)
    return file


def until(file: Path, found: list[Worker]) -> int:
    """Wait for a stall; return the process that it is in."""
    end = time.monotonic() + 60
    while not file.exists():
        assert time.monotonic() < end and found[0].code is None, found[0].text
        time.sleep(0.02)
    return int(file.read_text())


def tell(cfg: Config, file: Path, *hooks: Hook, pause: float = 0.0, **how: Any) -> str:
    """Send SIGTERM to a run that stalls: it saves and ends. Returns what it said.

    A run with a hook that makes it a group of its own is sent Ctrl-C with its workers.
    """
    with start(cfg, *hooks, **how) as found:
        stalled, pid = until(file, found), found[0].process.pid
        time.sleep(pause)
        os.killpg(pid, INT) if hooks else os.kill(pid, TERM)
        assert wait_for(found, 40) < 20  # and not the 1000 s that it would sleep
        assert found[0].code == 75, found[0].text
    assert not is_alive(stalled)
    return found[0].text


def steps(text: str) -> list[int]:
    return [int(number) for number in re.findall(r"\[step (\d+)\]", text)]


def assert_same_end(one: Config, other: Config) -> None:
    """Weights, momenta, schedules and generators equal to the last bit.

    mmengine's loop over iterations draws random numbers for each validation.
    """
    ends = harness(one).end(STEPS), harness(other).end(STEPS)
    for part in ("state_dict", "optimizer", "param_schedulers"):
        assert_same(*(end[part] for end in ends))
    if "by_epoch" in one.train_cfg:
        assert_same(*(end["state"]["random"][0] for end in ends))


def assert_goes_on(cfg: Config, text: str, whole: Config) -> str:
    """Resumed, the run does the steps that are left and ends as the whole run."""
    more = run(cfg, resume=True)
    assert steps(text) + steps(more) == list(range(1, STEPS + 1))
    assert_same_end(cfg, whole)
    return more


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Runs that nobody stopped, by what they loop over."""
    found = {}
    for by_epoch in (True, False):
        work_dir = tmp_path_factory.mktemp("whole") / "run"
        found[by_epoch] = with_validation(toy(work_dir, by_epoch=by_epoch))
        text = run(found[by_epoch])
        assert steps(text) == list(range(1, STEPS + 1))
        assert VALIDATION.findall(text) == VALIDATED
    return found


def pretraining(images: Path, work_dir: Path) -> Config:
    """A run with a kNN evaluation at its start and after both epochs."""
    hooks = {name: {"type": hook} for name, hook in HOOKS.items()}
    return config(images, work_dir, 2, knn=knn(images), **hooks)


@pytest.fixture(scope="module")
def whole_pretraining(tmp_path_factory, images):
    cfg = pretraining(images, tmp_path_factory.mktemp("whole") / "pretraining")
    run(cfg)
    return cfg


@pytest.mark.fault("R8")
@pytest.mark.parametrize("by_epoch", [True, False])
def test_a_signal_in_a_step_lets_it_finish(tmp_path, whole, by_epoch):
    cfg = toy(tmp_path / "run", by_epoch=by_epoch)
    text = run(cfg, Signal(5, USR1), code=75)
    assert steps(text)[-1] == 6
    sentence = re.search(r"The run was stopped by .*", text)[0]
    assert "SIGUSR1" in sentence
    saved_in = f"Everything is saved in {tmp_path / 'run' / 'iter_6.pth'};"
    assert f"after iteration 6. {saved_in}" in sentence
    assert "--resume" in sentence and text.count("The run was stopped") == 1
    assert "Traceback" not in text
    meta = saved(cfg)["meta"]
    assert (meta["epoch"], meta["iter"]) == (1 if by_epoch else 0, 6)
    more = assert_goes_on(cfg, text, whole[by_epoch])
    assert "Fast sampler-level resume is unavailable" not in more


@pytest.mark.fault("R8")
@pytest.mark.parametrize(("num_workers", "ctrl_c"), [(0, False), (2, False), (2, True)])
def test_a_signal_ends_the_wait_for_data(tmp_path, whole, num_workers, ctrl_c):
    cfg = toy(tmp_path / "run", num_workers)
    file = stall(cfg, at=ORDER[9])  # in the third batch
    pause = 0.5 if num_workers else 0.0  # the first two are still to be used
    hooks = [Signal(STEPS + 1, group=True)] if ctrl_c else []
    text = tell(cfg, file, *hooks, pause=pause)
    assert "Traceback" not in text
    assert saved(cfg)["meta"]["iter"] == steps(text)[-1] == 2
    assert_goes_on(cfg, text, whole[True])


@pytest.mark.fault("R8")
def test_the_whole_group_is_told_within_accumulated_gradients(tmp_path):
    cfg = toy(tmp_path / "run", 2, prefetch_factor=1)
    cfg.optim_wrapper.accumulative_counts = 3
    text = run(cfg, Signal(0, TERM, group=True), code=75)
    assert steps(text) == [1, 2, 3]
    assert saved(cfg)["meta"]["iter"] == 3
    again = toy(tmp_path / "whole")
    again.optim_wrapper.accumulative_counts = 3
    run(again)
    assert_goes_on(cfg, text, again)


@pytest.mark.fault("R8")
@pytest.mark.parametrize("by_epoch", [True, False])
def test_a_validation_that_was_stopped_runs_again(tmp_path, whole, by_epoch):
    cfg = with_validation(toy(tmp_path / "run", by_epoch=by_epoch))
    text = run(cfg, Signal(4, USR1), code=75)  # after the first validation
    text += tell(cfg, stall(cfg, 9, where="val_dataloader"), resume=True)
    assert "by SIGTERM during the validation" in text
    assert steps(text)[-1] == STEPS
    more = run(cfg, resume=True)
    assert steps(text + more) == list(range(1, STEPS + 1))
    assert VALIDATION.findall(text + more) == VALIDATED
    assert_same_end(cfg, whole[by_epoch])


@pytest.mark.fault("R8")
@pytest.mark.parametrize("at", [SLOW(0), 8])
def test_a_knn_evaluation_that_was_stopped_runs_again(
    tmp_path, images, whole_pretraining, at
):
    """Before the first step, and at the end of the run."""
    cfg = pretraining(images, tmp_path / "run")
    text = run(cfg, Signal(at - 2, USR1), code=75) if at else ""
    file = tmp_path / "stalled"
    query = cfg.default_hooks.knn.query_dataloader
    query.num_workers = 1
    query.dataset.pipeline.insert(0, {"type": "Stall", "file": str(file)})
    text += tell(cfg, file, resume=bool(at))
    assert "by SIGTERM during the kNN" in text
    if at:
        assert saved(cfg)["meta"]["iter"] == at
    else:
        assert "there is nothing to save; start it again" in text
        assert not list((tmp_path / "run").glob("*.pth"))
    more = run(cfg, resume=bool(at))
    assert steps(text + more) == list(range(1, STEPS + 1))
    whole = whole_pretraining
    assert_same_end(cfg, whole)
    histories = [
        saved(x)["message_hub"]["runtime_info"]["knn_history"] for x in (cfg, whole)
    ]
    assert histories[0] == histories[1] and len(histories[0]) == 3


@pytest.mark.fault("R8")
@pytest.mark.parametrize(
    ("signals", "pause", "code"),
    [([TERM, TERM], 0.3, 75), ([TERM, USR1], 2.3, -USR1), ([INT, INT], 2.3, 130)],
)
def test_a_second_signal_ends_at_once_but_for_the_same_notice(
    tmp_path, signals, pause, code
):
    text = run(toy(tmp_path / "run"), Signal(2, *signals, pause=pause), code=code)
    assert steps(text) == ([1, 2, 3] if code == 75 else [1, 2])
    assert len(list((tmp_path / "run").glob("*.pth"))) == (code == 75)
    assert "Traceback" not in text


@pytest.mark.fault("R8")
def test_after_the_last_step_the_run_just_finishes(tmp_path):
    cfg = toy(tmp_path / "run")
    text = run(cfg, Signal(STEPS - 1, TERM), code=0)
    assert len(steps(text)) == STEPS == saved(cfg)["meta"]["iter"]
    assert "The run was stopped" not in text


@pytest.mark.fault("R8")
def test_stopped_again_before_a_step_was_done(tmp_path, whole):
    cfg = toy(tmp_path / "run")
    text = run(cfg, Signal(2, TERM), code=75)
    written = (tmp_path / "run" / "iter_3.pth").stat().st_mtime_ns
    again = tell(cfg, stall(cfg, at=ORDER[12]), resume=True)
    assert not steps(again) and "No step was done since it went on from" in again
    assert (tmp_path / "run" / "iter_3.pth").stat().st_mtime_ns == written
    assert_goes_on(cfg, text, whole[True])


@pytest.mark.fault("R8")
@pytest.mark.parametrize(("where", "at"), [SLOW("train", 1), ("val", 2)])
def test_one_rank_that_is_told_stops_all(tmp_path, where, at):
    cfg = with_validation(toy(tmp_path / "run"))
    cfg.train_cfg.max_epochs = 4  # of two steps each
    # Rank 1 has the second half of each pair: only it stalls.
    file = stall(cfg, ORDER[9], where=f"{where}_dataloader")
    with start(cfg, ranks=2) as found:
        assert until(file, found) == found[1].process.pid
        os.kill(found[1].process.pid, USR1)
        wait_for(found, 80)
        for worker in found:
            assert worker.code == 75, worker.text
            assert steps(worker.text) == list(range(1, at + 1))
    assert "by a signal that another rank was sent" in found[0].text
    assert saved(cfg)["meta"]["iter"] == at
    run(cfg, ranks=2, resume=True)
    assert saved(cfg)["meta"]["iter"] == STEPS


@pytest.mark.alone
@pytest.mark.fault("R23")
@pytest.mark.parametrize("how", ["kill", SLOW("sleep"), SLOW("raise")])
def test_a_failing_worker_is_named_and_the_state_saved(tmp_path, whole, how):
    cfg = toy(tmp_path / "run", 2, timeout=3)
    file = stall(cfg, ORDER[9], how)
    with start(cfg) as found:
        culprit = until(file, found)
        assert wait_for(found, 60) < 30
        text = found[0].text
        assert found[0].code == 4, text
    # Batches go to the workers in turn: the third to the first of them.
    said = {
        "kill": "was killed by SIGKILL while it was to read",
        "sleep": "has not answered for 3 s and was to read",
        "raise": "failed to read",
    }[how]
    names = [f"number_{i}.png" for i in ORDER[8:12]]
    listed = ", ".join(names)
    sentence = (
        f"Worker 0 (process {culprit}) of the data loader {said} batch 3 ({listed})."
    )
    assert sentence in text
    assert ("ValueError: no such colour" in text) == (how == "raise")
    assert f"Everything is saved in {tmp_path / 'run' / 'iter_2.pth'}" in text
    assert (tmp_path / "run" / "failed_batch.txt").read_text().split() == names
    assert not is_alive(culprit)
    assert steps(text) == [1, 2] and saved(cfg)["meta"]["iter"] == 2
    assert_goes_on(cfg, text, whole[True])  # the file says that it has happened


@pytest.mark.fault("R23")
def test_a_failing_worker_of_another_rank_is_named_by_rank_0(tmp_path):
    cfg = toy(tmp_path / "run", 1)
    file = stall(cfg, ORDER[9], "kill")
    with start(cfg, ranks=2) as found:
        wait_for(found, 80)
        for worker in found:
            assert worker.code == 4, worker.text
    assert f"Rank 1: Worker 0 (process {file.read_text()})" in found[0].text
    assert saved(cfg)["meta"]["iter"] == 1


@pytest.mark.fault("R23")
def test_a_failing_worker_in_the_validation(tmp_path):
    cfg = with_validation(toy(tmp_path / "run"))
    cfg.val_dataloader.num_workers = 1
    stall(cfg, 9, "kill", where="val_dataloader")
    text = run(cfg, code=4)
    assert "was killed by SIGKILL" in text and "during the validation" in text
    assert VALIDATION.findall(run(cfg, resume=True)) == VALIDATED


def test_handlers_are_given_back(tmp_path):
    def mine(*_):
        pass

    def fail(runner):
        assert signal.getsignal(TERM) != mine
        raise ZeroDivisionError

    before = {number: signal.signal(number, mine) for number in (TERM, USR1)}
    try:
        for name, hooks in (("a", []), ("b", [Watch(after_train_iter=fail)])):
            with pytest.raises(ZeroDivisionError) if hooks else nullcontext():
                make_runner(toy(tmp_path / name), *hooks).train()
            assert [signal.getsignal(n) for n in before] == [mine, mine]
        assert preemption.current() is None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def test_mmengines_own_checkpoints_serve_too(tmp_path):
    cfg = toy(tmp_path / "run")
    cfg.default_hooks.checkpoint.type = "CheckpointHook"
    cfg.default_hooks.pop("resume")
    text = run(cfg, Signal(2, TERM), code=75)
    path = tmp_path / "run" / "iter_3.pth"
    assert (tmp_path / "run" / "last_checkpoint").read_text() == str(path)
    meta = torch.load(path, weights_only=False)["meta"]
    assert (meta["epoch"], meta["iter"]) == (0, 3)
    assert steps(text) == [1, 2, 3]


@pytest.mark.fault("R8")
def test_the_command_line(tmp_path, images):
    hooks = {name: {"type": hook} for name, hook in HOOKS.items()}
    cfg = config(images, tmp_path / "run", 50, **hooks)
    cfg.default_hooks.logger.interval = 1
    cfg.dump(str(tmp_path / "config.py"))
    tool = REPO / "tools" / "train.py"
    seen: list[int] = []
    for number, more in ((TERM, []), (USR1, ["--resume"])):
        with Command(tool, "config.py", *more, cwd=tmp_path) as process:
            lines = (x for x in process.lines() if "Epoch(train)" in x)
            for _ in range(6):
                next(lines)
            process.send_signal(number)
            assert process.wait(60) == 75, process.text
            text = process.text
        assert f"stopped by {signal.Signals(number).name}" in text
        assert "Traceback" not in text and "Error" not in text
        seen.append(int(re.search(r"after iteration (\d+)\.", text)[1]))
    assert 6 <= seen[0] <= 12 and seen[0] + 6 <= seen[1]
    assert saved(cfg)["meta"]["iter"] == seen[1]
