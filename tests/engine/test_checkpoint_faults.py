"""Checkpoints under kills, full disks and damage: a run can always go on."""

import contextlib
import errno
import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
import torch

from mmssl_ext.engine.checkpoint import read as checkpoint
from mmssl_ext.engine.checkpoint import write as checkpoint_writing
from mmssl_ext.engine.checkpoint.manifest import manifest_path, read_manifest
from mmssl_ext.engine.checkpoint.read import find_resumable, load_checkpoint_file
from mmssl_ext.engine.checkpoint.write import wait_for_checkpoints
from mmssl_ext.engine.hooks import PlainCheckpointHook
from mmssl_ext.errors import CheckpointFileError
from mmssl_ext.files import sha256_on_disk
from tests.harness import Watch
from tests.harness import saving_runner as toy

KEPT = "epoch_1.pth"


@pytest.fixture(autouse=True)
def nothing_left_running():
    yield
    wait_for_checkpoints()


def begin(folder, name, size=0, *, resume=None, **options):
    """A run that keeps one checkpoint, between two steps, and its hook."""
    hook = PlainCheckpointHook(interval=1, **{"max_keep_ckpts": 1, **options})
    runner = toy(folder, name, hook, size=size, resume=resume)
    runner._train_loop = runner.build_train_loop(runner._train_loop)
    runner.optim_wrapper = runner.build_optim_wrapper(runner.optim_wrapper)
    if resume is not None:
        runner.resume(str(resume))
    hook.before_train(runner)
    return runner, hook


def save(runner, hook, epoch, value=None):
    """What the hook does at the end of an epoch; all numbers say which it was."""
    runner.model.large.fill_(epoch if value is None else value)
    hook._save_checkpoint_with_step(runner, epoch, {"epoch": epoch, "iter": 6 * epoch})
    hook._saver.settle()


def check_that_it_can_go_on(folder, name):
    """Pointer, file, manifest and the next run; returns the epoch of the pointer."""
    path = Path((folder / "last_checkpoint").read_text())
    # by torch alone
    content = torch.load(path, weights_only=True)
    epoch = content["meta"]["epoch"]
    large = content["state_dict"]["large"]
    assert large.numel() and large.eq(large[0]).all()
    assert find_resumable(folder) == (path, [])
    checkpoint._compared.clear()  # what a new process knows
    if manifest_path(path).exists():
        assert read_manifest(path)["epoch"] == epoch
    hook = PlainCheckpointHook(interval=1, max_keep_ckpts=1)
    size = 4 * large.numel()
    runner = toy(folder, name, hook, epochs=epoch + 1, size=size, resume=path)
    runner.train()
    assert runner.iter == 6 * (epoch + 1)
    assert runner.model.large.equal(large)
    assert not [p for p in folder.iterdir() if p.name.startswith(".")]
    last = folder / f"epoch_{epoch + 1}.pth"
    assert find_resumable(folder) == (last, [])
    for one in folder.glob("*.json"):
        assert one.with_suffix("").exists()
    return epoch, large[0].item()


def in_child(work):
    """Fork a child that does the work; it exits with 0 where it comes to an end."""
    if (child := os.fork()) == 0:
        code = 1
        try:
            torch.set_num_threads(1)  # a pool of threads does not outlive a fork
            work()
            code = 0
        finally:
            os._exit(code)
    return child


# R1


def left(folder):
    """What a kill left: names, those of drafts without the process."""
    for path in folder.iterdir():
        draft = path.name.startswith(".")
        yield path.name.rsplit(".", 2)[0] if draft else path.name


CALLS = [
    *((os, name) for name in ("fsync", "replace", "unlink", "rename")),
    *((checkpoint_writing, x) for x in ("_fill_in_checksums", "sha256_on_disk")),
]


def kill_at(count):
    """Let this process kill itself in the place of the n-th of these calls."""
    left = [count]

    def wrap(call):
        def wrapped(*args, **kwargs):
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)
                time.sleep(60)
            return call(*args, **kwargs)

        return wrapped

    for owner, name in CALLS:
        setattr(owner, name, wrap(getattr(owner, name)))


