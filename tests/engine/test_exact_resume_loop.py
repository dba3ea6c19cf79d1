"""The loop over epochs: left and entered again between any two steps."""

from __future__ import annotations

import itertools
import random
import tempfile
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.runner import BaseLoop
from torch.utils.data import BatchSampler, DataLoader, IterableDataset, Sampler

from mmssl_ext.engine.checkpoint.loops import batches_from
from mmssl_ext.engine.checkpoint.read import load_checkpoint_file
from mmssl_ext.engine.hooks import PlainCheckpointHook
from mmssl_ext.engine.resilience.prefetch import PrefetchLoader, prefetch
from mmssl_ext.registry import LOOPS
from mmssl_ext.run.runner import SSLRunner
from tests.harness import BATCH, RunHarness, Stopped, ToyData, ToyModel, Watch

LENGTH, EPOCHS = 6, 3
_names = itertools.count()


class Draws(Hook):
    """Steps that depend on every generator, on the images and on nothing else."""

    priority = "HIGH"

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        noise = torch.rand(()) + np.random.rand() + random.random()
        runner.model.linear.bias.data += noise * data_batch["inputs"].sum()


class Journal(Hook):
    """What happens in which order."""

    def __init__(self, stop=None):
        self.lines = []
        self.stop = stop

    def note(self, place, runner, *details):
        line = (place, runner.epoch, runner.iter, *details)
        self.lines.append(line)
        if line[:3] == self.stop:
            raise Stopped

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        images = tuple(data_batch["data_samples"].tolist())
        self.note("step", runner, batch_idx, images)

    def after_train_epoch(self, runner):
        self.note("end", runner)

    def before_val(self, runner):
        self.note("validate", runner)

    def after_val(self, runner):
        self.note("validated", runner, float(torch.rand(())))


@LOOPS.register_module(force=True)
class DrawingValLoop(BaseLoop):
    """A validation that draws from the generators and can be stopped in the middle."""

    def __init__(self, runner, dataloader, evaluator):
        super().__init__(runner, dataloader)

    def run(self):
        self.runner.call_hook("before_val")
        self.runner.model.eval()
        torch.rand(3), np.random.rand(), random.random()
        for hook in self.runner.hooks:
            if isinstance(hook, Journal):
                hook.note("in validation", self.runner)
        self.runner.call_hook("after_val")


LOOP = {"by_epoch": True, "max_epochs": EPOCHS, "val_interval": 2}
VALIDATION = {
    "val_cfg": {"type": "mmssl_ext.DrawingValLoop"},
    "val_dataloader": DataLoader(ToyData()),
    "val_evaluator": [],
}


def toy(work_dir: Path, *hooks, loop=LOOP, resume=None, every=1, **options):
    """A runner of 6 iterations per epoch that saves after every one."""
    by_epoch = loop["by_epoch"]
    kind = "DefaultSampler" if by_epoch else "InfiniteSampler"
    loader = {
        "dataset": ToyData(),
        "batch_size": BATCH,
        "num_workers": 0,
        "sampler": {"type": kind, "shuffle": True},
        "collate_fn": {"type": "default_collate"},
        **options.pop("loader", {}),
    }
    checkpoint = {"type": "mmssl_ext.PlainCheckpointHook", "by_epoch": False}
    torch.manual_seed(3)  # the runner's seed comes too late for the model
    wrapper = {"optimizer": {"type": "SGD", "lr": 1e-4, "momentum": 0.9}}
    arguments = {
        "model": ToyModel(),
        "work_dir": str(work_dir),
        "train_dataloader": loader,
        "train_cfg": loop,
        "optim_wrapper": wrapper | options.pop("optim_wrapper", {}),
        "param_scheduler": [],
        "default_hooks": {
            "checkpoint": {**checkpoint, "interval": every},
            "resume": {"type": "mmssl_ext.ExactResumeHook"},
        },
        "randomness": {"seed": 3},
        "experiment_name": f"loop_{next(_names)}",
        "default_scope": "mmengine",
        "log_processor": {"by_epoch": by_epoch},
        "cfg": Config({"work_dir": str(work_dir)}),
        "load_from": None if resume is None else str(resume),
        "resume": resume is not None,
        **(VALIDATION if by_epoch else {}),
        **options,
    }
    runner = SSLRunner(**arguments)
    for hook in hooks:
        runner.register_hook(hook)
    return runner


