"""Manifests: what they say, and how much is read to compare them."""

import datetime
import errno
import hashlib
import itertools
import json
import os
import re
import shutil
import time
import zipfile
from pathlib import Path

import pytest
import torch

import mmssl_ext
from mmssl_ext import files
from mmssl_ext.engine.checkpoint import read as checkpoint
from mmssl_ext.engine.checkpoint import write as checkpoint_writing
from mmssl_ext.engine.checkpoint.manifest import (
    ManifestError,
    manifest_path,
    read_manifest,
    remove_leftovers,
    write_manifest,
)
from mmssl_ext.engine.checkpoint.read import (
    check_checkpoint_file,
    find_resumable,
    load_checkpoint_file,
)
from mmssl_ext.engine.checkpoint.write import save_checkpoint_file, start_saving
from mmssl_ext.engine.hooks import PlainCheckpointHook
from mmssl_ext.errors import CheckpointFileError
from mmssl_ext.files import sha256, sha256_on_disk, write_bytes
from mmssl_ext.visualization import logs
from tests.distributed import run_ranks
from tests.harness import BATCH, toy_runner


def test_what_a_manifest_says(tmp_path):
    before = datetime.datetime.now().astimezone().replace(microsecond=0)
    runner = trained(tmp_path, "says", accumulate=3)
    path = tmp_path / "epoch_2.pth"
    manifest = json.loads((tmp_path / "epoch_2.pth.json").read_text())
    written = datetime.datetime.fromisoformat(manifest.pop("time"))
    assert before <= written <= datetime.datetime.now().astimezone()
    text = runner.cfg.pretty_text.encode()
    checksum = manifest.pop("checksum")
    assert len(checksum) == 64
    assert re.fullmatch("[0-9a-f]{12}", manifest.pop("run"))
    assert manifest == {
        "format": 1,
        "file": "epoch_2.pth",
        "bytes": path.stat().st_size,
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "kind": "regular",
        "epoch": 2,
        "iter": 12,
        "world_size": 1,
        "global_batch": BATCH * 3,
        "config_sha256": hashlib.sha256(text).hexdigest(),
        "method": "ToyModel",
        "torch": torch.__version__,
        "mmssl_ext": mmssl_ext.__version__,
    }
    assert load_checkpoint_file(path)["meta"]["cfg"].encode() == text


def trained(work_dir, name, *, accumulate=1, **options):
    runner = toy_runner(work_dir, name, PlainCheckpointHook(interval=1, **options))
    runner.optim_wrapper["accumulative_counts"] = accumulate
    runner.train()
    return runner


def train_on_rank(rank, folder):
    trained(Path(folder), "ranks")
    return rank


def test_the_world_of_two_ranks(tmp_path):
    assert run_ranks(train_on_rank, 2, str(tmp_path)) == [0, 1]
    manifest = read_manifest(tmp_path / "epoch_2.pth")
    assert (manifest["world_size"], manifest["global_batch"]) == (2, 2 * BATCH)
    written = sorted(p.name for p in tmp_path.glob("*.pth"))
    assert written == ["epoch_1.pth", "epoch_2.pth"]


CONTENTS = {
    "many": {str(i): torch.randn(i, 7) for i in range(40)},
    "blocks": {"a": torch.randn(600_000), "b": torch.randn(1 << 18)},  # 1 MiB exactly
    "nothing": {},
}


@pytest.mark.parametrize("content", CONTENTS)
def test_the_checksum_computed_on_the_way_is_that_of_the_file(tmp_path, content):
    path = tmp_path / "x.pth"
    start_saving(CONTENTS[content], path, manifest={}, verify=True).finish()
    data = path.read_bytes()
    manifest = read_manifest(path)
    assert manifest["sha256"] == hashlib.sha256(data).hexdigest()
    assert manifest["bytes"] == len(data)
    assert zipfile.ZipFile(path).testzip() is None


def read_from_disk():
    lines = Path("/proc/self/io").read_text().splitlines()
    return next(int(x.split()[1]) for x in lines if x.startswith("read_bytes"))


