"""Checkpoints of plain data: what is written, read back and refused."""

import pickle
import shlex
from collections import OrderedDict
from pathlib import Path

import mmengine.runner.checkpoint as mmengines
import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer
from mmengine.model import BaseModule
from mmengine.runner import load_checkpoint

from mmssl_ext.engine.checkpoint import read as reading
from mmssl_ext.engine.checkpoint.plain import restore_histories, to_plain
from mmssl_ext.engine.checkpoint.read import (
    check_checkpoint_file,
    find_resumable,
    load_checkpoint_file,
    plain_copy,
)
from mmssl_ext.errors import CheckpointFileError
from tests.harness import config, make_runner, write_images
from tests.warm import python
from tests.webserver import serving


class Payload:
    ran = False

    def __reduce__(self):
        return setattr, (Payload, "ran", True)


@pytest.fixture(autouse=True)
def payload_has_not_run():
    Payload.ran = False


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return write_images(tmp_path_factory.mktemp("images"))


def test_nested_data_becomes_plain():
    dropped = []
    plain = to_plain(
        {
            "a": np.float64(1.5),
            np.int64(3): [np.arange(2), (np.str_("x"), {1})],
            "state": OrderedDict(w=torch.ones(2)),
            "bad": {"f": len, "ok": None},
        },
        dropped,
    )
    assert type(plain["a"]) is float
    assert plain[3][0].tolist() == [0, 1]
    assert plain[3][1] == ("x", [1])
    assert type(plain[3][1][0]) is str
    assert type(plain["state"]) is OrderedDict
    assert plain["bad"] == {"ok": None}
    assert dropped == ["bad.f"]


def test_histories_survive_and_are_cut():
    history = HistoryBuffer(list(range(12_000)), [1] * 12_000)
    scalars = {"loss": to_plain(history, [])}
    restore_histories(scalars)
    assert scalars["loss"].mean(10) == history.mean(10)
    assert len(scalars["loss"].data[0]) == 10_000


def test_a_run_writes_files_that_load_as_weights_only(images, tmp_path):
    make_runner(config(images, tmp_path, epochs=1)).train()
    checkpoint = torch.load(tmp_path / "epoch_1.pth", weights_only=True)
    losses = checkpoint["message_hub"]["log_scalars"]["train/loss"]
    assert losses["history"].numel() == 4
    assert "compare.queue.keys" in checkpoint["state_dict"]
    assert "optimizer" in checkpoint


def saved(path: Path) -> Path:
    torch.save({"state_dict": {"w": torch.arange(1000.0)}}, path)
    return path


def test_files_that_hold_nothing_to_load(tmp_path):
    with pytest.raises(CheckpointFileError, match=r"no\.pth does not exist"):
        load_checkpoint_file(tmp_path / "no.pth")
    torch.save(torch.ones(2), tmp_path / "x.pth")
    with pytest.raises(CheckpointFileError, match="holds a Tensor"):
        load_checkpoint_file(tmp_path / "x.pth")


# R19: no code of a file runs, by whatever way it is read


