"""Checkpoints are written whole or not at all, and the loop does not wait for disks."""

import contextlib
import errno
import os
import re
import resource
import threading
import time
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from mmengine.hooks import CheckpointHook

from mmssl_ext.engine.checkpoint import write as checkpoint_writing
from mmssl_ext.engine.checkpoint.read import load_checkpoint_file
from mmssl_ext.engine.checkpoint.run_folder import RUN_FILE
from mmssl_ext.engine.checkpoint.saver import Saver
from mmssl_ext.engine.checkpoint.write import (
    save_checkpoint_file,
    start_saving,
    wait_for_checkpoints,
)
from mmssl_ext.engine.hooks import PlainCheckpointHook
from mmssl_ext.errors import CheckpointFileError, ConfigError
from tests.distributed import run_ranks
from tests.harness import Watch, assert_same
from tests.harness import saving_runner as toy

LARGE = 1_000_000  # bytes of a buffer, well above what logs hold


@pytest.fixture(autouse=True)
def nothing_left_running():
    yield
    wait_for_checkpoints()


def names(folder):
    """Files but for mmengine's copy of the config, manifests and what it is by."""
    files = {p.name for p in Path(folder).iterdir() if p.is_file()} - {RUN_FILE}
    others = {n for n in files if n.removesuffix(".json") in files - {n}}
    return sorted(n for n in files - others if not n.endswith(".py"))


def pointer(folder):
    return Path(folder, "last_checkpoint").read_text()


def equal(a, b, where="", ignored=("meta.time",)):
    """Compare nested data and types, tensors bit by bit, and the order of keys."""
    assert_same(a, b, where, ignored, order=True)


class Gate:
    """A slow disk: ``os.fsync`` waits until the gate is opened."""

    def __init__(self, monkeypatch):
        self.opened = threading.Event()
        monkeypatch.setattr(checkpoint_writing.os, "fsync", self.fsync)

    def fsync(self, file):
        if not self.opened.wait(20):
            raise OSError(errno.EIO, "somebody waited for this gate in vain")

    def open_after(self, seconds):
        threading.Timer(seconds, self.opened.set).start()


# The file


def test_the_bytes_are_those_of_torch_with_checksums(tmp_path):
    """All but torch's random id of the file, which holds no checksum of ours."""
    shared = torch.arange(5000, dtype=torch.float32)
    content = {
        "state": {"all": shared, "rows": shared.view(50, 100)[::7, 3:], "n": [shared]},
        "half": torch.randn(300).bfloat16(),
        "empty": torch.zeros(0, 3),
        "plain": ("text", 1.5, None, {2: True}, torch.tensor(7)),
    }
    save_checkpoint_file(content, tmp_path / "a.pth")
    torch.save(content, (tmp_path / "b.pth").open("wb"))
    a, b = ((tmp_path / name).read_bytes() for name in ("a.pth", "b.pth"))
    with zipfile.ZipFile(tmp_path / "b.pth") as archive:
        assert zipfile.ZipFile(tmp_path / "a.pth").testzip() is None
        records = {x.filename.split("/", 1)[1] for x in archive.infolist()}
        assert {"data.pkl", *(f"data/{i}" for i in range(4))} < records  # four storages
        secret = next(x for x in archive.infolist() if x.filename.endswith("_id"))
    assert len(a) == len(b)
    differing = [i for i in range(len(a)) if a[i] != b[i]]
    assert len(differing) <= 40 + 4 + 4  # the id and its two checksums
    assert all(secret.header_offset < i for i in differing)
    assert sum(archive.start_dir <= i for i in differing) <= 4
    loaded = load_checkpoint_file(tmp_path / "a.pth")
    equal(loaded, content)
    state = loaded["state"]
    assert state["all"].data_ptr() == state["n"][0].data_ptr()
    assert names(tmp_path) == ["a.pth", "b.pth"]
    if hasattr(torch.serialization, "get_crc32_options"):  # as it was before
        assert torch.serialization.get_crc32_options()


def test_tensors_of_a_device_are_saved_as_the_hosts():
    storage = SimpleNamespace(device=torch.device("cuda:1"))
    tag = torch.serialization.location_tag
    assert tag(torch.zeros(1).untyped_storage()) == "cpu"
    with checkpoint_writing._own_way_of_torch():
        assert tag(storage) == "cpu"
        assert tag(torch.zeros(1, device="meta").untyped_storage()) == "meta"
    assert tag(storage) == "cuda:1"  # nobody else's files are changed


