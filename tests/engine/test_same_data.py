"""A run goes on with the data that it was trained on, or not without a word."""

import re
import shutil
from functools import partial
from pathlib import Path

import pytest
import torch

from mmssl_ext.datasets.shard_writer import make_shards
from mmssl_ext.engine.checkpoint.read import load_checkpoint_file
from mmssl_ext.errors import CheckpointFileError
from mmssl_ext.run.launch import train
from mmssl_ext.run.tool import run_tool
from tests.harness import RunHarness, config, log_text, make_runner, write_images

OTHERS = "train_dataloader.dataset, other images: "


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A checkpoint after the first of two epochs, and its images."""
    folder = tmp_path_factory.mktemp("trained")
    cfg = run_config(write_images(folder / "images"), folder / "run", epochs=1)
    RunHarness.of(cfg).train()
    return folder


@pytest.fixture
def copy(trained, tmp_path) -> Path:
    """The same in another folder."""
    return Path(shutil.copytree(trained, tmp_path / "copy"))


def run_config(images, work_dir, epochs=2):
    return config(images, work_dir, epochs, resume={"type": "ExactResumeHook"})


def resume(copy: Path, change=None, **options):
    cfg = run_config(copy / "images", copy / "run")
    if change is not None:
        cfg.train_dataloader.dataset.update(change)
    runner = make_runner(cfg, resume=True, **options)
    runner.train()
    return runner


@pytest.mark.fault("R31")
def test_moved_and_packed_data_go_on_without_a_word(copy):
    make_shards(str(copy / "images"), str(copy / "shards"))
    shards = {"type": "ImageShards", "root": str(copy / "shards")}
    runner = resume(copy, shards)
    assert runner.epoch == 2
    text = log_text(runner)
    assert "which files" not in text and "other data" not in text


def replace_one(images: Path) -> None:
    shutil.copy(images / "class0" / "1.png", images / "class0" / "0.png")


def remove_four(images: Path) -> None:
    for name in ("0.png", "1.png", "2.png", "3.png"):
        (images / "class0" / name).unlink()


@pytest.mark.fault("R31")
def test_other_images_are_refused_and_taken_where_they_are_wanted(copy):
    remove_four(copy / "images")
    (copy / "images" / "class1" / "new.png").write_bytes(b"new")
    with pytest.raises(CheckpointFileError) as caught:
        resume(copy)
    text = str(caught.value)
    removed = "4 removed (class0/0.png, class0/1.png, class0/2.png, ...)"
    assert f"{OTHERS}16 then, 13 now; 1 added (class1/new.png); {removed}\n" in text
    assert "add --allow-other-data (default_hooks.resume.allow_other_data=True)" in text
    (copy / "images" / "class1" / "new.png").unlink()
    runner = resume(copy, allow_other_data=True)
    assert (runner.epoch, runner.iter) == (2, 4 + 3)  # an epoch is shorter now
    assert "The run goes on with other data: 16 then, 12 now; 4" in log_text(runner)
    # What is trained on now is what the next checkpoint says.
    data = load_checkpoint_file(copy / "run" / "epoch_2.pth")["meta"]["data"]
    assert data["files"] == 12
    assert resume(copy).epoch == 2


def test_the_option_of_the_tool(copy, tmp_path, capsys):
    replace_one(copy / "images")
    cfg = run_config(copy / "images", copy / "run")
    cfg.dump(str(tmp_path / "config.py"))
    start = partial(train, tmp_path / "config.py", resume=True)
    assert run_tool(start)() == 2
    assert "--allow-other-data" in capsys.readouterr().err
    assert run_tool(partial(start, allow_other_data=True))() == 0


@pytest.mark.parametrize("on_error", ["skip", "raise"])
def test_files_that_vanish(copy, on_error):
    names = sorted(str(x.relative_to(copy)) for x in (copy / "images").rglob("*.png"))
    (copy / "list.txt").write_text("".join(f"{name}\n" for name in names))
    images = {"type": "ImageList", "ann_file": str(copy / "list.txt"), "labels": None}
    images |= {"root": str(copy), "on_error": on_error}
    cfg = run_config(copy / "images", copy / "listed", epochs=1)
    cfg.train_dataloader.dataset.update(images)
    cfg.train_dataloader.dataset.pop("labels")
    RunHarness.of(cfg).train()
    (copy / "images" / "class0" / "0.png").unlink()
    cfg.train_cfg.max_epochs = 2
    missing = "1 missing on one side (images/class0/0.png)"
    runner = make_runner(cfg, resume=True)
    if on_error == "raise":
        with pytest.raises(CheckpointFileError, match=re.escape(missing)):
            runner.train()
    else:
        runner.train()
        assert missing in log_text(runner)
        assert runner.epoch == 2


def forget_data(copy: Path) -> None:
    """Make the checkpoint one of version 0.1."""
    path = copy / "run" / "epoch_1.pth"
    content = torch.load(path, weights_only=True)
    del content["meta"]["data"]
    torch.save(content, path)
    path.with_name("epoch_1.pth.json").unlink()


def test_a_checkpoint_that_does_not_tell_its_data(copy):
    forget_data(copy)
    replace_one(copy / "images")
    runner = resume(copy)
    text = log_text(runner)
    assert text.count("does not say which files it was trained on") == 1
    assert runner.epoch == 2


def test_another_number_of_images_than_an_old_checkpoint_has(copy):
    forget_data(copy)
    remove_four(copy / "images")
    changed = "train_dataloader.dataset, images: 16 -> 12"
    with pytest.raises(CheckpointFileError, match=rf"{changed}(.|\n)*--allow-other"):
        resume(copy)
    runner = resume(copy, allow_other_data=True)
    assert f"goes on with other data: {changed}." in log_text(runner)


def test_ranks_agree(copy):
    replace_one(copy / "images")
    cfg = run_config(copy / "images", copy / "run")
    cfg.train_dataloader.batch_size = 2
    cfg.param_scheduler = []
    texts = RunHarness.of(cfg).run(code=2, ranks=2, resume=True)
    assert f"{OTHERS}16 then, 16 now; 1 with other bytes of 16 looked into" in texts
    assert "class0/0.png" in texts
