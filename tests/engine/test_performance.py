"""Layout, compilation and fused optimizers change the speed of a run, not the run."""

import os
import shutil
import warnings
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.model import MMDistributedDataParallel
from safetensors.torch import load_file

from mmssl_ext.compat import compile_training
from mmssl_ext.engine.checkpoint.read import load_checkpoint_file
from mmssl_ext.engine.hooks import PerformanceHook
from mmssl_ext.engine.monitor.performance import _encoder_parts
from mmssl_ext.errors import ConfigError
from mmssl_ext.models.losses import queue_attention
from mmssl_ext.run.launch import load_config
from mmssl_ext.transfer.export import export_backbone
from mmssl_ext.unwrap import unwrap
from tests.distributed import run_ranks
from tests.harness import REPO, SLOW, Watch, config, knn, log_text, make_runner
from tests.models.common import build, model_config, samples, views

TINY = {
    # Two blocks on maps of 4 x 4 cells: statistics of BatchNorm over a few
    # values would amplify rounding, and code for a whole ResNet takes minutes.
    "backbone": dict(
        type="ResNet",
        depth=18,
        stem_channels=8,
        base_channels=8,
        num_stages=1,
        strides=(1,),
        dilations=(1,),
        out_indices=(0,),
        zero_init_residual=False,
    ),
    "neck": dict(type="MoCoV2Neck", in_channels=8, hid_channels=8, out_channels=16),
}


@pytest.fixture(autouse=True)
def _global_flags():
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    names = ("allow_tf32", "benchmark", "deterministic")
    flags = [(cudnn, name, getattr(cudnn, name)) for name in names]
    flags.append((matmul, "allow_tf32", matmul.allow_tf32))
    variable = os.environ.get("CUBLAS_WORKSPACE_CONFIG")
    yield
    for backend, name, value in flags:
        setattr(backend, name, value)
    torch.use_deterministic_algorithms(False)
    queue_attention.use_fused(True)
    if variable is None:
        os.environ.pop("CUBLAS_WORKSPACE_CONFIG", None)


class Losses(Hook):
    """Losses, and the weights of the first layer after the first step."""

    def __init__(self):
        self.values = []

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if not self.values:
            self.conv1 = unwrap(runner.model).backbone.conv1.weight.detach().clone()
        self.values.append(outputs["loss"].item())


def train(images, work_dir, performance, fused=None, resume=False, epochs=2, **hooks):
    """Return the runner, its losses and, by name, its weights."""
    cfg = config(images, work_dir, epochs, **hooks)
    cfg.model = model_config("MoCo", **TINY)
    cfg.default_hooks.performance = {"type": "PerformanceHook", **performance}
    cfg.default_hooks.checkpoint.max_keep_ckpts = 3
    if fused is not None:
        cfg.optim_wrapper.optimizer.fused = fused
    losses = Losses()
    runner = make_runner(cfg, losses, resume=resume)
    runner.train()
    return runner, losses.values, runner.model.state_dict()


def strided(module):
    """Whether all weights of 3 x 3 convolutions are N x H x W x C in memory."""
    weights = [p for p in module.parameters() if p.ndim == 4 and p.shape[-1] > 1]
    return {p.is_contiguous(memory_format=torch.channels_last) for p in weights}


def test_channels_last_runs_alike(images, tmp_path):
    measure = {"knn": knn(images)}
    plain = train(images, tmp_path / "plain", {}, **measure)
    last = train(images, tmp_path / "last", {"channels_last": True}, **measure)
    assert strided(plain[0].model) == {False}
    assert strided(last[0].model) == {True}
    assert last[0].model.data_preprocessor.channels_last
    assert last[1] == pytest.approx(plain[1], rel=1e-4)
    assert len(last[1]) == 8
    assert list(last[2]) == list(plain[2])
    torch.testing.assert_close(dict(last[2]), dict(plain[2]), rtol=1e-3, atol=1e-4)
    histories = [r[0].message_hub.get_info("knn_history") for r in (plain, last)]
    assert [len(history) for history in histories] == [3, 3]
    file = tmp_path / "last" / "epoch_2.pth"
    exported = export_backbone(file, tmp_path / "out", ["safetensors"])
    state = load_file(exported["safetensors"])
    assert torch.equal(state["conv1.weight"], last[2]["backbone.conv1.weight"])
    assert "Runtime: cpu, float32, channels_last." in log_text(last[0])
    assert "Runtime: cpu, float32, contiguous layout." in log_text(plain[0])


@pytest.mark.parametrize("first", [True, False])
def test_resume_in_another_layout(images, tmp_path, first):
    """A fused optimizer must not take momenta for those of other elements."""
    options = [{"channels_last": first}, {"channels_last": not first}]
    whole = train(images, tmp_path / "whole", options[0], fused=False)
    train(images, tmp_path / "run", options[0], fused=True)
    (tmp_path / "run" / "epoch_2.pth").unlink()
    (tmp_path / "run" / "last_checkpoint").unlink()
    runner, losses, _ = train(
        images, tmp_path / "run", options[1], fused=True, resume=True
    )
    assert losses == pytest.approx(whole[1][4:], rel=1e-4)
    assert strided(runner.model) == {not first}
    state = runner.optim_wrapper.optimizer.state
    for parameter, kept in state.items():
        assert kept["momentum_buffer"].stride() == parameter.stride()