def test_the_tensors_may_change_while_the_disk_is_slow(tmp_path, monkeypatch):
    gate = Gate(monkeypatch)
    path, weight = tmp_path / "x.pth", torch.ones(1000)
    pointer = tmp_path / "pointer"
    saving = start_saving({"w": weight}, path, pointer=pointer)
    weight.zero_()
    assert not path.exists() and not pointer.exists()
    gate.open_after(0.2)
    # reading waits by itself
    assert load_checkpoint_file(path)["w"].eq(1).all()
    saving.finish()
    assert pointer.read_text() == str(path)


@contextlib.contextmanager
def file_size_limit(size):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_room_is_reserved_for_shared_memory_once(tmp_path):
    """The limit lies between what is written and what the views add up to."""
    weight = torch.ones(LARGE // 4)
    with file_size_limit(LARGE * 3 // 2):
        save_checkpoint_file({"w": weight, "v": [weight[1:]]}, tmp_path / "x.pth")
    assert (tmp_path / "x.pth").stat().st_size < LARGE * 1.1


def test_an_interruption_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "x.pth"
    save_checkpoint_file({"w": torch.ones(3)}, path)

    def half(content, file):
        file.write(b"PK\x03\x04 and so on")
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", half)
    with pytest.raises(KeyboardInterrupt):
        save_checkpoint_file({"w": torch.zeros(3)}, path)
    assert load_checkpoint_file(path)["w"].eq(1).all()
    assert names(tmp_path) == ["x.pth"]


def test_a_missing_folder_is_made_and_a_forbidden_one_named(tmp_path):
    save_checkpoint_file({}, tmp_path / "new" / "x.pth")
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointFileError, match=r"file/x\.pth was not written"):
        save_checkpoint_file({}, tmp_path / "file" / "x.pth")


# The hook


SETTINGS = {
    "plain": {"interval": 1},
    "keep two": {"interval": 1, "max_keep_ckpts": 2},
    "last only": {"interval": 3, "save_optimizer": False},
    "no last": {"interval": 2, "save_last": False, "save_param_scheduler": False},
    "begin": {"interval": 1, "save_begin": 3, "filename_tmpl": "e{}.pt"},
    "elsewhere": {"interval": 2, "out_dir": True},
    "iterations": {"interval": 4, "by_epoch": False, "max_keep_ckpts": 1},
    "best": {"interval": 1, "max_keep_ckpts": 1, "save_best": "acc"},
    "auto": {"interval": 3, "save_best": "auto", "rule": "greater"},
    "published": {"save_best": ["acc"], "published_keys": ["meta", "state_dict"]},
}


class Peer(CheckpointHook):
    """mmengine's way, with content that can be compared."""

    before_save_checkpoint = PlainCheckpointHook.before_save_checkpoint


def without_names(content):
    """Without folders, and what mmengine does not note."""
    hub = content.get("message_hub", {})
    info = hub.get("runtime_info", {})
    for key in info.keys() & {"last_ckpt", "best_ckpt"}:
        info[key] = Path(info[key]).name
    for part, key in (
        *((content["meta"], "weights"), (info, "best_keys")),
        (hub.get("resumed_keys", {}), "best_keys"),
    ):
        part.pop(key, None)
    return content


@pytest.mark.parametrize("setting", SETTINGS)
def test_every_setting_leaves_what_mmengine_leaves(tmp_path, monkeypatch, setting):
    """Names of files and what they hold, after 4 epochs, from mmengine's own hook.

    The disk is as slow as can be: no file is complete before the hook waits for it.
    """
    gate, finish = Gate(monkeypatch), Saver._finish

    def open_and_finish(saver, wait=True):
        if wait:
            gate.opened.set()
        finish(saver, wait)
        gate.opened.clear()

    monkeypatch.setattr(Saver, "_finish", open_and_finish)

    found = {}
    for kind in (PlainCheckpointHook, Peer):
        options = dict(SETTINGS[setting])
        work_dir = tmp_path / kind.__name__ / "run"
        folder = work_dir
        if options.get("out_dir"):
            options["out_dir"] = str(tmp_path / kind.__name__ / "out")
            folder = Path(options["out_dir"])
        iters = 10 if setting == "iterations" else None
        scores = [0.2, 0.5, 0.4, 0.6] if "save_best" in options else ()
        hook = kind(**options)
        name = f"equal {kind.__name__} {setting}"
        how = {"epochs": 4, "scores": scores, "iters": iters}
        toy(work_dir, name, hook, **how).train()
        if options.get("out_dir"):  # ours is in a folder that no other run has
            (folder,) = folder.iterdir()
            own = "run" if kind is Peer else "run-[0-9a-f]{12}"
            assert re.fullmatch(own, folder.name)
        files = {  # of a published one without its hash
            path.name.split("-")[0]: without_names(load_checkpoint_file(path))
            for path in folder.glob("*.p*")
            if path.suffix in (".pth", ".pt")
        }
        assert not [*folder.glob(".*")]
        found[kind] = files, Path(pointer(work_dir)).relative_to(folder)
    (ours, our_pointer), (theirs, their_pointer) = found.values()
    assert our_pointer == their_pointer
    assert ours and ours.keys() == theirs.keys()
    varying = (
        *("meta.time", "meta.cfg", "meta.experiment_name"),
        *("message_hub.runtime_info.cfg", "message_hub.runtime_info.experiment_name"),
        *("message_hub.log_scalars", "message_hub.runtime_info.eta"),  # seconds
    )
    for name, file in ours.items():
        equal(file, theirs[name], "", varying)
    if setting == "best":
        assert sorted(ours) == ["best_acc_epoch_4.pth", "epoch_4.pth"]
        assert "optimizer" not in ours["best_acc_epoch_4.pth"]


def test_the_content_is_that_of_mmengines_runner(tmp_path):
    """Both ways in one run: config, histories, schedulers and all."""
    saved = []

    def also(runner):
        meta = {"epoch": runner.epoch + 1, "iter": runner.iter}
        runner.save_checkpoint(str(tmp_path), f"mm_{meta['epoch']}.pth", meta=meta)
        saved.append(runner.cfg.pretty_text)
        runner.cfg.note = "changed while training"

    hook = PlainCheckpointHook(interval=1)
    runner = toy(tmp_path, "content", hook, Watch(after_train_epoch=also), epochs=2)
    runner.param_schedulers = [
        {"type": "MultiStepLR", "milestones": [1]},
        {"type": "MultiStepMomentum", "milestones": [1]},
    ]
    runner._train_dataloader.dataset.metainfo = {"classes": ("a", "b")}
    runner.train()
    for epoch in (1, 2):
        ours = load_checkpoint_file(tmp_path / f"epoch_{epoch}.pth")
        assert ours["meta"].pop("weights")  # what they are trained as: ours alone
        equal(ours, load_checkpoint_file(tmp_path / f"mm_{epoch}.pth"))
        assert ours["meta"]["cfg"] == saved[epoch - 1]
    assert len(ours["param_schedulers"]) == 2
    assert ours["meta"]["dataset_meta"] == {"classes": ("a", "b")}
    assert len(set(saved)) == 2


def test_the_loop_does_not_wait_for_the_disk_but_the_end_does(tmp_path, monkeypatch):
    gate = Gate(monkeypatch)
    seen = []

    def look(runner):
        if runner.iter == 9:  # in epoch 2, whose weights must not be in the file
            seen.append(names(tmp_path))
            gate.opened.set()
        if runner.iter == 11:
            wait_for_checkpoints()
            gate.opened.clear()
            gate.open_after(0.3)  # the end of training is reached long before

    def last(runner):
        assert names(tmp_path) == ["epoch_2.pth", "last_checkpoint"]

    watch = Watch(before_train_iter=look, after_train=last)
    hook = PlainCheckpointHook(interval=1, max_keep_ckpts=1)
    toy(tmp_path, "slow disk", hook, watch).train()
    assert seen == [[f".epoch_1.pth.{os.getpid()}.tmp"]]
    assert gate.opened.is_set()
    assert pointer(tmp_path) == str(tmp_path / "epoch_2.pth")


def test_what_a_validation_after_the_training_saves_is_waited_for(
    tmp_path, monkeypatch
):
    """It has the name of the best one before it, which must not be deleted then."""
    monkeypatch.setattr(checkpoint_writing.os, "fsync", lambda file: time.sleep(0.1))
    seen = []
    watch = Watch(
        after_train=lambda runner: runner.val_loop.run(),
        after_run=lambda runner: seen.append(names(tmp_path)),
    )
    hook = PlainCheckpointHook(interval=1, save_best="acc")
    toy(tmp_path, "late", hook, watch, epochs=1, scores=[0.2, 0.5]).train()
    assert seen == [["best_acc_epoch_1.pth", "epoch_1.pth", "last_checkpoint"]]
    hub = load_checkpoint_file(tmp_path / "best_acc_epoch_1.pth")["message_hub"]
    assert hub["runtime_info"]["best_score"] == 0.5


def test_the_steps_of_a_save_and_that_the_next_one_waits(tmp_path, monkeypatch):
    """On a disk that is slower than an epoch; old files go last."""
    steps = []

    def note(owner, what, name):
        call = getattr(owner, what)

        def noted(*args, **kwargs):
            steps.append((what, name(*args)))
            time.sleep(0.02)
            return call(*args, **kwargs)

        monkeypatch.setattr(owner, what, noted)

    def begin(runner):
        note(os, "fsync", lambda file: os.path.basename(os.readlink(f"/dev/fd/{file}")))
        note(Path, "replace", lambda draft, path: path.name)
        note(Path, "unlink", lambda path: path.name)

    hook = PlainCheckpointHook(interval=1, max_keep_ckpts=1)
    toy(tmp_path, "steps", hook, Watch(before_train=begin), epochs=2).train()

    def save(epoch):
        file = f"epoch_{epoch}.pth"
        for name in (file, f"{file}.json", "last_checkpoint"):
            yield "fsync", f".{name}.{os.getpid()}.tmp"
            yield "replace", name
            yield "fsync", tmp_path.name  # the new name itself

    removed = [("unlink", "epoch_1.pth"), ("unlink", "epoch_1.pth.json")]
    assert [x for x in steps if x[0] != "unlink" or not x[1].endswith(".tmp")] == [
        *(*save(1), *save(2), *removed)
    ]
    assert names(tmp_path) == ["epoch_2.pth", "last_checkpoint"]


def test_a_full_disk_is_told_by_the_loop_and_leaves_the_previous_one(
    tmp_path, monkeypatch
):
    """It shows in the thread that writes, whose error the next iteration raises."""

    def fill(runner):
        wait_for_checkpoints()
        if runner.iter == 8:
            monkeypatch.setattr(checkpoint_writing.os, "fsync", full)

    def full(file):
        raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))

    hook = PlainCheckpointHook(interval=1, max_keep_ckpts=1)
    how = {"epochs": 3, "size": LARGE}
    runner = toy(tmp_path, "full", hook, Watch(before_train_iter=fill), **how)
    with pytest.raises(CheckpointFileError) as caught:
        runner.train()
    text, reason = str(caught.value), "Disk quota exceeded"
    lost = tmp_path / "epoch_2.pth"
    assert f"{lost} was not written: {reason} (it needs about 10" in text
    assert runner.iter == 12
    log = "".join(p.read_text() for p in tmp_path.glob("*/*.log"))
    assert text in log and caught.value.logged
    monkeypatch.undo()
    assert names(tmp_path) == ["epoch_1.pth", "last_checkpoint"]
    assert pointer(tmp_path) == str(tmp_path / "epoch_1.pth")
    resumed = toy(tmp_path, "full 2", hook, resume=pointer(tmp_path), **how)
    resumed.train()
    assert resumed.iter == 18
    assert names(tmp_path) == ["epoch_3.pth", "last_checkpoint"]


