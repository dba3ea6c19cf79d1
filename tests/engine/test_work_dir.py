"""One run per work dir, and none in a folder that cannot be written."""

import contextlib
import errno
import json
import multiprocessing
import os
import re
import resource
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
from tests.harness import config, write_images

forkserver = multiprocessing.get_context("forkserver")
forkserver.set_forkserver_preload(["mmssl_ext.models", "mmssl_ext.run.launch"])


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return write_images(tmp_path_factory.mktemp("images"))


def in_child(function, *args):
    """Call a function in a process of its own; returns what it returned or raised."""
    ours, theirs = forkserver.Pipe()
    child = forkserver.Process(target=_report, args=(theirs, function, args))
    child.start()
    theirs.close()
    try:
        return ours.recv()
    finally:
        child.join(30)


def _report(pipe, function, args):
    try:
        pipe.send(function(*args))
    except UserError as error:
        pipe.send(f"refused: {error}")


@contextlib.contextmanager
def held_elsewhere(folder):
    """A run in another process that holds a folder."""
    code = (
        "import pathlib, sys, time; from mmssl_ext.engine.resilience.lock import Lock\n"
        "with Lock(pathlib.Path(sys.argv[1]), 'x').held():\n"
        "    print('held', flush=True); time.sleep(600)"
    )
    command = [sys.executable, "-W", "ignore", "-c", code, str(folder / LOCK_FILE)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline() == "held\n"
        yield process
    finally:
        process.kill()
        process.wait()


@pytest.mark.fault("R25")
def test_the_second_run_is_refused_before_anything_is_built(images, tmp_path):
    work_dir = tmp_path / "run"
    path = tmp_path / "small.py"
    path.write_text(config(images, work_dir).pretty_text)
    with held_elsewhere(work_dir) as first:
        known = (
            rf"The work dir {work_dir} is in use by process {first.pid} on "
            rf"{re.escape(socket.gethostname())} since \d{{4}}-\d\d-\d\d \d\d:\d\d:\d\d"
        )
        with pytest.raises(UserError, match=known):
            train(path)
        assert [file.name for file in work_dir.iterdir()] == [LOCK_FILE]
        first.send_signal(signal.SIGSTOP)  # it holds the folder still
        with pytest.raises(UserError, match=known):
            train(path)
        first.kill()
        while is_alive(first.pid):  # nobody has asked for its exit code yet
            time.sleep(0.01)
        train(path)  # a killed run's lock is taken over
    assert (work_dir / "epoch_1.pth").is_file()
    assert not (work_dir / LOCK_FILE).exists()


HERE = socket.gethostname()
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
@pytest.mark.parametrize(("differs", "variables", "refused"), OWNERS)
def test_who_may_take_a_lock_over(tmp_path, monkeypatch, differs, variables, refused):
    for name in ("SLURM_JOB_ID", "SLURM_RESTART_COUNT", "TORCHELASTIC_RUN_ID"):
        monkeypatch.delenv(name, raising=False)
    path = tmp_path / LOCK_FILE
    parent = os.getppid()  # alive for sure
    path.write_text(json.dumps(identity(parent) | differs))
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    lock = Lock(path, "It")
    if refused:
        before = path.read_text()
        with pytest.raises(UserError, match=f"process {parent}.*delete {path}"):
            lock.held().__enter__()
        assert path.read_text() == before
    else:
        with lock.held():
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
@pytest.mark.parametrize(("differs", "reach", "refused"), HELD)
def test_a_lock_that_nobody_holds_is_free(
    tmp_path, monkeypatch, differs, reach, refused
):
    """As far as the file system shows locks to all machines that share it."""
    monkeypatch.setattr(lock, "locks_reach_all", lambda path: reach)
    path = tmp_path / LOCK_FILE
    parent = os.getppid()  # alive: its number says nothing
    path.write_text(json.dumps(identity(parent) | {"held": True} | differs))
    if refused:
        with pytest.raises(UserError, match=f"process {parent}.*delete {path}"):
            Lock(path, "It").held().__enter__()
    else:
        with Lock(path, "It").held():
            assert json.loads(path.read_text())["pid"] == os.getpid()


@pytest.mark.fault("R25")
def test_a_run_killed_in_a_container_can_be_started_again(tmp_path):
    """Namespaces stand in for the containers; the process lives on outside of one."""
    code = (  # without torch
        "import pathlib, sys, time\n"
        "from mmssl_ext.engine.resilience.lock import Lock\n"
        "with Lock(pathlib.Path(sys.argv[1]), 'It').held():\n"
        "    print('held', flush=True); time.sleep(float(sys.argv[2]))"
    )
    path = str(tmp_path / LOCK_FILE)
    container = ["unshare", "-p", "-u", "-f", "--mount-proc", "--kill-child"]
    container += ["sh", "-c", 'hostname "$0" && exec "$@"']
    if shutil.which("unshare") is None or subprocess.call([*container, "box", "true"]):
        pytest.skip("no right to make namespaces")
    command = [sys.executable, "-W", "ignore", "-c", code, path]
    one, two = ([*container, name, *command] for name in ("box-1", "box-2"))
    first = subprocess.Popen([*one, "600"], stdout=subprocess.PIPE, text=True)
    try:
        assert first.stdout.readline() == "held\n"
        second = subprocess.run([*two, "0"], capture_output=True, text=True)
        assert second.returncode == 1
        assert "is in use by process 1 on box-1 since" in second.stderr
        assert json.loads(Path(path).read_text())["pid"] == 1  # as it is in there
    finally:
        first.kill()
        first.wait()
    second = subprocess.run([*two, "0"], capture_output=True, text=True)
    assert (second.returncode, second.stdout) == (0, "held\n"), second.stderr
    assert not Path(path).exists()


@pytest.mark.fault("R25")
@pytest.mark.parametrize("alive", [True, False])
def test_without_locks_of_the_file_system_the_owner_counts(
    tmp_path, monkeypatch, alive
):
    def refuse(file, blocking):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(lock, "lock_descriptor", refuse)
    path = tmp_path / LOCK_FILE
    with Lock(path, "It").held() as first:
        assert first.inheritable == () and not json.loads(path.read_text())["held"]
        if not alive:
            path.write_text(json.dumps(first._written | {"start": "1"}))
            with Lock(path, "It").held():
                pass
            return
        with pytest.raises(UserError, match=f"process {os.getpid()} on .*delete"):
            Lock(path, "It").held().__enter__()


def killed(held):
    """Leave a lock as a process does that is killed."""
    held.close()


def test_workers_that_outlive_a_killed_run_do_not_hold_its_lock(tmp_path):
    path = tmp_path / LOCK_FILE
    with Lock(path, "It").held() as first:
        read, write = os.pipe()
        worker = os.fork()
        if worker == 0:
            os.write(write, b"forked")
            time.sleep(600)
        os.read(read, 6)
        killed(first)
        try:
            with Lock(path, "It").held():
                pass
        finally:
            os.kill(worker, signal.SIGKILL)
            os.waitpid(worker, 0)


def test_what_a_killed_process_started_is_waited_for_and_named(tmp_path, monkeypatch):
    """A program that it handed the lock to, as a chain does to its stages."""
    path = tmp_path / LOCK_FILE
    gone = subprocess.Popen([sys.executable, "-c", ""])
    with Lock(path, "It").held() as held:
        held.give_to(gone.pid)
        child = subprocess.Popen(["sleep", "600"], pass_fds=held.inheritable)
        gone.wait()
        monkeypatch.setattr(lock, "_PATIENCE", 0.0)
        text = f"in use by what process {gone.pid} on .* has started and left behind"
        with pytest.raises(UserError, match=text):
            Lock(path, "It").held().__enter__()
        killed(held)
        with pytest.raises(UserError, match=text):
            Lock(path, "It").held().__enter__()
        child.kill()
        child.wait()
        with Lock(path, "It").held():
            pass


def test_a_requeued_job_waits_for_the_lock_of_the_machine_that_is_gone(
    tmp_path, monkeypatch
):
    path = tmp_path / LOCK_FILE
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
        with pytest.raises(UserError, match="is in use by process"):
            Lock(path, "It").held().__enter__()


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


def test_a_lock_taken_over_is_not_deleted_by_its_first_owner(tmp_path):
    path = tmp_path / LOCK_FILE
    with Lock(path, "It").held():
        text = json.dumps({**json.loads(path.read_text()), "host": "far"})
        path.write_text(text)
    assert path.read_text() == text


@pytest.mark.parametrize(
    "left",
    [
        *("", "{", "[]", "{}", "a pipe"),
        *(
            json.dumps({"pid": pid, "host": socket.gethostname(), "job": None})
            for pid in ("7", None, True, -1, 10**30)
        ),
    ],
)
def test_a_file_that_is_no_lock_is_replaced(tmp_path, left):
    if left == "a pipe":
        os.mkfifo(tmp_path / LOCK_FILE)
    else:
        (tmp_path / LOCK_FILE).write_text(left)
    with hold(tmp_path):
        pass
    assert not list(tmp_path.iterdir())


def take_often(folder, number, rounds):
    """Take a stale lock at the same time as others; returns how often it was ours."""
    held = []
    for turn in range(rounds):
        path = Path(folder, f"{turn}.lock")
        ready = Path(folder, f"{turn}.ready.{number}")
        ready.touch()
        while len(list(Path(folder).glob(f"{turn}.ready.*"))) < 4:
            pass
        lock = Lock(path, "It").held()
        with contextlib.suppress(UserError):
            lock.__enter__()
            held.append(lock)
    Path(folder, f"{rounds}.ready.{number}").touch()
    while len(list(Path(folder).glob(f"{rounds}.ready.*"))) < 4:
        pass  # alive until all have judged
    return len(held)


def test_only_one_of_many_takes_a_stale_lock(tmp_path):
    rounds = 25
    stale = json.dumps(identity(os.getpid()) | {"start": "0"})
    for turn in range(rounds):
        (tmp_path / f"{turn}.lock").write_text(stale)
    pipes = []
    for number in range(4):
        ours, theirs = forkserver.Pipe()
        args = (theirs, take_often, (str(tmp_path), number, rounds))
        forkserver.Process(target=_report, args=args).start()
        pipes.append(ours)
    assert sum(pipe.recv() for pipe in pipes) == rounds


def write_as_nobody(folder):
    """Try as a user whom permissions bind: root writes anywhere."""
    if os.getuid() == 0:
        os.setgroups([])
        os.setuid(65534)
    with hold(folder):
        return "written"


@pytest.mark.fault("R25")
def test_a_folder_without_permission_is_refused(tmp_path):
    for folder in (tmp_path, *tmp_path.parents[:2]):
        folder.chmod(0o755)  # pytest's own are closed to others
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o555)
    for folder in (locked, locked / "new" / "run"):
        found = in_child(write_as_nobody, str(folder))
        assert f"The work dir {folder} cannot be written: Permission denied" in found
        assert "--work-dir" in found
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    assert in_child(write_as_nobody, str(tmp_path / "open")) == "written"