@pytest.mark.parametrize("fused", [True, False])
def test_resumed_optimizer_runs_as_the_config_says(images, tmp_path, fused):
    train(images, tmp_path, {}, fused=not fused, epochs=1)
    runner, *_ = train(images, tmp_path, {}, fused=fused, resume=True)
    (group,) = runner.optim_wrapper.optimizer.param_groups
    assert group["fused"] is fused
    # Runs of the same second share a log.
    last = log_text(runner).rpartition("Runtime: ")[2]
    assert ("fused optimizer" in last) == fused


def test_state_of_an_unused_loss_scaler_is_left_out():
    """torch refuses to load it where scaling is on."""
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    with pytest.raises(RuntimeError, match="empty"):
        torch.amp.GradScaler("cpu").load_state_dict(scaler.state_dict())
    used = torch.amp.GradScaler("cpu", enabled=True).state_dict()
    for state, kept in ((scaler.state_dict(), False), (used, True)):
        checkpoint = {"optimizer": {"state": {}, "loss_scaler": state}}
        PerformanceHook().after_load_checkpoint(None, checkpoint)
        assert ("loss_scaler" in checkpoint["optimizer"]) == kept
    PerformanceHook().after_load_checkpoint(None, {"state_dict": {}})


@pytest.mark.parametrize(
    ("tf32", "conv", "products"),
    [("none", False, False), ("conv", True, False), ("all", True, True)],
)
def test_tf32(images, tmp_path, tf32, conv, products):
    runner = make_runner(config(images, tmp_path))
    PerformanceHook(tf32=tf32).before_run(runner)
    assert torch.backends.cudnn.allow_tf32 == conv
    assert torch.backends.cuda.matmul.allow_tf32 == products
    with pytest.raises(ValueError, match="tf32='no' must be one of none, conv, all"):
        PerformanceHook(tf32="no")


QUICK = {"default_hooks.report": None, "default_hooks.learned": None}


def runtime(name, images, tmp_path):
    """A config whose base is one of the runtimes."""
    small = config(images, tmp_path / "run")
    file = tmp_path / f"{tmp_path.name}.py"
    keys = ("model", "train_dataloader", "train_cfg", "param_scheduler")
    small.optim_wrapper.optimizer.lr = 0.03
    text = f"_base_ = {str(REPO / 'configs' / '_base_' / name)!r}\n"
    text += Config({k: small[k] for k in (*keys, "optim_wrapper")}).pretty_text
    file.write_text(text)
    return file


def test_exact_runtime(images, tmp_path):
    runs = []
    for folder in ("a", "b"):
        cfg = load_config(runtime("runtime_exact.py", images, tmp_path), QUICK)
        runner = make_runner(cfg, losses := Losses(), work_dir=str(tmp_path / folder))
        runner.train()
        runs.append((losses.values, runner.model.state_dict()))
    assert runs[0][0] == runs[1][0]
    assert all(torch.equal(v, runs[1][1][k]) for k, v in runs[0][1].items())
    text = "Runtime: cpu, float32, contiguous layout, deterministic kernels."
    assert text in log_text(runner)
    cudnn = torch.backends.cudnn
    assert (cudnn.deterministic, cudnn.benchmark, cudnn.allow_tf32) == (True, 0, 0)
    assert torch.are_deterministic_algorithms_enabled()
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    assert not queue_attention._use_fused


def test_fast_runtime_on_the_cpu(images, tmp_path):
    file = runtime("runtime_fast.py", images, tmp_path)
    cfg = load_config(file, QUICK)
    runner = make_runner(cfg, work_dir=str(tmp_path / "run"))
    runner.train()
    text = log_text(runner)
    assert "Runtime: cpu, float32, channels_last, fused optimizer." in text
    assert "training in fp32" in text
    assert type(runner.train_dataloader) is torch.utils.data.DataLoader
    off = {"precision": "float32", "channels_last": False, "fused": None}
    cfg = load_config(file, {**off, "prefetch": False})
    assert cfg.optim_wrapper.type == "OptimWrapper"
    assert cfg.optim_wrapper.optimizer.fused is None
    assert not cfg.default_hooks.performance.channels_last
    assert not cfg.default_hooks.performance.prefetch
    half = load_config(file, {"precision": "float16"}).optim_wrapper
    assert (half.dtype, half.loss_scale) == ("float16", {"enabled": True})