@pytest.mark.fault("R1")
@pytest.mark.parametrize(
    "case",
    [
        "next",
        "interim",
        pytest.param("same name", marks=pytest.mark.slow),
        pytest.param("first", marks=pytest.mark.slow),
    ],
)
def test_a_kill_before_every_single_step(tmp_path, case):
    """Of a save under a new name, under that of the newest one, between two steps.

    The file is looked at after every kill; a run goes on from every kind of folder.
    """
    folder, start = tmp_path / "run", tmp_path / "start"
    runner, hook = begin(folder, f"steps {case}", 4_000)
    if case != "first":
        save(runner, hook, 1)
    runner.model.large.fill_(7)
    runner._train_loop._epoch, runner._train_loop._iter = 1, 8
    shutil.copytree(folder, start)

    def work(count):
        kill_at(count)
        if case == "interim":
            hook.save_now(runner)
        else:
            save(runner, hook, 2 if case == "next" else 1, value=7)

    status, count, results, kinds = None, 0, [], set()
    while status != 0:
        count += 1
        shutil.rmtree(folder)
        shutil.copytree(start, folder)
        status = os.waitpid(in_child(lambda count=count: work(count)), 0)[1]
        assert status in (0, signal.SIGKILL)
        kind = tuple(sorted(left(folder)))
        if "last_checkpoint" not in kind:
            assert case == "first" and find_resumable(folder)[1] == []
            continue
        path, notes = find_resumable(folder)
        assert notes == []
        assert str(path) == (folder / "last_checkpoint").read_text()
        value = torch.load(path, weights_only=True)["state_dict"]["large"]
        assert value.eq(value[0]).all()
        results.append((path.name, value[0].item()))
        if case != "interim" and kind not in kinds:
            check_that_it_can_go_on(folder, f"on {case} {count}")
        kinds.add(kind)
    assert count > 12  # so many steps there are at least
    old = [] if case == "first" else [(KEPT, 1.0)]
    new = {"next": "epoch_2.pth", "interim": "iter_8.pth"}.get(case, KEPT), 7.0
    assert [*dict.fromkeys(results)] == [*old, new]


# R2