def test_a_best_one_that_finds_no_room_leaves_the_one_before(tmp_path):
    hook = PlainCheckpointHook(interval=-1, save_last=False, save_best="acc")
    with contextlib.ExitStack() as stack:

        def fill(runner):
            wait_for_checkpoints()
            if runner.iter == 8:
                stack.enter_context(file_size_limit(LARGE // 2))

        watch = Watch(before_train_iter=fill)
        runner = toy(tmp_path, "best", hook, watch, size=LARGE, scores=[0.1, 0.2])
        with pytest.raises(CheckpointFileError, match=r"best_acc_epoch_2\.pth was not"):
            runner.train()
    assert names(tmp_path) == ["best_acc_epoch_1.pth"]
    assert load_checkpoint_file(tmp_path / "best_acc_epoch_1.pth")


def test_a_run_resumes_right_after_one_that_was_interrupted(tmp_path, monkeypatch):
    gate, first = Gate(monkeypatch), tmp_path / "epoch_1.pth"

    def interrupt(runner):
        raise KeyboardInterrupt

    hook = PlainCheckpointHook(interval=1)
    runner = toy(tmp_path, "cut", hook, Watch(after_train_epoch=interrupt))
    with pytest.raises(KeyboardInterrupt):
        runner.train()
    assert not first.exists()
    gate.open_after(0.2)
    resumed = toy(tmp_path, "cut 2", PlainCheckpointHook(interval=1), resume=first)
    resumed.train()
    assert resumed.iter == 12


def test_kept_checkpoints_survive_a_resume(tmp_path):
    options = {"interval": 1, "max_keep_ckpts": 2}
    toy(tmp_path, "keep", PlainCheckpointHook(**options), epochs=3).train()
    assert names(tmp_path)[:-1] == ["epoch_2.pth", "epoch_3.pth"]
    how = {"epochs": 4, "resume": pointer(tmp_path)}
    toy(tmp_path, "keep on", PlainCheckpointHook(**options), **how).train()
    assert names(tmp_path)[:-1] == ["epoch_3.pth", "epoch_4.pth"]


@pytest.mark.parametrize("linux", [True, False])
def test_a_file_system_that_cannot_reserve_is_no_error(tmp_path, monkeypatch, linux):
    def refuse(*args):
        checkpoint_writing.ctypes.set_errno(errno.EOPNOTSUPP)
        return -1

    library = SimpleNamespace(**({"fallocate": refuse} if linux else {}))
    monkeypatch.setattr(checkpoint_writing.ctypes, "CDLL", lambda *_, **__: library)
    save_checkpoint_file({"w": torch.ones(3)}, tmp_path / "x.pth")
    assert load_checkpoint_file(tmp_path / "x.pth")["w"].eq(1).all()


def train_on_rank(rank, folder, case):
    """A run whose second save fails on rank 0; what each rank raised, and when."""

    def spoil(runner):
        wait_for_checkpoints()
        if runner.epoch != 2 or rank != 0:
            return
        if case == "loop":
            checkpoint_writing._reserve = full
        elif case == "thread":
            checkpoint_writing.flush = full
        else:
            runner.message_hub.state_dict = full

    def full(*args):
        raise OSError(errno.ENOSPC, "the disk is full")

    hook = PlainCheckpointHook(interval=2, max_keep_ckpts=1)
    watch = Watch(before_train_epoch=spoil)
    runner = toy(Path(folder), f"ranks {case}", hook, watch, epochs=6)
    try:
        runner.train()
    except (CheckpointFileError, OSError) as error:
        return runner.epoch, str(error)
    return None


@pytest.mark.parametrize("case", ["loop", "thread", "content"])
def test_all_ranks_stop_where_rank_0_cannot_save(tmp_path, case):
    ((epoch, text), other) = run_ranks(train_on_rank, 2, str(tmp_path), case)
    assert (epoch, text) == other
    assert "the disk is full" in text
    # in the thread it is known at the end of the next epoch
    assert epoch == (4 if case == "thread" else 3)
    assert names(tmp_path) == ["epoch_2.pth", "last_checkpoint"]
    assert load_checkpoint_file(tmp_path / "epoch_2.pth")["meta"]["epoch"] == 2


@pytest.mark.parametrize("what", ["folder", "runner"])
def test_what_only_mmengines_hook_can_serve_is_refused(tmp_path, monkeypatch, what):
    """FlexibleRunner writes by a strategy of its own."""
    options = {"out_dir": "s3://bucket"} if what == "folder" else {}
    runner = toy(tmp_path, f"other {what}", PlainCheckpointHook(**options), epochs=1)
    if what == "runner":
        served = "mmssl_ext.engine.checkpoint.hook.Runner"
        monkeypatch.setattr(served, type("X", (), {}))
    with pytest.raises(ConfigError, match=r"set default_hooks\.checkpoint\.type=Check"):
        runner.train()