@contextlib.contextmanager
def mounted(folder, options):
    """A file system of its own; skipped where there is no right to mount."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", options, "none", str(folder)]
    try:
        done = subprocess.run(command, capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("there is no mount")
    if done.returncode:
        pytest.skip(f"no right to mount: {done.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.fault("R25")
def test_a_read_only_file_system_stops_a_run_before_it_is_built(images, tmp_path):
    path = tmp_path / "small.py"
    path.write_text(config(images, tmp_path / "disk" / "run").pretty_text)
    with (
        mounted(tmp_path / "disk", "ro,size=1m"),
        pytest.raises(UserError, match=r"disk/run cannot be written: Read-only file"),
    ):
        train(path)


@pytest.mark.fault("R25")
def test_a_full_disk_stops_a_run_before_it_is_built(images, tmp_path):
    disk = tmp_path / "disk"
    path = tmp_path / "small.py"
    path.write_text(config(images, disk / "run").pretty_text)
    with mounted(disk, "size=1m"):
        (disk / "other").write_bytes(bytes(1000 * 1024))
        full = r"cannot be written: No space left on device; \d+ bytes are free there"
        with pytest.raises(UserError, match=full):
            train(path)
        assert not list((disk / "run").iterdir())
        (disk / "other").unlink()
        check_writable(disk / "run")


def write_with_limit(folder):
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
    check_writable(folder)


@pytest.mark.fault("R25")
def test_a_limit_of_file_sizes_counts_as_no_room(tmp_path):
    found = in_child(write_with_limit, str(tmp_path / "run"))
    assert "cannot be written: File too large" in found
    assert not list((tmp_path / "run").iterdir())


def test_a_file_in_the_place_of_the_folder(tmp_path):
    (tmp_path / "file").write_text("x")
    for path in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(UserError, match=f"The work dir {path} cannot be written"):
            check_writable(path)