@contextlib.contextmanager
def small_disk(folder, size):
    """A file system of its own; skips where this is not allowed."""
    folder.mkdir()
    options = ["-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    try:
        subprocess.run(["mount", *options], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("needs the right to mount a file system")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.fault("R2")
@pytest.mark.parametrize("reserves", [True, False])
def test_a_full_disk(tmp_path, monkeypatch, reserves):
    """One checkpoint fits, with keep=1 a second one must before the first is gone."""
    if not reserves:
        writing = "mmssl_ext.engine.checkpoint.write._reserve"
        monkeypatch.setattr(writing, lambda file, size: None)
    with small_disk(tmp_path / "disk", 3_000_000) as disk:
        hook = PlainCheckpointHook(interval=1, max_keep_ckpts=1)
        runner = toy(disk, f"full {reserves}", hook, size=2_000_000)
        with pytest.raises(CheckpointFileError) as caught:
            runner.train()
        text = str(caught.value)
        assert f"{disk / 'epoch_2.pth'} was not written: No space left" in text
        assert "it needs about 2000" in text and "bytes are free there" in text
        assert (disk / "last_checkpoint").read_text() == str(disk / KEPT)
        assert find_resumable(disk) == (disk / KEPT, [])
        files = sorted(p.name for p in disk.iterdir() if p.is_file())
        files = [name for name in files if not name.endswith(".py")]
        assert files == [KEPT, f"{KEPT}.json", "last_checkpoint"]


@pytest.mark.fault("R2")
@pytest.mark.parametrize("what", ["manifest", "pointer"])
def test_no_room_for_the_small_files(tmp_path, monkeypatch, what):
    runner, hook = begin(tmp_path, f"small {what}", 400)
    save(runner, hook, 1)
    write = Path.write_bytes

    def fail(path, data):
        if (what == "pointer") == ("last_checkpoint" in path.name):
            write(path, data[:3])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(path, data)

    monkeypatch.setattr(Path, "write_bytes", fail)
    with pytest.raises(CheckpointFileError, match=r"epoch_2\.pth .*No space left"):
        save(runner, hook, 2)
    monkeypatch.undo()
    assert check_that_it_can_go_on(tmp_path, f"small on {what}") == (1, 1.0)


# A disk that gives back something else


@pytest.mark.fault("R4")
@pytest.mark.parametrize("same_name", [False, True])
@pytest.mark.parametrize("verify", [True, False])
def test_what_the_disk_altered_is_found_before_it_counts(
    tmp_path, monkeypatch, verify, same_name
):
    """A bit flips between flushing and reading back, out of the kernel's sight."""
    name = f"disk {verify} {same_name}"
    runner, hook = begin(tmp_path, name, 4_000, verify=verify)
    save(runner, hook, 1)
    new = 1 if same_name else 2
    fsync, on_disk, flips, reads = os.fsync, sha256_on_disk, [], []

    def read(path):
        reads.append(path.name)
        return on_disk(path)

    def flip(file):
        fsync(file)
        path = Path(os.readlink(f"/proc/self/fd/{file}"))
        if path.is_file() and path.name.startswith(f".epoch_{new}.pth") and not flips:
            flips.append(path.name)
            data = bytearray(path.read_bytes())
            data[data.index(torch.full((9,), 5.0).numpy().tobytes())] ^= 1
            path.write_bytes(data)

    monkeypatch.setattr(os, "fsync", flip)
    monkeypatch.setattr(checkpoint_writing, "sha256_on_disk", read)
    refused = pytest.raises(CheckpointFileError)
    with refused if verify else contextlib.nullcontext() as caught:
        save(runner, hook, new, value=5)
    monkeypatch.undo()
    assert len(flips) == 1
    assert reads == (flips if verify else [])
    if verify:
        assert f"epoch_{new}.pth was not kept: the disk gave back" in str(caught.value)
        assert check_that_it_can_go_on(tmp_path, f"disk on {same_name}") == (1, 1.0)
        return
    # without: found when it is read
    with pytest.raises(CheckpointFileError, match="SHA-256 other than its manifest"):
        load_checkpoint_file(tmp_path / f"epoch_{new}.pth")


# R3, R4: damage found on reading


@pytest.fixture
def run(tmp_path):
    """Three checkpoints of a run with manifests, the third being the newest."""
    name = f"run {tmp_path.name}"
    runner, hook = begin(tmp_path, name, 400_000, max_keep_ckpts=-1)
    for epoch in (1, 2, 3):
        save(runner, hook, epoch)
        age = time.time_ns() - (10 - epoch) * 10**9
        os.utime(tmp_path / f"epoch_{epoch}.pth", ns=(age, age))
    return tmp_path


def flip(path, at, bit=1):
    data = bytearray(path.read_bytes())
    data[at] ^= bit
    path.write_bytes(data)


@pytest.mark.fault("R3")
@pytest.mark.parametrize("with_manifest", [True, False])
@pytest.mark.parametrize("keep", [0, 1, 300_000, -1])
def test_a_truncated_newest_file_is_passed_over(run, keep, with_manifest):
    newest = run / "epoch_3.pth"
    data = newest.read_bytes()
    newest.write_bytes(data[:keep])
    if not with_manifest:
        manifest_path(newest).unlink()
    found, notes = find_resumable(run)
    assert found == run / "epoch_2.pth"
    size = len(data[:keep])
    reason = f"its manifest says {len(data)}" if with_manifest else ""
    if not with_manifest and keep not in (0, 1):
        reason = "its end is missing or broken"
    assert len(notes) == 1 and "\n" not in notes[0]
    said = f"Checkpoint {newest} is truncated or damaged ({size} bytes"
    assert notes[0].startswith(said)
    assert reason in notes[0]
    assert notes[0].endswith(f"; the run goes on from {run / 'epoch_2.pth'} instead.")
    with pytest.raises(CheckpointFileError, match="truncated or damaged"):
        load_checkpoint_file(newest)


@pytest.mark.fault("R4")
@pytest.mark.parametrize("with_manifest", [True, False])
def test_a_flipped_bit_in_a_tensor_is_found(run, with_manifest):
    newest = run / "epoch_3.pth"
    if not with_manifest:
        manifest_path(newest).unlink()
    load_checkpoint_file(newest)  # known to be right, until it changes
    flip(newest, newest.stat().st_size // 2)
    torch.load(newest, weights_only=True)  # torch itself does not notice
    found, (note,) = find_resumable(run)
    assert found == run / "epoch_2.pth"
    assert ("SHA-256" if with_manifest else "checksum of ") in note
    with pytest.raises(CheckpointFileError, match="damaged"):
        load_checkpoint_file(newest)


@pytest.mark.fault("R3", "R4")
def test_two_damaged_files_are_named_in_one_sentence(run):
    flip(run / "epoch_3.pth", 200_000)
    (run / "epoch_2.pth").write_bytes(b"")
    found, (note,) = find_resumable(run)
    assert found == run / KEPT
    assert note.index("epoch_3.pth") < note.index("epoch_2.pth") < note.index(KEPT)
    (run / KEPT).write_bytes(b"")
    with pytest.raises(CheckpointFileError) as caught:
        find_resumable(run)
    text = str(caught.value)
    for part in ("none can be used", "epoch_3.pth", "epoch_2.pth", KEPT, "--resume"):
        assert part in text


@pytest.mark.fault("R4")
@pytest.mark.parametrize("damage", ["digit", "cut", "no json", "list", "empty", "type"])
def test_a_damaged_manifest_is_told_from_a_damaged_file(run, damage):
    """The file is judged by its own checksums, with a warning: it may be sound."""
    newest = run / "epoch_3.pth"
    manifest = manifest_path(newest)
    text = manifest.read_text()
    digest = read_manifest(newest)["sha256"]
    other = ("0" if digest[0] != "0" else "1") + digest[1:]
    manifest.write_text(
        {
            "digit": text.replace(digest, other),
            "cut": text[:-20],
            "no json": "checkpoint",
            "list": "[" * 60_000,
            "empty": "",
            "type": json.dumps({"bytes": "1", "sha256": 3, "checksum": []}),
        }[damage]
    )
    found, (note,) = find_resumable(run)
    assert found == newest
    assert note.startswith(str(manifest)) and "judged by the checksums" in note
    flip(newest, newest.stat().st_size // 2)
    found, notes = find_resumable(run)
    assert found == run / "epoch_2.pth"
    assert "checksum of " in notes[-1]


def at(step, call):
    """A hook that calls a function of the runner before a step."""
    return Watch("NORMAL", before_train_iter=lambda r: r.iter == step and call(r))


# save_now


def files_of(folder):
    return sorted(path.name for path in folder.glob("*.pth*"))


def test_a_save_between_two_steps_serves_until_the_next(tmp_path):
    seen = []

    def list_files():
        wait_for_checkpoints()
        return files_of(tmp_path)

    def save_now(runner):
        path = hook.save_now(runner)
        assert (tmp_path / "last_checkpoint").read_text() == path
        seen.append((path, list_files(), load_checkpoint_file(path)))

    hook = PlainCheckpointHook(interval=1, save_optimizer=False, save_best=None)
    look = at(7, lambda runner: seen.append(list_files()))
    first = toy(tmp_path, "now", hook, at(3, save_now), at(5, save_now), look)
    assert hook.save_now(first) == ""
    first.train()
    (path, files, content), (second, later, _), after = seen
    assert path == str(tmp_path / "iter_3.pth")
    assert files == ["iter_3.pth", "iter_3.pth.json"]
    # a newer one of its kind takes its place too
    assert second == str(tmp_path / "iter_5.pth")
    assert later == ["iter_5.pth", "iter_5.pth.json"]
    assert after == [KEPT, f"{KEPT}.json"]
    assert content["meta"]["epoch"] == 0 and content["meta"]["iter"] == 3
    assert "optimizer" in content
    assert list_files() == [KEPT, f"{KEPT}.json", "epoch_2.pth", "epoch_2.pth.json"]


def test_a_save_between_two_steps_of_another_process_is_deleted_in_time(tmp_path):
    hook = PlainCheckpointHook(interval=1, max_keep_ckpts=1)
    runner = toy(tmp_path, "stopped", hook, at(8, lambda r: hook.save_now(r) and 1 / 0))
    with pytest.raises(ZeroDivisionError):
        runner.train()
    found, _ = find_resumable(tmp_path)
    assert found.name == "iter_8.pth"
    assert read_manifest(found)["kind"] == "interim"
    assert (tmp_path / KEPT).exists()
    save(*begin(tmp_path, "stopped 2", resume=found), 2)
    assert files_of(tmp_path) == ["epoch_2.pth", "epoch_2.pth.json"]


def test_a_regular_checkpoint_of_the_same_name_stays(tmp_path):
    """A run by iterations names its regular checkpoints alike."""
    hook = PlainCheckpointHook(interval=4, by_epoch=False)
    again = at(4, lambda runner: hook.save_now(runner))
    toy(tmp_path, "iterations", hook, again, iters=10).train()
    assert files_of(tmp_path)[::2] == ["iter_10.pth", "iter_4.pth", "iter_8.pth"]
