"""One run per work dir, and none in a folder that cannot be written."""

import contextlib
import errno
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from mmssl_ext.engine.resilience import lock
from mmssl_ext.engine.resilience.lock import Lock, locks_reach_all
from mmssl_ext.engine.resilience.processes import identity, is_alive
from mmssl_ext.errors import UserError
from mmssl_ext.run.launch import train
from mmssl_ext.run.work_dir import LOCK_FILE, check_writable, hold
from tests.distributed import server
from tests.harness import config

HOLD = """if True:
    import pathlib, sys, time
    from mmssl_ext.engine.resilience.lock import Lock
    with Lock(pathlib.Path(sys.argv[1]), "It").held():
        print("held", flush=True)
        time.sleep(600)
"""


def in_child(function, *args, count=1):
    """Call a function in processes of its own; what each returned or raised."""
    with server().Pool(count) as pool:
        calls = [pool.apply_async(function, (n, *args)) for n in range(count)]
        return [call.get(60) for call in calls]


@contextlib.contextmanager
def held_elsewhere(path):
    """A process that holds a lock."""
    command = [sys.executable, "-W", "ignore", "-c", HOLD, str(path)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline() == "held\n"
        yield process
    finally:
        process.kill()
        process.wait()


def refused(path, match):
    """Nobody else gets the lock, and that is said so."""
    with pytest.raises(UserError, match=match):
        Lock(path, "It").held().__enter__()


@pytest.fixture
def path(tmp_path):
    return tmp_path / LOCK_FILE


@pytest.mark.fault("R25")
def test_the_second_run_is_refused_before_anything_is_built(images, tmp_path):
    work_dir = tmp_path / "run"
    file = tmp_path / "small.py"
    file.write_text(config(images, work_dir).pretty_text)
    work_dir.mkdir()
    with held_elsewhere(work_dir / LOCK_FILE) as first:
        known = (
            rf"The work dir {work_dir} is in use by process {first.pid} on "
            rf"{re.escape(socket.gethostname())} since \d{{4}}-\d\d-\d\d \d\d:\d\d:\d\d"
        )
        for _ in range(2):
            with pytest.raises(UserError, match=known):
                train(file)
            assert [found.name for found in work_dir.iterdir()] == [LOCK_FILE]
            first.send_signal(signal.SIGSTOP)  # it holds the folder still
        first.kill()
        while is_alive(first.pid):  # nobody has asked for its exit code yet
            time.sleep(0.01)
        train(file)  # a killed run's lock is taken over
    assert (work_dir / "epoch_1.pth").is_file()
    assert not (work_dir / LOCK_FILE).exists()


MINE = {"SLURM_JOB_ID": "7", "SLURM_RESTART_COUNT": "1"}
RUN = {"TORCHELASTIC_RUN_ID": "a1b2"}
OWNERS = [  # what the lock says otherwise than this process, our variables, is refused
    ({}, {}, True),
    ({"start": "1"}, {}, False),  # the number is another process's by now
    ({"boot": "before"}, {}, False),  # this machine was started again
    ({"boot": "before", "pids": "x"}, {}, False),
    ({"pids": "pid:[1]"}, {}, True),  # another container: who knows
    ({"host": "far"}, {}, True),
    ({"host": "far", "job": "7", "requeued": 0}, MINE, False),  # requeued since
    ({"host": "far", "job": "7", "requeued": 1}, MINE, True),  # beside us in the job
    ({"host": "far", "job": "8", "requeued": 0}, MINE, True),
    ({"job": "7", "requeued": 0}, MINE, True),  # lives: seen from here
    ({"host": "far", "torchrun": "a1b2"}, RUN, False),  # its workers started again
    ({"host": "far", "torchrun": "c3d4"}, RUN, True),
    ({"host": "far", "torchrun": None}, {"TORCHELASTIC_RUN_ID": "none"}, True),
    ({"torchrun": "a1b2"}, RUN, True),
]


@pytest.mark.fault("R25")
@pytest.mark.parametrize(("differs", "variables", "counts"), OWNERS)
def test_who_may_take_a_lock_over(path, monkeypatch, differs, variables, counts):
    for name in ("SLURM_JOB_ID", "SLURM_RESTART_COUNT", "TORCHELASTIC_RUN_ID"):
        monkeypatch.delenv(name, raising=False)
    parent = os.getppid()  # alive for sure
    path.write_text(json.dumps(identity(parent) | differs))
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    if counts:
        before = path.read_text()
        refused(path, f"process {parent}.*delete {path}")
        assert path.read_text() == before
    else:
        with Lock(path, "It").held():
            assert json.loads(path.read_text())["pid"] == os.getpid()
        assert not path.exists()


HELD = [  # what a file says that nobody holds any more, and whether it counts still
    ({"pids": "pid:[1]"}, True, False),  # its container is gone
    ({"pids": "pid:[1]", "host": "3f2a"}, True, False),  # which had a name of its own
    ({"host": "far", "boot": "other"}, True, False),
    ({"host": "far", "boot": "other"}, False, True),  # may hold it there
    ({"host": "far", "boot": "other", "held": False}, True, True),
    ({"pids": "pid:[1]", "held": False}, True, True),
]


@pytest.mark.fault("R25")
@pytest.mark.parametrize(("differs", "reach", "counts"), HELD)
def test_a_lock_that_nobody_holds_is_free(path, monkeypatch, differs, reach, counts):
    monkeypatch.setattr(lock, "locks_reach_all", lambda path: reach)
    parent = os.getppid()  # alive: its number says nothing
    path.write_text(json.dumps(identity(parent) | {"held": True} | differs))
    if counts:
        refused(path, f"process {parent}.*delete {path}")
    else:
        with Lock(path, "It").held():
            assert json.loads(path.read_text())["pid"] == os.getpid()


@pytest.mark.fault("R25")
def test_without_locks_of_the_file_system_the_owner_counts(path, monkeypatch):
    def refuse(file, blocking):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(lock, "lock_descriptor", refuse)
    with Lock(path, "It").held() as first:
        found = json.loads(path.read_text())
        assert first.inheritable == () and not found["held"]
        refused(path, f"process {os.getpid()} on .*delete")
        path.write_text(json.dumps(found | {"start": "1"}))  # has ended
        with Lock(path, "It").held():
            pass


def test_workers_that_outlive_a_killed_run_do_not_hold_its_lock(path):
    with Lock(path, "It").held() as first:
        read, write = os.pipe()
        worker = os.fork()
        if worker == 0:
            os.write(write, b"forked")
            time.sleep(600)
        os.read(read, 6)
        first.close()
        try:
            with Lock(path, "It").held():
                pass
        finally:
            os.kill(worker, signal.SIGKILL)
            os.waitpid(worker, 0)


def test_what_a_killed_process_started_is_waited_for_and_named(path, monkeypatch):
    gone = subprocess.Popen([sys.executable, "-c", ""])
    with Lock(path, "It").held() as held:
        held.give_to(gone.pid)
        child = subprocess.Popen(["sleep", "600"], pass_fds=held.inheritable)
        gone.wait()
        monkeypatch.setattr(lock, "_PATIENCE", 0.0)
        text = f"in use by what process {gone.pid} on .* has started and left behind"
        refused(path, text)
        held.close()
        refused(path, text)
        child.kill()
        child.wait()
        with Lock(path, "It").held():
            pass


def test_a_requeued_job_waits_for_the_lock_of_the_machine_that_is_gone(
    path, monkeypatch
):
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.delenv("SLURM_RESTART_COUNT", raising=False)
    with contextlib.ExitStack() as stack:
        stack.enter_context(Lock(path, "It").held())
        monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
        threading.Timer(0.3, stack.close).start()  # the server forgets it
        with Lock(path, "It").held():
            assert json.loads(path.read_text())["requeued"] == 1
    monkeypatch.setattr(lock, "_LEASE", 0.1)
    monkeypatch.setenv("SLURM_RESTART_COUNT", "0")
    with Lock(path, "It").held():
        monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
        refused(path, "is in use by process")


MOUNTS = {
    "ext4 rw": True,
    "overlay rw,lowerdir=/a": True,
    "nfs4 rw,vers=4.2,local_lock=none": True,
    "nfs rw,vers=3,local_lock=flock": False,
    "nfs rw,nolock,local_lock=all": False,
    "lustre rw,flock": True,
    "lustre rw,localflock": False,
    "fuse.sshfs rw": False,
    "9p rw": False,
}


@pytest.mark.parametrize("mount", MOUNTS)
def test_which_file_systems_show_locks_to_all_machines(tmp_path, monkeypatch, mount):
    device = os.stat(tmp_path).st_dev
    kind, options = mount.split()
    number = f"{os.major(device)}:{os.minor(device)}"
    table = tmp_path / "mountinfo"
    table.write_text(
        "22 1 0:21 / /proc rw - proc proc rw\n"
        f"30 1 {number} / /data rw,noatime shared:1 - {kind} host:/data {options}\n"
    )
    monkeypatch.setattr(lock, "_MOUNTS", table)
    assert locks_reach_all(tmp_path) is MOUNTS[mount]
    table.write_text("22 1 0:21 / /proc rw - proc proc rw\n")
    assert not locks_reach_all(tmp_path)
    assert not locks_reach_all(tmp_path / "missing")


def test_a_lock_taken_over_is_not_deleted_by_its_first_owner(path):
    with Lock(path, "It").held():
        text = json.dumps({**json.loads(path.read_text()), "host": "far"})
        path.write_text(text)
    assert path.read_text() == text


NO_LOCKS = ["", "{", "[]", "{}", "a pipe"] + [
    json.dumps({"pid": pid, "host": socket.gethostname(), "job": None})
    for pid in ("7", None, True, -1, 10**30)
]


@pytest.mark.parametrize("left", NO_LOCKS)
def test_a_file_that_is_no_lock_is_replaced(path, left):
    if left == "a pipe":
        os.mkfifo(path)
    else:
        path.write_text(left)
    with hold(path.parent):
        assert json.loads(path.read_text())["pid"] == os.getpid()
    assert not list(path.parent.iterdir())


def take_often(number, folder, rounds, count):
    """Take a stale lock at the same time as others; returns how often it was ours."""
    held = []

    def meet(turn):  # alive until all have judged
        Path(folder, f"{turn}.ready.{number}").touch()
        while len(list(Path(folder).glob(f"{turn}.ready.*"))) < count:
            time.sleep(0.0002)

    for turn in range(rounds):
        meet(turn)
        lock = Lock(Path(folder, f"{turn}.lock"), "It").held()
        with contextlib.suppress(UserError):
            lock.__enter__()
            held.append(lock)
    meet(rounds)
    return len(held)


def test_only_one_of_many_takes_a_stale_lock(tmp_path):
    stale = json.dumps(identity(os.getpid()) | {"start": "0"})
    for turn in range(25):
        (tmp_path / f"{turn}.lock").write_text(stale)
    assert sum(in_child(take_often, str(tmp_path), 25, 4, count=4)) == 25


def write_as_nobody(_, folder):
    """Try as a user whom permissions bind: root writes anywhere."""
    if os.getuid() == 0:
        os.setgroups([])
        os.setuid(65534)
    try:
        with hold(folder):
            return "written"
    except UserError as error:
        return str(error)


@pytest.mark.fault("R25")
def test_a_folder_without_permission_is_refused(tmp_path):
    for folder in (tmp_path, *tmp_path.parents[:2]):
        folder.chmod(0o755)  # pytest's own are closed to others
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o555)
    for folder in (locked, locked / "new" / "run"):
        (found,) = in_child(write_as_nobody, str(folder))
        assert f"The work dir {folder} cannot be written: Permission denied" in found
        assert "--work-dir" in found
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    assert in_child(write_as_nobody, str(tmp_path / "open")) == ["written"]


@contextlib.contextmanager
def mounted(folder):
    """A file system of 1 MiB; skipped where there is no right to mount."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(folder)]
    if shutil.which("mount") is None or subprocess.call(command):
        pytest.skip("no mount, or no right to it")
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.fault("R25")
def test_a_full_disk_stops_a_run_before_it_is_built(images, tmp_path):
    disk, path = tmp_path / "disk", tmp_path / "small.py"
    path.write_text(config(images, disk / "run").pretty_text)
    with mounted(disk):
        with contextlib.suppress(OSError):
            (disk / "other").write_bytes(bytes(1000 * 1024))
        words = r"No space left on device; \d+ bytes are free there"
        with pytest.raises(UserError, match=f"disk/run cannot be written: {words}"):
            train(path)
        assert not list((disk / "run").iterdir())
        (disk / "other").unlink()
        check_writable(disk / "run")


def test_a_file_in_the_place_of_the_folder(tmp_path):
    (tmp_path / "file").write_text("x")
    for path in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(UserError, match=f"The work dir {path} cannot be written"):
            check_writable(path)