@pytest.mark.parametrize("size", [0, 4096, (1 << 20) + 5])
def test_reading_back_reads_the_disk(tmp_path, size):
    """And not the kernel's copy, as the usual way does, right after writing."""
    path = tmp_path / "x"
    write_bytes(path, os.urandom(size), durable=True)
    try:
        os.close(os.open(path, os.O_RDONLY | os.O_DIRECT))
    except OSError:
        pytest.skip("no disk below the temporary folder")
    counts = [read_from_disk()]
    digests = set()
    for function in (sha256, sha256_on_disk):
        digests.add(function(path))
        counts.append(read_from_disk())
    cached, direct = (b - a for a, b in itertools.pairwise(counts))
    assert digests == {hashlib.sha256(path.read_bytes()).hexdigest()}
    assert direct >= size and (cached < size or size == 0)


@pytest.mark.parametrize("where", ["open", "read"])
def test_reading_back_where_only_the_kernels_copy_can_be_read(
    tmp_path, monkeypatch, where
):
    path, calls = tmp_path / "x", []
    path.write_bytes(b"bytes")
    number = errno.EINVAL

    def refuse(path):
        if where == "read":
            yield b"by"
        raise OSError(number, "refused")

    monkeypatch.setattr(files, "_directly", refuse)
    monkeypatch.setattr(os, "posix_fadvise", lambda *args: calls.append(args[1:]))
    assert sha256_on_disk(path) == hashlib.sha256(b"bytes").hexdigest()
    assert calls == [(0, 0, os.POSIX_FADV_DONTNEED)]
    number = errno.EIO
    with pytest.raises(OSError, match="refused"):
        sha256_on_disk(path)


def test_checksums_in_the_header_before_the_data(tmp_path):
    path = tmp_path / "x.zip"
    data = os.urandom(3 << 20)
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("a", "longer"):
            archive.writestr(name, data)
    whole = path.read_bytes()
    with zipfile.ZipFile(path) as archive, path.open("r+b") as file:
        for i, entry in enumerate(archive.infolist()):
            assert not entry.flag_bits & 8
            for at in (entry.header_offset + 14, archive.start_dir + 47 * i + 16):
                file.seek(at)
                file.write(b"\0\0\0\0")
    checkpoint_writing._fill_in_checksums(path)
    assert path.read_bytes() == whole


def test_a_save_without_manifest_removes_the_old_one(tmp_path):
    path = tmp_path / "x.pth"
    start_saving({"w": torch.ones(2)}, path, manifest={}).finish()
    assert read_manifest(path)
    save_checkpoint_file({"w": torch.zeros(2)}, path)
    assert read_manifest(path) is None
    assert load_checkpoint_file(path)["w"].eq(0).all()


@pytest.mark.parametrize("edit", ["sha256", "bytes", "iter", "new"])
def test_an_edited_manifest_is_told(tmp_path, edit):
    path = tmp_path / "x.pth"
    path.write_bytes(b"x")
    write_manifest(path, "0" * 64, {"iter": 3})
    assert read_manifest(path)["iter"] == 3
    manifest = json.loads(manifest_path(path).read_text())
    manifest[edit] = "1" * 64 if edit == "sha256" else 7
    manifest_path(path).write_text(json.dumps(manifest))
    with pytest.raises(ManifestError, match=r"x\.pth\.json is damaged or was edited"):
        read_manifest(path)


def test_manifests_go_with_their_files(tmp_path):
    from tests.engine.test_checkpoint_writing import toy

    hook = PlainCheckpointHook(interval=1, max_keep_ckpts=1, save_best="acc")
    toy(tmp_path, "go", hook, epochs=4, scores=[0.1, 0.3, 0.2, 0.5]).train()
    assert sorted(p.name for p in tmp_path.glob("*.pth*")) == [
        "best_acc_epoch_4.pth",
        "best_acc_epoch_4.pth.json",
        "epoch_4.pth",
        "epoch_4.pth.json",
    ]
    best = read_manifest(tmp_path / "best_acc_epoch_4.pth")
    assert (best["kind"], best["epoch"], best["iter"]) == ("best", 4, 24)
    (tmp_path / "epoch_4.pth").unlink()
    assert find_resumable(tmp_path) == (None, [])  # a best one has no optimizer


