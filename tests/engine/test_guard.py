"""A NaN stops the run in time, names its cause and spares the last checkpoint."""

import json
from types import SimpleNamespace

import pytest
import torch
from mmengine.hooks import Hook

from mmssl_ext.engine.checkpoint.read import load_checkpoint_file
from mmssl_ext.engine.resilience.guard import NonFiniteGuardHook
from mmssl_ext.errors import NonFiniteLossError
from tests.distributed import run_ranks
from tests.harness import Watch, config, log_text, make_runner

GUARD = {"type": "NonFiniteGuardHook", "interval": 3}


class PoisonLoss(Hook):
    """Let the comparison return NaN at one iteration, and note what that batch was."""

    priority = "VERY_HIGH"

    def __init__(self, at):
        self.at = at
        self.last = -1

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        self.last = runner.iter
        if runner.iter == self.at:
            self.paths = [s.img_path for s in data_batch["data_samples"]]
            compare = runner.model.compare
            pair = compare.pair
            compare.pair = lambda *args: pair(*args) * float("nan")


def poison_weight(runner):
    """Break one buffer, which no loss shows, after the first epoch's last step."""
    if runner.iter == 7:
        runner.model.target.backbone.bn1.running_var.fill_(float("inf"))


@pytest.mark.parametrize("at", [4, 7])
@pytest.mark.fault("R14")
def test_nan_stops_within_the_interval_and_the_checkpoint_stays(images, tmp_path, at):
    poison = PoisonLoss(at)
    runner = make_runner(config(images, tmp_path, epochs=3, guard=GUARD), poison)
    with pytest.raises(NonFiniteLossError) as caught:
        runner.train()
    assert poison.last - at < 3
    text = str(caught.value)
    good = tmp_path / "epoch_1.pth"
    where = f"loss_instance = nan, raw_instance = nan at iteration {at + 1} (epoch 2"
    for words in (where, poison.paths[0], "lr 0.04", f"--resume {good}"):
        assert words in text
    assert text in log_text(runner)
    assert sorted(tmp_path.glob("*.pth")) == [good]
    state = load_checkpoint_file(good)["state_dict"]
    assert all(value.isfinite().all() for value in state.values())
    report = json.loads((tmp_path / "nonfinite_report.json").read_text())
    found = [report[x] for x in ("iteration", "epoch", "last_good_checkpoint")]
    assert found == [at + 1, 2, str(good)]
    assert report["ranks"]["0"]["images"] == poison.paths


@pytest.mark.fault("R14")
def test_a_broken_buffer_is_never_saved(images, tmp_path):
    cfg = config(images, tmp_path, epochs=2, guard=GUARD)
    runner = make_runner(cfg, Watch("VERY_HIGH", after_train_iter=poison_weight))
    with pytest.raises(NonFiniteLossError, match=r"bn1\.running_var \(1 tensors\)"):
        runner.train()
    assert [p.name for p in tmp_path.glob("*.pth")] == ["epoch_1.pth"]


def test_mmengines_own_checkpoint_hook_is_stopped_too(images, tmp_path):
    cfg = config(images, tmp_path, epochs=2, guard={**GUARD, "interval": 100})
    cfg.default_hooks.checkpoint.type = "CheckpointHook"
    with pytest.raises(NonFiniteLossError):
        make_runner(cfg, PoisonLoss(5)).train()
    assert [p.name for p in tmp_path.glob("*.pth")] == ["epoch_1.pth"]


@pytest.mark.fault("R14")
def test_checkpoints_by_iteration_are_guarded_too(images, tmp_path):
    cfg = config(images, tmp_path, guard={**GUARD, "interval": 100})
    cfg.train_cfg = {"by_epoch": False, "max_iters": 6}
    cfg.param_scheduler = None
    cfg.train_dataloader.sampler.type = "InfiniteSampler"
    cfg.default_hooks.checkpoint.update(by_epoch=False, interval=2)
    runner = make_runner(cfg, PoisonLoss(2))
    with pytest.raises(NonFiniteLossError, match=r"at iteration 3 .*iter_2\.pth"):
        runner.train()
    assert [p.name for p in tmp_path.glob("*.pth")] == ["iter_2.pth"]


def test_between_the_intervals_nothing_is_read(images, tmp_path, monkeypatch):
    """Reading a device tensor (`int`, `tolist`, ...) would wait for the device."""
    runner = make_runner(config(images, tmp_path))
    guard = NonFiniteGuardHook(interval=1000)
    runner.train_loop  # noqa: B018 - builds the loop, so that runner.iter exists

    def forbidden(*args, **kwargs):
        raise AssertionError("the device was waited for")

    for name in ("item", "__int__", "__bool__", "__float__", "tolist", "cpu"):
        monkeypatch.setattr(torch.Tensor, name, forbidden)
    for _ in range(3):
        guard.after_train_iter(runner, 0, {}, {"loss": torch.tensor(1.0), "share": 0.5})


def guard_on_rank(rank, folder):
    """NaN on rank 1 alone; returns the message that each rank raises."""
    hook = NonFiniteGuardHook(interval=2)
    optim = SimpleNamespace(get_lr=lambda: {"lr": [0.1]})
    runner = SimpleNamespace(
        rank=rank,
        epoch=0,
        work_dir=folder,
        optim_wrapper=optim,
        message_hub=SimpleNamespace(get_info=lambda key: None),
        logger=SimpleNamespace(error=lambda text: None),
    )
    samples = [{"img_path": f"image_of_rank{rank}"}]
    try:
        for runner.iter in range(6):
            loss = float("nan") if rank == 1 and runner.iter == 2 else 1.0
            outputs = {"loss": torch.tensor(loss)}
            hook.after_train_iter(runner, 0, {"data_samples": samples}, outputs)
    except NonFiniteLossError as error:
        return runner.iter, str(error)
    return None


@pytest.mark.fault("R14")
def test_all_ranks_stop_where_one_has_a_nan(tmp_path):
    found = run_ranks(guard_on_rank, 2, str(tmp_path))
    assert found[0] == found[1]
    iteration, text = found[0]
    assert iteration == 3
    assert "loss = nan at iteration 3" in text
    assert "Images of that batch: image_of_rank1." in text
    report = json.loads((tmp_path / "nonfinite_report.json").read_text())
    assert list(report["ranks"]) == ["1"]
