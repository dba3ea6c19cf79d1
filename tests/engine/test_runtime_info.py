"""Deferred reading leaves the log, histories and checkpoints of mmengine's hook."""

import copy
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.hooks import RuntimeInfoHook
from mmengine.logging import HistoryBuffer

from mmssl_ext.engine.hooks import DeferredRuntimeInfoHook
from mmssl_ext.engine.monitor.runtime_info import History, ValuesOnDevice
from tests.harness import ToyModel, Watch, log_rows, toy_runner

TIMES = ("time", "data_time", "memory")


class Model(ToyModel):
    """Losses and figures of several kinds; one appears late, one is rewritten."""

    def __init__(self):
        super().__init__()
        self.steps = 0
        self.register_buffer("figure", torch.zeros(()), persistent=False)

    def train_step(self, data, optim_wrapper):
        log = super().train_step(data, optim_wrapper)
        self.steps += 1
        log["half"] = log["loss"].detach().bfloat16()
        log["hits"] = torch.tensor([self.steps % 3])
        log["number"] = 0.5 * self.steps
        log["rewritten"] = self.figure.add_(1)  # the same memory at every step
        if self.steps > 4:
            log["late"] = log["loss"] * 2
        return log


def run(tmp_path, name, hook, loop, interval=2, resume=None, **config):
    torch.manual_seed(3)
    model, by_epoch = Model(), loop["by_epoch"]
    checkpoint = {"type": "mmssl_ext.PlainCheckpointHook", "by_epoch": by_epoch}
    runner = toy_runner(
        tmp_path / name,
        name,
        resume=resume,
        model=model,
        train_cfg=loop,
        param_scheduler={"type": "LinearLR", "by_epoch": False, "end": 10},
        default_hooks={
            "runtime_info": hook,
            "logger": {"type": "LoggerHook", "interval": interval},
            "checkpoint": {**checkpoint, "interval": 1 if by_epoch else 5},
        },
        log_processor={"by_epoch": by_epoch, **config},
    )
    if resume is not None:
        model.steps, model.figure = 6, model.figure + 6
    runner.train()
    rows = [[x for x in row.items() if x[0] not in TIMES] for row in log_rows(runner)]
    return runner, rows  # keys in their order


LOOPS = {
    "epochs": {"by_epoch": True, "max_epochs": 2},
    "iterations": {"by_epoch": False, "max_iters": 11},
}


@pytest.mark.parametrize("interval", [1, 4, 50])
@pytest.mark.parametrize("loop", LOOPS)
def test_log_and_histories_are_those_of_mmengine(tmp_path, loop, interval, request):
    windows = [
        {"data_src": "late", "method_name": "max", "window_size": "global"},
        {"data_src": "loss", "log_name": "low", "method_name": "min", "window_size": 3},
    ]
    (theirs, rows), (ours, our_rows) = (
        run(
            *(tmp_path, f"{request.node.name}-{hook.__name__}", hook(), LOOPS[loop]),
            interval,
            custom_cfg=windows,
        )
        for hook in (RuntimeInfoHook, DeferredRuntimeInfoHook)
    )
    assert our_rows == rows
    whole = {"epochs": 2, "iterations": 1}[loop]  # a line at the end of an epoch
    assert len(rows) == {1: theirs.iter, 4: 2, 50: whole}[interval]
    histories = ours.message_hub.log_scalars
    assert list(histories) == list(theirs.message_hub.log_scalars)
    for key, expected in theirs.message_hub.log_scalars.items():
        if key.split("/")[1] in TIMES:
            assert len(histories[key].data[0]) == theirs.iter
            continue
        for found, wanted in zip(histories[key].data, expected.data, strict=True):
            assert found.dtype == wanted.dtype, key
            assert found.tolist() == wanted.tolist(), key
    files = [sorted(Path(r.work_dir).glob("*_[0-9]*.pth"))[0] for r in (theirs, ours)]
    old, new = (torch.load(f)["message_hub"]["log_scalars"] for f in files)
    assert list(old) == list(new)
    for key in ("train/loss", "train/half", "train/hits", "train/late", "train/lr"):
        assert torch.equal(old[key]["history"], new[key]["history"]), key