def test_leftovers(tmp_path):
    whole, gone = tmp_path / "a.pth", tmp_path / "b.pth"
    for path in (whole, gone):
        path.write_bytes(b"x")
        write_manifest(path, "0" * 64, {})
    gone.unlink()
    drafts = [".e1.pt.1.tmp", ".a.pth.1.tmp", ".a.pth.json.1.tmp"]
    drafts += [".last_checkpoint.22.tmp"]
    others = [".pth.tmp", ".a.pth.x.tmp", ".notes.1.tmp", "a.pth.1.tmp", "c.pth.json"]
    for name in drafts + others:
        (tmp_path / name).touch()
    remove_leftovers(tmp_path)
    kept = sorted(p.name for p in tmp_path.iterdir())
    assert kept == sorted([*others, "a.pth", "a.pth.json"])


# How much is read


@pytest.fixture
def passes(monkeypatch):
    """Files whose SHA-256 was computed."""
    seen, sha256 = [], checkpoint.sha256

    def note(path):
        seen.append(Path(path).name)
        return sha256(path)

    monkeypatch.setattr(checkpoint, "sha256", note)
    monkeypatch.setattr(zipfile.ZipFile, "testzip", lambda self: seen.append("zip"))
    return seen


def age(path, seconds=5):
    then = time.time_ns() - seconds * 10**9
    os.utime(path, ns=(then, then))


def test_a_resume_compares_the_bytes_once(tmp_path, passes):
    trained(tmp_path, "once")
    for path in tmp_path.glob("*.pth"):
        age(path)
    path, _ = find_resumable(tmp_path)
    load_checkpoint_file(path)
    how = {"epochs": 3, "resume": path}
    toy_runner(tmp_path, "once more", PlainCheckpointHook(), **how).train()
    assert passes == ["epoch_2.pth"]
    age(path, 4)  # changed, or so it seems
    load_checkpoint_file(path)
    assert passes == ["epoch_2.pth"] * 2


def test_what_was_just_written_is_compared_again(tmp_path, passes):
    """Another change within the same tick of the clock would not show."""
    trained(tmp_path, "fresh")
    path = tmp_path / "epoch_2.pth"
    os.utime(path)
    for _ in range(2):
        load_checkpoint_file(path)
    assert passes == ["epoch_2.pth"] * 2


def test_looking_at_a_checkpoint_loads_no_tensors(tmp_path, passes, monkeypatch):
    path, mapped, load = tmp_path / "epoch_9.pth", [], torch.load
    save_checkpoint_file({"w": torch.zeros(9), "meta": {}}, path)

    def noted(*args, mmap, **kwargs):
        mapped.append(mmap)
        return load(*args, mmap=mmap, **kwargs)

    monkeypatch.setattr(torch, "load", noted)
    assert find_resumable(tmp_path)[0] == path
    assert passes == ["zip"]
    check_checkpoint_file(path)
    load_checkpoint_file(path)
    assert mapped == [True, True, False]


# The pointer


@pytest.fixture
def two(tmp_path):
    folder = tmp_path / "run"
    trained(folder, f"two {tmp_path.name}")
    age(folder / "epoch_1.pth", 20)
    age(folder / "epoch_2.pth", 10)
    return folder


POINTERS = (b" \n", b"/nowhere/epoch_7.pth", b"..", b"\xff\0\x01", b"x" * 5000)


def test_a_useless_pointer(two):
    """The file of most iterations counts then, whatever their times are."""
    age(two / "epoch_1.pth", -5)
    for pointer in POINTERS:
        (two / "last_checkpoint").write_bytes(pointer)
        assert find_resumable(two) == (two / "epoch_2.pth", [])
    (two / "last_checkpoint").unlink()
    assert find_resumable(two) == (two / "epoch_2.pth", [])
    # mmengine leaves published files beside the others, newer, without an optimizer
    torch.save({"state_dict": {}}, two / "epoch_2-1a2b3c4d.pth")
    assert find_resumable(two)[0] == two / "epoch_2.pth"


