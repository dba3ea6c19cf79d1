"""What `prepare` makes of a config and its options."""

import importlib.util
import itertools
import logging
import os
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
from mmengine.config import Config
from mmengine.optim import OptimWrapper, build_optim_wrapper
from torch.distributed.elastic.multiprocessing.errors import (
    ChildFailedError,
    ProcessFailure,
)

from mmssl_ext.engine.resilience import ranks
from mmssl_ext.errors import CheckpointFileError, ConfigError, RankError
from mmssl_ext.run import tool
from mmssl_ext.run.launch import build_runner, load_config, prepare
from mmssl_ext.run.tool import run_tool
from tests.distributed import wait_for, workers
from tests.engine.test_checkpoint_writing import file_size_limit
from tests.harness import REPO, config, log_text, make_runner


@pytest.fixture
def cfg(images, tmp_path):
    return config(images, tmp_path / "run")


def texts(prepared):
    return [text for _, text in prepared.notices]


@pytest.fixture
def no_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


def test_default_work_dir_is_named_by_the_config(cfg, tmp_path):
    cfg.work_dir = None
    path = tmp_path / "some_name.py"
    path.write_text(cfg.pretty_text)
    found = load_config(path)
    prepare(found)
    assert found.work_dir == "work_dirs/some_name"
    prepare(found, work_dir="elsewhere")
    assert found.work_dir == "elsewhere"


def test_hooks_switched_off_by_name(cfg, tmp_path):
    cfg.default_hooks.guard = {"type": "NonFiniteGuardHook"}
    path = tmp_path / "c.py"
    path.write_text(cfg.pretty_text)
    off = {"default_hooks.guard": None, "default_hooks.logger": None}
    found = load_config(path, off)
    runner = build_runner(prepare(found))
    assert "guard" not in found.default_hooks
    names = {type(hook).__name__ for hook in runner.hooks}
    assert not names & {"NonFiniteGuardHook", "LoggerHook"}
    assert "AugmentationSeedHook" in names


@pytest.mark.parametrize("off", [True, False])
def test_the_hook_of_version_0_1_that_seeds_the_augmentation(cfg, off):
    cfg.default_hooks.draw_key = None if off else {"type": "DrawKeyHook"}
    hooks = [type(hook).__name__ for hook in build_runner(prepare(cfg)).hooks]
    assert hooks.count("AugmentationSeedHook") == (not off)


@pytest.mark.parametrize(
    ("ranks", "steps", "batch"), [(1, 3, 12), (16, 1, 64), (16, 3, 192)]
)
def test_lr_is_scaled_once_by_the_true_batch(cfg, monkeypatch, ranks, steps, batch):
    launcher = "none"
    if ranks > 1:  # two nodes of eight: what counts is the world, not the node
        launcher = "slurm"
        monkeypatch.setenv("SLURM_NTASKS", str(ranks))
        monkeypatch.setenv("SLURM_NTASKS_PER_NODE", "8")
    cfg.auto_scale_lr = {"base_batch_size": 256}
    cfg.optim_wrapper.accumulative_counts = steps
    notices = texts(prepare(cfg, auto_scale_lr=True, launcher=launcher))
    expected = 0.05 * batch / 256
    assert cfg.optim_wrapper.optimizer.lr == pytest.approx(expected)
    assert any(f"0.05 x {batch}/256 = {expected:g}" in text for text in notices)
    assert not cfg.auto_scale_lr.enable  # else mmengine would scale again
    prepare(cfg, auto_scale_lr=True, launcher=launcher)
    assert cfg.optim_wrapper.optimizer.lr == pytest.approx(expected)


def test_lr_is_scaled_where_the_config_says_so(cfg):
    cfg.auto_scale_lr = {"enable": True, "base_batch_size": 8}
    runner = make_runner(cfg)
    assert "0.05 x 4/8 = 0.025" in log_text(runner)
    assert runner.cfg.optim_wrapper.optimizer.lr == pytest.approx(0.025)


def test_lr_stays_without_the_option_and_needs_a_base(cfg):
    prepare(cfg)
    assert cfg.optim_wrapper.optimizer.lr == 0.05
    with pytest.raises(ConfigError, match="base_batch_size"):
        prepare(cfg, auto_scale_lr=True)