def test_resumed_run_goes_on_with_its_histories(tmp_path, request):
    name, loop = request.node.name, LOOPS["epochs"]
    whole = run(tmp_path, f"{name}-whole", RuntimeInfoHook(), loop)
    half = run(tmp_path, f"{name}-half", DeferredRuntimeInfoHook(), loop)[0]
    rest = run(
        *(tmp_path, f"{name}-rest", DeferredRuntimeInfoHook(), loop),
        resume=Path(half.work_dir, "epoch_1.pth"),
    )
    assert rest[1] == whole[1][3:]
    for key in ("loss", "late", "lr", "hits"):
        found, wanted = (
            r[0].message_hub.get_scalar(f"train/{key}").data[0] for r in (rest, whole)
        )
        assert found.tolist() == wanted.tolist()


def test_values_wait_until_somebody_looks(tmp_path, monkeypatch, request):
    reads, watched = [], False
    read, item = ValuesOnDevice.read, torch.Tensor.item

    def counted(self):
        if self._steps:
            reads.append(len(self._steps))
        read(self)

    def refused(self):  # the loader reads its seed, an integer
        assert not (watched and self.is_floating_point()), "waited for a loss"
        return item(self)

    def watch(runner):
        nonlocal watched
        watched = True  # from when every name has been seen

    monkeypatch.setattr(ValuesOnDevice, "read", counted)
    monkeypatch.setattr(torch.Tensor, "item", refused)
    runner = toy_runner(
        tmp_path, request.node.name, Watch("NORMAL", after_train_iter=watch)
    )
    (stock,) = (h for h in runner.hooks if type(h) is RuntimeInfoHook)
    runner._hooks.remove(stock)
    runner.register_hook(DeferredRuntimeInfoHook())
    runner.train()
    # Logged every second step; the first was read when the names appeared.
    assert reads == [1, 2, 2, 2, 2, 2]


def test_history_equals_mmengine(monkeypatch):
    rng = np.random.default_rng(0)
    theirs = HistoryBuffer([3], [1], max_length=150)
    ours = History(HistoryBuffer([3], [1]), max_length=150)
    on_device = ValuesOnDevice()
    for step in range(1000):
        value, count = float(rng.normal()), int(rng.integers(1, 5))
        if step < 40:
            value = int(100 * value)
        if step % 3 and step >= 40:
            value, count = float(np.float32(value)), 1
            on_device.add([(ours, torch.tensor(value))])
        else:
            ours.update(value, count)
        theirs.update(value, count)
        if rng.random() < 0.1:
            for a, b in zip(ours.data, theirs.data, strict=True):
                assert a.dtype == b.dtype and a.tolist() == b.tolist()
            for window in (1, 7, 150, 400, None):
                for name in ("mean", "min", "max"):
                    a, b = (x.statistics(name, window) for x in (ours, theirs))
                    assert a == b
            assert ours.current() == theirs.current()
    for other in (copy.deepcopy(ours), pickle.loads(pickle.dumps(ours))):
        assert type(other) is HistoryBuffer and other.max_length == 150
        assert other.data[0].tolist() == theirs.data[0].tolist()
        other.update(1.0)
    assert len(ours.data[0]) == 150
    with pytest.raises(TypeError, match="numbers"):
        ours.update("1")


def test_updates_are_collected_and_leave_data_taken_earlier():
    ours = History(HistoryBuffer([1.0], [1]), max_length=4)
    ours.update(2.0)
    taken, arrays = ours.data[0], []
    for step in range(5000):
        ours.update(float(step))
        assert ours.latest() == step
        if not arrays or arrays[-1] is not ours._logs:
            arrays.append(ours._logs)
    assert len(arrays) == 6  # a copy for a thousand of them
    assert all(len(logs) <= 4 for logs in arrays)
    assert taken.tolist() == [1, 2]
    assert ours.data[0].tolist() == [4996, 4997, 4998, 4999]


def test_long_windows_are_kept(tmp_path, request):
    runner = toy_runner(tmp_path, request.node.name, epochs=10_000)
    runner._train_loop = runner.build_train_loop(runner._train_loop)
    hook = DeferredRuntimeInfoHook()
    entry = {"data_src": "loss", "method_name": "mean"}
    for window, expected in (
        *((3, 10_000), (20_000, 20_000), ("global", 60_000), (None, 60_000)),
        ("epoch", 10_000),  # six steps
    ):
        given = {} if window is None else {"window_size": window}
        runner.log_processor.custom_cfg = [{**entry, **given}]
        hook.before_train(runner)
        runner.message_hub.update_scalar("train/loss", 1.0)
        hook._take_over(runner.message_hub)
        assert runner.message_hub.get_scalar("train/loss").max_length == expected
        del runner.message_hub.log_scalars["train/loss"]