def run_on_ranks(rank, images, work_dir, channels_last):
    """A run of two ranks as `tools/train.py` starts it."""
    hook = {"type": "PerformanceHook", "channels_last": channels_last}
    cfg = config(images, Path(work_dir), performance=hook)
    cfg.model = model_config("MoCo", **TINY)
    cfg.optim_wrapper.optimizer.fused = True
    runner = make_runner(cfg, losses := Losses(), launcher="pytorch")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        runner.train()
    assert type(runner.model) is MMDistributedDataParallel
    assert strided(runner.model) == {channels_last}
    late = "none"
    if not channels_last:
        with pytest.raises(ConfigError) as error:
            PerformanceHook(channels_last=True).before_run(runner)
        late = str(error.value)
    return {
        "losses": losses.values,
        "conv1": losses.conv1,
        "strides": [str(w.message) for w in caught if "strides" in str(w.message)],
        "late": late,
    }


def test_channels_last_in_several_processes(images, tmp_path):
    plain, last = (
        run_ranks(run_on_ranks, 2, images, str(tmp_path / str(flag)), flag)
        for flag in (False, True)
    )
    for a, b in zip(plain, last, strict=True):
        assert b["losses"] == pytest.approx(a["losses"], rel=1e-3)
        torch.testing.assert_close(b["conv1"], a["conv1"], rtol=1e-3, atol=1e-5)
        assert not a["strides"] and not b["strides"]
        assert "channels_last comes too late" in a["late"]
    assert torch.equal(last[0]["conv1"], last[1]["conv1"])


@pytest.mark.parametrize(
    "options",
    [
        {"backend": "aot_eager"},
        pytest.param(
            {},
            marks=[
                pytest.mark.slow,
                pytest.mark.skipif(
                    shutil.which(os.environ.get("CXX", "g++")) is None,
                    reason="needs a C++ compiler (g++, or the one named by CXX)",
                ),
            ],
        ),
    ],
    ids=["traced", "C++"],
)
def test_compiled_run(images, tmp_path, monkeypatch, options):
    monkeypatch.setattr("torch._inductor.config.compile_threads", 1)
    check = {"input_check": {"type": "InputCheckHook"}}
    torch._dynamo.reset()
    _, expected, plain = train(images, tmp_path / "plain", {}, **check)
    torch._dynamo.utils.counters.clear()
    how = {"compile": options}
    compiled, found, state = train(images, tmp_path / "compiled", how, **check)
    # Query and key encoder, backbone and neck each, once: not for the eval mode of
    # InputCheckHook with its batch of one.
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 4
    assert not torch._dynamo.utils.counters["graph_break"]
    assert found == pytest.approx(expected, rel=1e-4)
    assert list(plain) == list(state)
    torch.testing.assert_close(dict(plain), dict(state), rtol=1e-3, atol=1e-4)
    first = str(tmp_path / "compiled" / "epoch_1.pth")
    assert list(load_checkpoint_file(first)["state_dict"]) == list(plain)
    _, rest, _ = train(images, tmp_path / "rest", {}, resume=first, **check)
    assert rest == pytest.approx(found[4:], rel=1e-4)
    assert f"encoders compiled with {options}" in log_text(compiled)


@pytest.mark.parametrize(
    "name", ["SimSiam", SLOW("DenseCL"), SLOW("DetCo"), SLOW("RegionCLM")]
)
def test_encoders_are_traced_whole(name):
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    splits = {} if name == "SimSiam" else {"bn_splits": 4}
    eager, traced = build(name, **splits), build(name, **splits)
    keys = list(traced.state_dict())
    parts = _encoder_parts(traced)
    assert len(parts) == (2 if name == "SimSiam" else 4)
    for part in parts:
        compile_training(part, {"backend": "eager"})
    inputs = views(8, type_=name)
    for model in (eager, traced):
        torch.manual_seed(0)
        losses = model(inputs, samples(8), mode="loss")
        sum(v for k, v in losses.items() if "loss" in k).backward()
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] >= len(parts)
    assert not torch._dynamo.utils.counters["graph_break"]
    assert list(traced.state_dict()) == keys
    for (key, a), b in zip(eager.named_parameters(), traced.parameters(), strict=True):
        if a.grad is not None:
            torch.testing.assert_close(b.grad, a.grad, rtol=1e-4, atol=1e-6, msg=key)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_no_step_waits_for_the_gpu(images, tmp_path, caplog):
    """Between two log lines nothing may synchronise: torch raises if it does."""
    file = runtime("runtime_fast.py", images, tmp_path)
    cfg = load_config(file, QUICK)
    cfg.train_cfg.max_epochs = 5  # 20 steps
    cfg.default_hooks.logger.interval = 100
    cfg.train_dataloader.update(pin_memory=True, num_workers=1, persistent_workers=True)

    watched = []

    def begin(runner):  # before the second step of an epoch
        if runner.epoch and runner.iter % 4 == 1:
            torch.cuda.set_sync_debug_mode("error")

    def end(runner):  # after the hooks of its third
        if runner.epoch and runner.iter % 4 == 2:
            torch.cuda.set_sync_debug_mode("default")
            watched.append(runner.epoch)

    watch = Watch(before_train_iter=begin, after_train_iter=end)
    try:
        make_runner(cfg, watch, work_dir=str(tmp_path / "run")).train()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert watched == [1, 2, 3, 4]
