"""The command line tools, as a user starts them."""

import re
from copy import deepcopy

import numpy as np
import pytest
import torch
from mmengine.registry import init_default_scope

from mmssl_ext.engine.weights.strict import load_strictly
from mmssl_ext.errors import CheckpointFileError, ConfigError, NonFiniteLossError
from mmssl_ext.registry import MODELS
from mmssl_ext.run.evaluate import evaluate_checkpoint
from mmssl_ext.run.launch import load_config, train
from mmssl_ext.run.tool import run_tool
from tests.harness import REPO, assert_same, config, knn
from tests.models.common import model_config
from tests.warm import python

TRAIN, TEST = (str(REPO / "tools" / name) for name in ("train.py", "test.py"))


@pytest.fixture(scope="module")
def run_dir(images, tmp_path_factory):
    root = tmp_path_factory.mktemp("tools")
    cfg = config(images, root / "unused", knn=knn(images))
    cfg.work_dir = None
    (root / "small.py").write_text(cfg.pretty_text)
    return root


@pytest.fixture(scope="module")
def trained(run_dir):
    done = python(TRAIN, "small.py", "--tensorboard", "--amp", cwd=run_dir)
    assert done.returncode == 0, done.stdout + done.stderr
    return run_dir / "work_dirs" / "small"


def test_train_writes_to_the_default_work_dir(trained):
    assert (trained / "epoch_1.pth").is_file()
    assert list(trained.glob("*/vis_data/events.out*"))


def test_test_reports_knn_and_writes_features(trained, run_dir):
    done = python(
        TEST,
        run_dir / "small.py",
        trained / "epoch_1.pth",
        *("--encoder", "both", "--features", "out/features.npz", "--k", "1"),
        cwd=run_dir,
    )
    assert done.returncode == 0, done.stderr
    # k = 1 with the query set as bank: every image is its own nearest neighbour
    assert "knn backbone_top1: 100.00 %" in done.stdout
    assert "knn key_embedding_top1: 100.00 %" in done.stdout
    assert re.search(r"^clustering key_embedding_acc: \d+\.\d\d %$", done.stdout, re.M)
    found = np.load(run_dir / "out" / "features.npz")
    assert found["backbone"].shape == (16, 64)
    assert found["embedding"].shape == (16, 16)
    assert found["labels"].tolist() == [0] * 8 + [1] * 8
    assert found["paths"][0].endswith("class0/0.png")


def test_test_refuses_a_checkpoint_that_does_not_fit(trained, run_dir):
    checkpoint = torch.load(trained / "epoch_1.pth", weights_only=True)
    state = checkpoint["state_dict"]
    state["head.extra"] = state.pop("neck.mlp.0.bias")
    state["compare.queue.ptr"] = torch.zeros(2)
    torch.save(checkpoint, run_dir / "other.pth")
    with pytest.raises(CheckpointFileError) as caught:
        evaluate_checkpoint(load_config(run_dir / "small.py"), run_dir / "other.pth")
    text = str(caught.value)
    assert "1 missing in the file: neck.mlp.0.bias" in text
    assert "1 unexpected in the file: head.extra" in text
    assert "compare.queue.ptr ((2,) in the file, (1,) here)" in text


def test_a_bank_is_as_long_as_that_of_the_checkpoint(tmp_path):
    init_default_scope("mmssl_ext")
    trained, used, fresh = (MODELS.build(model_config("InterCLR")) for _ in range(3))
    trained.terms.inter.fill(torch.randn(40, 16), fingerprint=3)
    used.terms.inter.fill(torch.randn(30, 16))
    state, path = deepcopy(trained.state_dict()), tmp_path / "epoch_1.pth"
    torch.save({"state_dict": state}, path)
    for model in (used, fresh):
        load_strictly(model, path)
        assert len(model.terms.inter.bank) == 40
        assert_same(model.state_dict(), state)
    name = "terms.inter.bank.features"
    torch.save({"state_dict": state | {name: torch.randn(40, 17)}}, path)
    with pytest.raises(CheckpointFileError, match=f"of another shape: {name}"):
        load_strictly(fresh, path)


def test_features_of_images_without_labels(trained, run_dir):
    cfg = load_config(run_dir / "small.py")
    cfg.default_hooks.knn.query_dataloader.dataset.labels = "none"
    checkpoint = trained / "epoch_1.pth"
    with pytest.raises(ConfigError, match="labelled images"):
        evaluate_checkpoint(cfg, checkpoint)
    out = run_dir / "unlabelled.npz"
    assert evaluate_checkpoint(cfg, checkpoint, features=out) == {}
    assert np.load(out)["labels"].tolist() == [-1] * 16


def test_user_errors_have_exit_code_2_and_no_traceback(run_dir):
    done = python(TRAIN, "gone.py", cwd=run_dir)
    assert done.returncode == 2
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("Error: Config gone.py does not exist")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (
            {"model.head.temprature": 1},
            "Error: model.head.temprature: QueueSoftmax has",
        ),
        ({"model.momentum": 0.001}, "set momentum to 1 minus that"),
        ({"model.feat_dim": 7}, "returns 16 features but feat_dim is 7; leave"),
        ({"train_dataloader.dataset.root": "nowhere"}, "The image folder 'nowhere'"),
        ({"default_hooks.knn.bank_dataloader.dataset.labels": "none"}, "kNN needs"),
    ],
)
def test_errors_of_config_and_data_are_the_users(run_dir, capsys, options, sentence):
    work_dir = str(run_dir / "failed")
    options = options | {"experiment_name": sentence}  # a logger of its own
    main = run_tool(lambda: train(run_dir / "small.py", options, work_dir=work_dir))
    assert main() == 2
    errors = capsys.readouterr().err
    assert sentence in errors
    assert "Traceback" not in errors


def test_exit_codes_of_errors_in_a_run(capsys):
    def stopped():
        raise NonFiniteLossError("stands in the log already")

    assert run_tool(stopped)() == 3
    assert capsys.readouterr().err == ""
    with pytest.raises(ValueError, match="invalid literal"):  # a bug
        run_tool(lambda: int("x"))()