def trained(work_dir, *hooks, stops=False, resume=None, **options):
    """Run it; the journal, the final parameters and the runner."""
    journal = next((x for x in hooks if isinstance(x, Journal)), None)
    hooks = hooks if journal else (*hooks, journal := Journal())
    run = RunHarness(work_dir, partial(toy, work_dir, **options), Draws())
    runner = run.train(*hooks, stops=stops, resume=resume)
    parameters = [p.detach().clone() for p in runner.model.parameters()]
    return journal.lines, parameters, runner


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    work_dir = tmp_path_factory.mktemp("whole")
    lines, parameters, _ = trained(work_dir)
    return work_dir, lines, parameters


def assert_goes_on(whole, file, first, *hooks, **options):
    """Resumed from ``file``, all from the line ``first`` of the journal on is alike."""
    _, lines, parameters = whole
    work_dir = Path(tempfile.mkdtemp(dir=file.parent, prefix="rest"))
    rest, found, runner = trained(work_dir, *hooks, resume=file, **options)
    assert rest == lines[lines.index(first) :]
    for a, b in zip(parameters, found, strict=True):
        assert torch.equal(a, b)
    return runner


def steps(lines):
    return [line for line in lines if line[0] == "step"]


def first(lines, place):
    return next(line for line in lines if line[0] == place)


def save_now(runner):
    hook = next(x for x in runner.hooks if isinstance(x, PlainCheckpointHook))
    return Path(hook.save_now(runner))