@pytest.mark.parametrize("described", [True, False])
def test_times_of_files_say_nothing(tmp_path, described):
    """As where a folder was copied or restored: the one of most iterations is next.

    An epoch has 6 iterations; ``iter_14`` is from within the third.
    """
    run = tmp_path / "run"
    options = {"interval": 1, "save_last": False}
    toy_runner(run, f"times {described}", PlainCheckpointHook(**options)).train()
    places = {"iter_14": (2, 14), "iter_9": (1, 9), "epoch_3": (3, 18)}
    for name, (epoch, done) in places.items():
        content = {"state_dict": {}, "meta": {"epoch": epoch, "iter": done}}
        path = run / f"{name}.pth"
        save_checkpoint_file(content, path)
        facts = {"kind": "interim", "epoch": epoch, "iter": done}
        write_manifest(path, sha256(path), facts)
    if not described:
        for path in run.glob("*.json"):
            path.unlink()
    order = ["epoch_3.pth", "iter_14.pth", "epoch_2.pth", "iter_9.pth", "epoch_1.pth"]
    for seconds, name in enumerate(order):
        age(run / name, 100 - seconds)  # the other way round
    assert [x.path.name for x in logs.checkpoints(run)] == order
    for name in order[:-1]:
        (run / "last_checkpoint").write_text(str(run / "gone.pth"))
        assert find_resumable(run)[0] == run / name
        (run / name).write_bytes(b"PK\x03\x04")
        age(run / name, -5)
    found, (note,) = find_resumable(run)
    assert found == run / "epoch_1.pth" and "epoch_3.pth is truncated" in note


def test_the_pointer_comes_before_newer_files(two):
    (two / "last_checkpoint").write_text(str(two / "epoch_1.pth"))
    assert find_resumable(two) == (two / "epoch_1.pth", [])
    (two / "notes").write_text("these are notes")  # passed over like a damaged file
    (two / "last_checkpoint").write_text(str(two / "notes"))
    found, (note,) = find_resumable(two)
    assert found == two / "epoch_2.pth"
    assert f"Checkpoint {two / 'notes'} is truncated or damaged" in note


def test_a_copied_folder_uses_its_own_files(two, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(two, copy)
    assert find_resumable(copy) == (copy / "epoch_2.pth", [])
    (two / "epoch_2.pth").write_bytes(b"")
    assert find_resumable(copy) == (copy / "epoch_2.pth", [])


def test_checkpoints_kept_elsewhere(tmp_path):
    options = {"out_dir": str(tmp_path / "out"), "filename_tmpl": "e{}.pt"}
    draft = tmp_path / "run" / ".last_checkpoint.1.tmp"
    draft.parent.mkdir(parents=True)
    draft.touch()
    trained(tmp_path / "run", "elsewhere", **options)
    assert not draft.exists()
    (out,) = (tmp_path / "out").iterdir()
    for epoch in (1, 2):
        age(out / f"e{epoch}.pt", 10 - epoch)
    assert find_resumable(tmp_path / "run") == (out / "e2.pt", [])
    (out / "e2.pt").write_bytes(b"PK\x03\x04")
    found, (note,) = find_resumable(tmp_path / "run")
    assert found == out / "e1.pt" and "e2.pt" in note


def test_a_file_that_cannot_be_read_is_named(two, monkeypatch):
    opened = Path.open

    def broken(path, *args, **kwargs):
        if path.name == "epoch_2.pth":
            raise OSError(5, "Input/output error")
        return opened(path, *args, **kwargs)

    monkeypatch.setattr(Path, "open", broken)
    found, (note,) = find_resumable(two)
    assert found == two / "epoch_1.pth"
    assert "epoch_2.pth cannot be read" in note and "Input/output error" in note
    for read in (load_checkpoint_file, check_checkpoint_file):
        with pytest.raises(CheckpointFileError, match="cannot be read"):
            read(two / "epoch_2.pth")