@pytest.mark.parametrize("in_config", [True, False])
def test_amp_without_a_gpu_is_one_notice_and_fp32(cfg, no_gpu, in_config):
    if in_config:
        cfg.optim_wrapper.update(
            type="AmpOptimWrapper", dtype="bfloat16", loss_scale="dynamic"
        )
    notices = texts(prepare(cfg, amp=not in_config))
    assert notices == ["No GPU here: no mixed precision, training in fp32."]
    assert type(build_optim_wrapper(torch.nn.Linear(1, 1), cfg.optim_wrapper)) is (
        OptimWrapper
    )


@pytest.mark.parametrize("given", ["--amp", "bfloat16", "float16"])
@pytest.mark.parametrize("supported", [True, False])
def test_mixed_precision_takes_what_the_gpu_has(cfg, monkeypatch, supported, given):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: supported)
    monkeypatch.setattr("mmssl_ext.engine.config.complete.get_device", lambda: "cuda")
    if given != "--amp":
        cfg.optim_wrapper.update(
            type="AmpOptimWrapper",
            dtype=given,
            loss_scale={"enabled": given == "float16"},
        )
    notices = texts(prepare(cfg, amp=given == "--amp"))
    assert cfg.optim_wrapper.type == "AmpOptimWrapper"
    found = cfg.optim_wrapper.dtype, cfg.optim_wrapper.loss_scale
    replaced = not supported and given != "float16"
    if given == "float16":
        assert found == ("float16", {"enabled": True})
    else:
        expected = ("float16", "dynamic"), ("bfloat16", {"enabled": False})
        assert found == expected[supported]
    assert sum("no bfloat16: float16" in text for text in notices) == replaced


def test_fp32_on_a_gpu_stays(cfg, monkeypatch):
    monkeypatch.setattr("mmssl_ext.engine.config.complete.get_device", lambda: "cuda")
    before = cfg.optim_wrapper.to_dict()
    assert not texts(prepare(cfg))
    assert cfg.optim_wrapper.to_dict() == before


def test_resume_without_a_checkpoint_starts_afresh(cfg):
    text = f"{cfg.work_dir} holds no checkpoint; starting afresh"
    assert any(text in said for said in texts(prepare(cfg, resume=True)))
    assert not cfg.resume


def test_resume_prefers_the_work_dir_to_where_the_run_began(cfg, tmp_path):
    start = tmp_path / "start.pth"
    torch.save({"state_dict": {}}, start)

    def prepared(given, in_config):
        cfg.load_from, cfg.resume = str(start), in_config
        notices = texts(prepare(cfg, resume=given))
        return cfg.load_from, cfg.resume, any("starting from" in x for x in notices)

    for given, in_config in itertools.product((True, False), repeat=2):
        said = given and not in_config
        assert prepared(given, in_config) == (str(start), in_config, said)
    newest = Path(cfg.work_dir, "epoch_1.pth")
    newest.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"state_dict": {}}, newest)
    for in_config in (True, False):
        assert prepared(True, in_config)[:2] == (str(newest), True)
    assert prepared(False, False)[:2] == (str(start), False)
    newest.with_name("epoch_2.pth").write_bytes(b"PK\x03\x04")
    (level, text), *_ = prepare(cfg, resume=True).notices
    assert level == logging.WARNING and "epoch_2.pth is truncated or damaged" in text
    assert cfg.load_from == str(newest)


def test_resume_names_bad_files(cfg, tmp_path):
    with pytest.raises(CheckpointFileError, match="does not exist"):
        prepare(cfg, resume=str(tmp_path / "none.pth"))
    cfg.load_from = "https://example.org/x.pth"
    with pytest.raises(CheckpointFileError, match="Download"):
        prepare(cfg)
    cfg.load_from = str(tmp_path / "bad.pth")
    (tmp_path / "bad.pth").write_bytes(b"PK\x03\x04")
    with pytest.raises(CheckpointFileError, match="damaged"):
        prepare(cfg)


