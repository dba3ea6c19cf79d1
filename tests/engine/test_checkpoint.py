"""Checkpoints of plain data: what is written, read back and refused."""

import pickle
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer

from mmssl_ext.engine import CheckpointFileError
from mmssl_ext.engine.checkpoint import (
    find_resumable,
    load_checkpoint_file,
    restore_histories,
    to_plain,
)
from tests.engine.support import config, log_text, make_runner, write_images


class Payload:
    ran = False

    def __reduce__(self):
        return setattr, (Payload, "ran", True)


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
    assert (
        checkpoint["message_hub"]["log_scalars"]["train/loss"]["history"].numel() == 4
    )
    assert "queue.keys" in checkpoint["state_dict"]
    assert "optimizer" in checkpoint


def test_resume_continues_and_keeps_the_histories(images, tmp_path):
    straight = make_runner(config(images, tmp_path / "a", epochs=2))
    straight.train()
    make_runner(config(images, tmp_path / "b", epochs=1)).train()
    resumed = make_runner(config(images, tmp_path / "b", epochs=2), resume=True)
    resumed.train()
    assert resumed.iter == 8
    text = log_text(resumed)
    assert f"Resuming from {tmp_path / 'b' / 'epoch_1.pth'}" in text
    assert "not HistoryBuffer" not in text
    assert "just skip resuming" not in text
    assert "dataset metainfo" not in text
    for name, value in straight.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[name]), name
    histories = [
        runner.message_hub.get_scalar("train/loss").data[0].tolist()
        for runner in (straight, resumed)
    ]
    assert histories[0] == histories[1]


def saved(path: Path) -> Path:
    torch.save({"state_dict": {"w": torch.arange(1000.0)}}, path)
    return path


def test_missing_file(tmp_path):
    with pytest.raises(CheckpointFileError, match=r"no\.pth does not exist"):
        load_checkpoint_file(tmp_path / "no.pth")


@pytest.mark.parametrize("keep", [0, 3, 500, 3000])
def test_truncated_file(tmp_path, keep):
    path = saved(tmp_path / "x.pth")
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(CheckpointFileError, match=r"x\.pth .*truncated or damaged"):
        load_checkpoint_file(path)


def test_flipped_bit(tmp_path):
    path = saved(tmp_path / "x.pth")
    data = bytearray(path.read_bytes())
    at = data.index(np.float32(500).tobytes() + np.float32(501).tobytes())
    data[at] ^= 1
    path.write_bytes(data)
    torch.load(path, weights_only=True)  # torch itself does not notice
    with pytest.raises(CheckpointFileError, match="damaged"):
        load_checkpoint_file(path)


@pytest.mark.parametrize("zipped", [True, False])
def test_objects_are_refused_and_never_run(tmp_path, zipped):
    path = tmp_path / "evil.pth"
    torch.save({"x": Payload()}, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(CheckpointFileError, match=r"evil\.pth holds Python objects"):
        load_checkpoint_file(path)
    assert not Payload.ran
    pickle.loads(pickle.dumps(Payload()))
    assert Payload.ran  # the payload would have worked
    Payload.ran = False


def test_no_dict(tmp_path):
    torch.save(torch.ones(2), tmp_path / "x.pth")
    with pytest.raises(CheckpointFileError, match="holds a Tensor"):
        load_checkpoint_file(tmp_path / "x.pth")


def test_newest_readable_checkpoint_is_found(tmp_path):
    assert find_resumable(tmp_path) == (None, [])
    first, second = saved(tmp_path / "epoch_1.pth"), saved(tmp_path / "epoch_2.pth")
    # written in another place: the folder was moved
    (tmp_path / "last_checkpoint").write_text("/elsewhere/epoch_2.pth")
    assert find_resumable(tmp_path) == (second, [])
    second.write_bytes(second.read_bytes()[:700])
    found, passed_over = find_resumable(tmp_path)
    assert found == first
    assert len(passed_over) == 1
    assert "epoch_2.pth" in passed_over[0]
    first.write_bytes(b"")
    with pytest.raises(CheckpointFileError, match="epoch_1"):
        find_resumable(tmp_path)