def evil(path: Path, zipped: bool = True) -> Path:
    """A whole training state, with a payload beside it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {"meta": {"epoch": 1, "iter": 4}, "state_dict": {"w": torch.ones(2)}}
    content |= {"message_hub": {}, "x": Payload()}
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    return path


def by_resume(path, images):
    runner = make_runner(config(images, path.parent / "run"))
    runner._train_loop = runner.build_train_loop(runner._train_loop)
    runner.resume(str(path))


def by_load_from(path, images):
    runner = make_runner(config(images, path.parent / "run"))
    runner._load_from = str(path)
    runner.load_or_resume()


def by_init(path, images):
    BaseModule({"type": "Pretrained", "checkpoint": str(path)}).init_weights()


def by_prefix_init(path, images):
    cfg = {"type": "Pretrained", "checkpoint": str(path), "prefix": "backbone"}
    BaseModule(cfg).init_weights()


WAYS = {
    "file": lambda path, images: load_checkpoint_file(path),
    "check": lambda path, images: check_checkpoint_file(path),
    "resumable": lambda path, images: find_resumable(path.parent),
    "resume": by_resume,
    "load_from": by_load_from,
    "Pretrained": by_init,
    "prefix": by_prefix_init,
    "mmengine": lambda path, images: load_checkpoint(torch.nn.Linear(1, 1), str(path)),
}


@pytest.mark.fault("R19")
@pytest.mark.parametrize(
    ("way", "zipped"), [("file", False), *((way, True) for way in WAYS)]
)
def test_objects_are_refused_and_never_run(tmp_path, images, way, zipped):
    path = evil(tmp_path / "epoch_1.pth", zipped)
    said = r"epoch_1\.pth holds Python objects \(.*setattr\)"
    with pytest.raises(CheckpointFileError, match=said):
        WAYS[way](path, images)
    assert not Payload.ran
    mmengines.load_from_local(str(path), "cpu")  # its own way runs it
    assert Payload.ran


@pytest.mark.fault("R19")
def test_a_resume_passes_over_a_file_with_objects(tmp_path):
    older = saved(tmp_path / "epoch_1.pth")
    newest = evil(tmp_path / "epoch_2.pth")
    (tmp_path / "last_checkpoint").write_text(str(newest))
    found, (note,) = find_resumable(tmp_path)
    assert found == older and not Payload.ran
    assert "epoch_2.pth holds Python objects" in note


def test_trust_must_be_asked_for_and_stands_in_the_log(tmp_path, monkeypatch):
    path = evil(tmp_path / "x.pth")
    said = []
    monkeypatch.setattr(reading, "print_log", lambda *args: said.append(args))
    loaded = load_checkpoint_file(path, trust=True)
    assert Payload.ran and loaded["state_dict"]["w"].eq(1).all()
    ((text, _, level),) = said
    assert str(path) in text and "its code runs" in text and level == 30
    damaged = path.read_bytes()
    path.write_bytes(damaged[:-30])
    Payload.ran = False
    with pytest.raises(CheckpointFileError, match="truncated or damaged"):
        load_checkpoint_file(path, trust=True)
    assert not Payload.ran


def test_a_plain_copy_of_a_trusted_file(tmp_path):
    """By the very line that the refusal gives."""
    path = tmp_path / "it's.pth"
    torch.save({"state_dict": {"w": torch.ones(2)}, "where": Path("a")}, path)
    with pytest.raises(CheckpointFileError) as caught:
        load_checkpoint_file(path)
    line = str(caught.value).partition("use that: ")[2]
    _, *arguments = shlex.split(line)
    assert python(*arguments, cwd=tmp_path).returncode == 0
    content = load_checkpoint_file(tmp_path / "plain.pth")
    assert content["where"] == "a" and content["state_dict"]["w"].eq(1).all()
    plain_copy(evil(tmp_path / "y.pth"), tmp_path / "y_plain.pth")
    assert load_checkpoint_file(tmp_path / "y_plain.pth").keys() >= {"state_dict"}


# mmengine's loader for all schemes


@pytest.fixture
def server(tmp_path, monkeypatch):
    """A web server of two files; torch's cache is in the folder of the test."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with serving() as web:
        web.put(evil(tmp_path / "evil.pth").read_bytes(), "/evil.pth")
        web.put(saved(tmp_path / "good.pth").read_bytes(), "/good.pth", ETag='"1"')
        yield web


@pytest.mark.fault("R19")
def test_a_download_is_read_like_any_file(server):
    model = torch.nn.Linear(1, 1)
    with pytest.raises(CheckpointFileError, match="holds Python objects"):
        load_checkpoint(model, f"{server.url}/evil.pth")
    assert not Payload.ran
    for _ in range(2):
        loaded = mmengines._load_checkpoint(f"{server.url}/good.pth")
        assert loaded["state_dict"]["w"].equal(torch.arange(1000.0))
    assert server.sent == ["/evil.pth", "/good.pth"]  # downloaded once
    with pytest.raises(CheckpointFileError, match=r"none\.pth could not be downloaded"):
        load_checkpoint(model, f"{server.url}/none.pth")


@pytest.mark.fault("R19")
def test_names_of_model_zoos(server, monkeypatch):
    urls = {"a": f"{server.url}/evil.pth", "b": f"{server.url}/good.pth"}
    monkeypatch.setattr(reading, "get_torchvision_models", lambda: urls)
    for scheme in ("torchvision://", "modelzoo://"):
        with pytest.raises(CheckpointFileError, match="holds Python objects"):
            mmengines._load_checkpoint(f"{scheme}a")
        assert mmengines._load_checkpoint(f"{scheme}b")["state_dict"]["w"][3] == 3
        with pytest.raises(CheckpointFileError, match="no weights of that name"):
            mmengines._load_checkpoint(f"{scheme}c")


@pytest.mark.fault("R19")
def test_no_loader_of_mmengine_is_left(tmp_path):
    """Each of them would fall back to the rights to run code."""
    for prefix, loader in mmengines.CheckpointLoader._schemes.items():
        assert loader.__module__ == reading.__name__, prefix
    for name in ("s3://a/b.pth", "x:petrel://b", "open-mmlab://a", "pavi://b"):
        with pytest.raises(CheckpointFileError, match=f"Download {name} first"):
            mmengines._load_checkpoint(name)


def test_where_tensors_go_is_what_the_caller_says(tmp_path, monkeypatch):
    path = str(saved(tmp_path / "x.pth"))
    seen = []

    def to_meta(storage, location):
        seen.append(location)
        return storage

    load = mmengines._load_checkpoint
    assert load(path, map_location=to_meta)["state_dict"]["w"].numel() == 1000
    assert seen == ["cpu"]
    assert load(path, map_location="meta")["state_dict"]["w"].device.type == "meta"
    # from a GPU that is not here: mmengine's default would fail
    monkeypatch.setattr(torch.serialization, "location_tag", lambda x: "cuda:7")
    saved(tmp_path / "gpu.pth")
    refusals = (RuntimeError, pickle.UnpicklingError)  # the latter in torch 2.4
    with pytest.raises(refusals, match="CUDA"):
        torch.load(tmp_path / "gpu.pth", weights_only=True)
    assert load(str(tmp_path / "gpu.pth"))["state_dict"]["w"].device.type == "cpu"