def test_trackers_join_the_backends_or_name_the_extra(cfg, monkeypatch, tmp_path):
    names = ("tensorboard", "wandb", "mlflow")
    installed = SimpleNamespace(origin="__init__.py")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: installed)
    prepare(cfg, tensorboard=True)
    prepare(cfg, tensorboard=True, wandb=True, mlflow=True)
    types = [backend["type"] for backend in cfg.visualizer.vis_backends]
    own = ["mmssl_ext.WandbBackend", "mmssl_ext.MLflowBackend"]
    assert types == ["LocalVisBackend", "TensorboardVisBackend", *own]
    folder = SimpleNamespace(origin=None)  # a folder of that name is no package
    for missing in (None, folder):
        monkeypatch.setattr(importlib.util, "find_spec", lambda name, x=missing: x)
        for name in names:
            extra = rf"pip install 'mmssl_ext\[{name}\]'"
            with pytest.raises(ConfigError, match=extra):
                prepare(cfg, **{name: True})


def test_runs_of_a_process_write_into_their_own_folders(images, tmp_path):
    for name in "ab":
        cfg = config(images, tmp_path / name)
        backends = [{"type": "LocalVisBackend"}]
        cfg.visualizer = dict(type="Visualizer", name="v", vis_backends=backends)
        runner = make_runner(cfg)
        assert Path(runner.log_dir, "vis_data/config.py").is_file()


def test_ranks_on_the_cpu_use_gloo(cfg, no_gpu, monkeypatch):
    with pytest.raises(ConfigError, match="WORLD_SIZE and RANK"):
        prepare(cfg, launcher="pytorch")
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    cfg.env_cfg.dist_cfg = {"backend": "nccl"}
    prepare(cfg, launcher="pytorch")
    assert cfg.env_cfg.dist_cfg.backend == "gloo"
    assert cfg.model_wrapper_cfg.device_ids is None
    assert cfg.env_cfg.dist_cfg.timeout == 600
    cfg.env_cfg.dist_cfg.timeout = 90
    prepare(cfg, launcher="pytorch")
    assert cfg.env_cfg.dist_cfg.timeout == 90


@pytest.mark.parametrize("given", [None, "10.0.0.7"])
def test_slurm_ranks_on_the_cpu_find_their_address(monkeypatch, tmp_path, given):
    """torch reads its own variables; mmengine sets them where there is a GPU."""
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.setenv(name, "to be restored")
        monkeypatch.delenv(name)
    scontrol = tmp_path / "scontrol"
    scontrol.write_text(
        '#!/bin/sh\n[ "$*" = "show hostnames n[3-4]" ] && printf "n3\\nn4\\n"'
    )
    scontrol.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    known = {"PROCID": "5", "NTASKS": "8", "LOCALID": "1", "NODELIST": "n[3-4]"}
    for name, value in known.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    if given:
        monkeypatch.setenv("MASTER_ADDR", given)
    ranks._tell_torch("slurm")
    found = [os.environ[name] for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK")]
    assert found == ["5", "8", "1"]
    assert os.environ["MASTER_ADDR"] == (given or "n3")
    assert os.environ["MASTER_PORT"] == "29500"


def shown_by_torchrun(path, code):
    """The traceback that torchrun's summary shows, by torchrun's own code."""
    failure = ProcessFailure(0, 123, code, str(path))
    return str(ChildFailedError("train.py", {0: failure}))


@pytest.mark.fault("R28")
def test_torchrun_shows_the_sentence_or_the_traceback(monkeypatch, tmp_path):
    path = tmp_path / "error.json"
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(path))

    def refuse():
        raise RankError("Rank 3 (host n1, process 9) is gone.")

    assert run_tool(refuse)() == 5
    text = shown_by_torchrun(path, 5)
    assert "traceback : Rank 3 (host n1, process 9) is gone.\n" in text
    with pytest.raises(ZeroDivisionError):
        run_tool(lambda: 1 / 0)()
    text = shown_by_torchrun(path, 1)
    assert "Traceback" in text and "ZeroDivisionError: division by zero" in text


def leave_on_rank(rank, fails):
    """A process group whose end hangs, as NCCL's where another rank is gone."""
    tool._PATIENCE = 1.0
    dist.init_process_group("gloo")
    dist.destroy_process_group = lambda: time.sleep(1000)

    @run_tool
    def main():
        if fails == "user":
            raise RankError("It is gone.")
        if fails == "bug":
            raise ZeroDivisionError("a bug")

    return main()