def test_the_journal_is_as_mmengine_has_it(whole):
    lines = whole[1]
    assert [line[:4] for line in steps(lines)] == [
        ("step", i // LENGTH, i, i % LENGTH) for i in range(EPOCHS * LENGTH)
    ]
    epochs = [steps(lines)[LENGTH * e : LENGTH * (e + 1)] for e in range(EPOCHS)]
    orders = [[i for line in epoch for i in line[4]] for epoch in epochs]
    assert all(sorted(order) == list(range(24)) for order in orders)
    assert len({tuple(order) for order in orders}) == EPOCHS
    assert [line[:3] for line in lines if line[0] != "step"] == [
        ("end", 0, 6),
        ("end", 1, 12),
        *(("validate", 2, 12), ("in validation", 2, 12), ("validated", 2, 12)),
        ("end", 2, 18),
        *(("validate", 3, 18), ("in validation", 3, 18), ("validated", 3, 18)),
    ]


@pytest.mark.fault("R5")
@pytest.mark.parametrize(
    "iteration",
    [
        i if i in (4, 6, 12, 17, 18) else pytest.param(i, marks=pytest.mark.slow)
        for i in range(1, EPOCHS * LENGTH + 1)
    ],
)
def test_every_iteration_can_be_resumed_from(whole, iteration):
    """Also the last one of an epoch, whose end then comes first."""
    work_dir, lines, _ = whole
    at = lines.index(steps(lines)[iteration - 1])
    assert_goes_on(whole, work_dir / f"iter_{iteration}.pth", lines[at + 1])


@pytest.mark.fault("R6")
def test_workers_and_batches_ahead_change_nothing(whole):
    def ahead(runner):
        prefetch(runner.train_loop, lambda batch: lambda: batch)

    work_dir, lines, _ = whole
    loader = {"num_workers": 2, "persistent_workers": True}
    at = work_dir / "iter_4.pth", steps(lines)[4]
    runner = assert_goes_on(whole, *at, Watch(before_run=ahead), loader=loader)
    assert isinstance(runner.train_dataloader, PrefetchLoader)
    runner.train_dataloader.loader._iterator = None  # ends its workers


def test_seeds_of_workers_follow_from_the_epoch(tmp_path):
    class Seeds(ToyData):
        def __getitem__(self, index):
            seed = torch.utils.data.get_worker_info().seed
            return super().__getitem__(index) | {"data_samples": seed}

    loader = {"dataset": Seeds(), "num_workers": 1}
    lines, *_ = trained(tmp_path, loader=loader)
    seeds = [line[4] for line in steps(lines)]
    assert [len({*seeds[6 * e : 6 * e + 6]}) for e in range(EPOCHS)] == [1, 1, 1]
    assert len({*seeds}) == EPOCHS
    rest, *_ = trained(tmp_path, resume=tmp_path / "iter_8.pth", loader=loader)
    assert steps(rest) == steps(lines)[8:]


def test_training_does_not_depend_on_validation(whole, tmp_path):
    loop = {"by_epoch": True, "max_epochs": EPOCHS, "val_interval": 1}
    _, parameters, _ = trained(tmp_path, loop=loop)
    for a, b in zip(parameters, whole[2], strict=True):
        assert torch.equal(a, b)


def test_a_seed_that_was_drawn_is_kept(whole, tmp_path):
    lines, parameters, _ = trained(tmp_path, randomness={"seed": None})
    resumed = assert_goes_on(
        *((tmp_path, lines, parameters), tmp_path / "iter_8.pth", steps(lines)[8]),
        randomness={"seed": None},
    )
    assert lines != whole[1] or resumed.seed != 3


def test_validation_that_was_due_is_made_up_for(whole, tmp_path):
    _, lines, parameters = whole
    stop = Journal(stop=("in validation", 2, 12))
    _, _, runner = trained(tmp_path, stop, stops=True)
    due = first(lines, "validate")
    assert_goes_on((None, lines, parameters), save_now(runner), due)


def test_a_batch_that_was_fetched_in_vain_is_fetched_alike(tmp_path):
    """The run is told to stop behind a fetch that has drawn from the generators."""

    class Drawing(ToyData):
        def __getitem__(self, index):
            noise = torch.rand(1) + np.random.rand() + random.random()
            return {"inputs": index + noise, "data_samples": index}

    class Stopping:
        def __init__(self, loader, after):
            self.loader, self.left = loader, after

        def __getattr__(self, name):
            return getattr(self.loader, name)

        def __len__(self):
            return len(self.loader)

        def __iter__(self):
            return map(self._pass, iter(self.loader))

        def _pass(self, batch):
            self.left -= 1
            if self.left < 0:
                raise Stopped
            return batch

    def stop(runner):
        loop = runner.train_loop
        loop.dataloader = Stopping(loop.dataloader, 8)

    loader = {"dataset": Drawing()}
    lines, parameters, _ = trained(tmp_path / "whole", loader=loader)
    watch = Watch(before_run=stop)
    _, _, runner = trained(tmp_path / "part", watch, stops=True, loader=loader)
    at = save_now(runner), steps(lines)[8]
    assert_goes_on((None, lines, parameters), *at, loader=loader)


def test_checkpoints_of_an_epoch_know_what_follows(tmp_path):
    """Written before the validation of their epoch, by a hook that ends it."""
    hooks = {
        "checkpoint": {"type": "mmssl_ext.PlainCheckpointHook", "interval": 1},
        "resume": {"type": "mmssl_ext.ExactResumeHook"},
    }
    lines, parameters, _ = trained(tmp_path, default_hooks=hooks)
    validations = [line for line in lines if line[0] == "validate"]
    for epoch, follows in enumerate([steps(lines)[LENGTH], *validations], 1):
        file = tmp_path / f"epoch_{epoch}.pth"
        assert_goes_on((tmp_path, lines, parameters), file, follows)


def test_best_checkpoints_hold_the_generators_of_training(tmp_path):
    """mmengine saves them in the validation, which draws numbers of its own."""

    def save(runner):
        if runner.iter == 12:
            meta = {"epoch": runner.epoch, "iter": runner.iter}
            runner.save_checkpoint(str(tmp_path), "best.pth", meta=meta)

    lines, parameters, _ = trained(tmp_path, Watch("NORMAL", after_val=save))
    at = tmp_path / "best.pth", first(lines, "validate")
    assert_goes_on((None, lines, parameters), *at)


def test_loops_without_epochs_go_on_too(tmp_path):
    loop = {"by_epoch": False, "max_iters": 14}
    lines, parameters, _ = trained(tmp_path, loop=loop)
    for iteration in (6, 9):
        at = tmp_path / f"iter_{iteration}.pth", steps(lines)[iteration]
        assert_goes_on((tmp_path, lines, parameters), *at, loop=loop)


@pytest.mark.parametrize(("every", "waiting"), [(3, {3: 3, 9: 1, 15: 3}), (4, {8: 0})])
def test_gradients_that_wait_for_a_step_are_saved(tmp_path, every, waiting):
    """A step every 4 iterations; so many have been made since the last one."""
    options = {"optim_wrapper": {"accumulative_counts": 4}}
    lines, parameters, runner = trained(tmp_path, every=every, **options)
    assert "is not divisible" not in text(runner)
    for iteration, count in waiting.items():
        at = tmp_path / f"iter_{iteration}.pth", steps(lines)[iteration]
        state = load_checkpoint_file(at[0])["training_state"]
        names = ["linear.weight", "linear.bias"] if count else []
        assert list(state["gradients"]) == names
        runner = assert_goes_on((tmp_path, lines, parameters), *at, **options)
        assert "is not divisible" not in text(runner)


def text(runner):
    return "".join(p.read_text() for p in Path(runner.log_dir).glob("*.log"))


class Counting(ToyData):
    """Counts in memory that workers share which images were loaded."""

    def __init__(self):
        self.loaded = torch.zeros(24, dtype=torch.int64).share_memory_()

    def __getitem__(self, index):
        self.loaded[index] += 1
        return super().__getitem__(index)


class InPairs(Sampler):
    """A batch sampler that is no BatchSampler and deals out unequal batches."""

    def __iter__(self):
        yield from ([0, 1], [2, 3, 4], [5], [6, 7], [8, 9, 10])

    def __len__(self):
        return 5


DEALERS = {
    "usual": lambda data: {"batch_size": 4},
    "no batches": lambda data: {"batch_size": None},
    "own": lambda data: {"batch_sampler": InPairs()},
    "torch": lambda data: {"batch_sampler": BatchSampler(range(24), 5, True)},
}


OFTEN = {*((x, 0) for x in DEALERS), ("usual", 2), ("own", -2), ("no batches", -2)}


@pytest.mark.fault("R5")
@pytest.mark.parametrize(
    ("dealer", "workers"),
    [
        pytest.param(*case, marks=[pytest.mark.slow] * (case not in OFTEN))
        for case in itertools.product(DEALERS, [0, 2, -2])  # negative: persistent
    ],
)
def test_skipped_batches_are_not_loaded(dealer, workers):
    data = Counting()
    options = {"num_workers": abs(workers), "persistent_workers": workers < 0}
    loader = DataLoader(data, **DEALERS[dealer](data), **options)
    before = loader.batch_sampler, loader.sampler

    def read(batches):
        found = (torch.as_tensor(batch["data_samples"]) for batch in batches)
        return [torch.atleast_1d(images).tolist() for images in found]

    expected = read(loader)
    assert len(expected) == len(loader)
    for skip in (3, len(loader) - 1):  # with persistent workers at work already
        data.loaded.zero_()
        found = read(batches_from(loader, skip))
        assert found == expected[skip:]
        assert data.loaded.nonzero()[:, 0].tolist() == sorted(itertools.chain(*found))
        assert read(loader) == expected  # the next epoch
        assert (loader.batch_sampler, loader.sampler) == before


def test_streams_are_read_up_to_the_place():
    class Stream(IterableDataset):
        def __iter__(self):
            return iter(range(10))

    found = batches_from(DataLoader(Stream(), batch_size=2), 3)
    assert [x.tolist() for x in found] == [[6, 7], [8, 9]]


def test_an_epoch_of_another_length_begins_anew(tmp_path):
    """Of a checkpoint that does not say where in its epoch it stands."""
    _, _, runner = trained(tmp_path)
    file = tmp_path / "iter_16.pth"
    content = torch.load(file, weights_only=True)
    del content["training_state"]
    torch.save(content, tmp_path / "old.pth")
    loader = {"batch_size": 8}
    lines, _, runner = trained(tmp_path, resume=tmp_path / "old.pth", loader=loader)
    assert [line[:4] for line in steps(lines)] == [
        ("step", 2, 16 + i, i) for i in range(3)
    ]
    assert "this epoch begins anew" in text(runner)