@pytest.mark.fault("R28")
@pytest.mark.parametrize(
    ("fails", "code", "words"),
    [("user", 5, "Error: It is gone.\n"), ("bug", 1, "a bug"), ("", 0, "")],
)
def test_a_tool_leaves_although_its_connections_hang(tmp_path, fails, code, words):
    with workers(leave_on_rank, 1, tmp_path, fails) as (only,):
        wait_for([only], 60)
        assert only.code == code
        assert words in only.text
        assert ("Traceback" in only.text) == (fails == "bug")


def write(path, text):
    path.write_text(text)
    return path


def test_config_files_that_cannot_be_used(tmp_path):
    write(tmp_path / "co2_r50.py", "lr = 1")
    with pytest.raises(ConfigError, match=r"co2_r5\.py does not exist.*co2_r50\.py"):
        load_config(tmp_path / "co2_r5.py")
    with pytest.raises(ConfigError, match=r"gone\.py.*_base_"):
        load_config(write(tmp_path / "a.py", "_base_ = 'gone.py'"))
    with pytest.raises(ConfigError, match=r"b\.py .*line 2"):
        load_config(write(tmp_path / "b.py", "x = 1\ny = = 2"))
    with pytest.raises(ConfigError, match=r"c\.txt"):
        load_config(write(tmp_path / "c.txt", "x = 1"))


@pytest.mark.parametrize("options", [{}, {"lr": 2}])
def test_a_temporary_folder_without_room_is_named(tmp_path, monkeypatch, options):
    path = write(tmp_path / "a.py", "lr = 1")
    words = rf"copy in {tempfile.gettempdir()}: File too large.*TMPDIR"
    with file_size_limit(0), pytest.raises(ConfigError, match=words):
        load_config(path, options)


def test_options_without_effect_are_refused(tmp_path):
    text = "plan = dict(epochs=7)\ntrain_cfg = dict(max_epochs=plan['epochs'])"
    path = write(tmp_path / "c.py", text)
    with pytest.raises(ConfigError, match=r"no 'trian_cfg'\. Did you mean train_cfg"):
        load_config(path, {"trian_cfg.max_epochs": 3})
    with pytest.raises(
        ConfigError, match=r"plan\.epochs.*Give all of it \(plan=\.\.\.\)"
    ):
        load_config(path, {"plan.epochs": 3})
    cfg = load_config(path, {"train_cfg.max_epochs": 3, "randomness.seed": 5})
    assert isinstance(cfg, Config)
    assert cfg.train_cfg.max_epochs == 3
    assert cfg.randomness.seed == 5
    assert cfg.default_scope == "mmssl_ext"


@pytest.mark.fault("R20")
def test_strict_configs_are_checked_before_anything_runs(tmp_path, monkeypatch):
    monkeypatch.setattr("mmssl_ext.engine.config.read.enforce", lambda: None)
    side_effect = tmp_path / "happened"
    file = tmp_path / "config.py"
    for text, wrong in (
        (f"size = 1\nopen({str(side_effect)!r}, 'w')", "line 2"),
        ("size = 1\nmodel = dict(type='os.mkdir', name=size)", "scope 'os'"),
    ):
        file.write_text(text + "\n")
        for options in ({}, {"size": 2}):
            with pytest.raises(ConfigError, match=wrong):
                load_config(file, options, strict=True)
            assert not side_effect.exists()
    good = REPO / "configs/co2/co2_r18_demo.py"
    assert load_config(good, strict=True).to_dict() == load_config(good).to_dict()
    file.write_text("_base_ = 'config.py'\n")
    with pytest.raises(ConfigError, match="base of itself"):
        load_config(file)


def test_variables_change_all_that_is_computed_from_them(tmp_path):
    text = (
        "depth = 50\nmodel = dict(depth=depth, out=2048 if depth > 34 else 512)\n"
        "names = (\n    'a',\n    'b',\n)\ntrain_cfg = dict(count=len(names))"
    )
    path = write(tmp_path / "c.py", text)
    given = {"depth": 18, "names": ["it's", "c", "d"], "train_cfg.max_epochs": 2}
    cfg = load_config(path, options := dict(given))
    assert cfg.model == dict(depth=18, out=512)
    assert cfg.names == ("it's", "c", "d")
    assert cfg.train_cfg == dict(count=3, max_epochs=2)
    assert cfg.filename == str(path)
    assert options == given
    assert load_config(path).model.depth == 50
    assert path.read_text() == text
