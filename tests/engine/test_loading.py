"""Workers of data loaders: what signals do to them, and how their faults are told."""

import multiprocessing
import os
import signal
import subprocess
import threading
import time
from functools import partial
from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset

from mmssl_ext.engine.resilience.loading import (
    TIMEOUT,
    WorkerError,
    end_workers,
    guard_workers,
)
from mmssl_ext.engine.resilience.processes import is_alive
from tests.distributed import server
from tests.harness import REPO, SLOW
from tests.warm.commands import Command, python


class Numbers(Dataset):
    """Squares; some of them take for ever, or end the worker once it is asked again."""

    def __init__(self, folder=None, hangs=(), dies=(), slow=0.0):
        self.folder, self.hangs, self.dies, self.slow = folder, hangs, dies, slow

    def __len__(self):
        return 40

    def __getitem__(self, index):
        time.sleep(self.slow)
        if index in self.hangs:
            time.sleep(1000)
        if index in self.dies:
            time.sleep(0.3)  # until what it has read before is on its way
            os.kill(os.getpid(), signal.SIGKILL)
        return torch.tensor(index**2)


class Stream(IterableDataset):
    def __iter__(self):
        share = torch.utils.data.get_worker_info().id
        yield from range(share * 10, share * 10 + (3 if share else 9))


def note(folder, worker):
    Path(folder, str(worker)).write_text(str(os.getpid()))


def guarded(dataset, **options):
    options = {"num_workers": 2, "batch_size": 4, **options}
    return guard_workers(DataLoader(dataset, **options))


def processes(iterator):
    return [worker.pid for worker in iterator._workers]


def gone_within(seconds, pids):
    end = time.monotonic() + seconds
    while any(map(is_alive, pids)) and time.monotonic() < end:
        time.sleep(0.02)
    return not any(map(is_alive, pids))


@pytest.fixture(autouse=True)
def _no_worker_is_left():
    yield
    end_workers()
    assert not multiprocessing.active_children()


@pytest.mark.fault("R8")
@pytest.mark.parametrize("context", ["fork", SLOW("spawn"), SLOW("forkserver")])
def test_workers_outlive_signals_of_others_but_not_of_their_parent(context, tmp_path):
    if context == "forkserver":
        server()
    loader = guarded(
        Numbers(slow=0.01),
        multiprocessing_context=context,
        worker_init_fn=partial(note, tmp_path),
    )
    iterator = iter(loader)
    got = [next(iterator)]
    pids = processes(iterator)
    for number in ("TERM", "USR1"):
        subprocess.run(["kill", f"-{number}", *map(str, pids)], check=True)
    time.sleep(0.2)
    got += list(iterator)  # and all of it comes
    assert torch.cat(got).tolist() == [i**2 for i in range(40)]
    # what the loader wanted called in the workers was called
    assert sorted(int(f.read_text()) for f in tmp_path.iterdir()) == sorted(pids)

    iterator = iter(guarded(Numbers(hangs=[0, 4]), multiprocessing_context=context))
    workers = iterator._workers
    time.sleep(0.5 if context == "fork" else 0)
    for worker in workers:
        worker.terminate()  # as multiprocessing does when this process ends
    assert gone_within(60, processes(iterator))


@pytest.mark.fault("R23")
def test_a_signal_during_the_start_of_workers_waits():
    iterator = iter(guarded(Numbers(), num_workers=3))
    for worker in iterator._workers:
        status = Path(f"/proc/{worker.pid}/status").read_text()
        blocked = int(status.partition("SigBlk:")[2].split()[0], 16)
        for number in (signal.SIGTERM, signal.SIGUSR1):
            assert blocked >> number - 1 & 1
    left = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    assert not left & {signal.SIGTERM, signal.SIGUSR1}


HANG = """
import sys, time
import torch
from torch.utils.data import DataLoader
from mmssl_ext.engine.resilience.loading import guard_workers
from tests.engine.test_loading import Numbers
torch.set_num_threads(1)
torch.utils.data._utils.MP_STATUS_CHECK_INTERVAL = 0.5  # as in the tests
iterator = iter(guard_workers(DataLoader(Numbers(hangs=[0, 1]), num_workers=2)))
print(*[worker.pid for worker in iterator._workers], flush=True)
time.sleep(float(sys.argv[1]))
"""


LATE = """
import multiprocessing, os, time
from mmssl_ext.engine.resilience.loading import _heed_parent
def late(parent):
    while os.getppid() == parent:
        time.sleep(0.01)
    _heed_parent()
process = multiprocessing.get_context("fork").Process(target=late, args=[os.getpid()])
process.start()
print(process.pid, flush=True)
os._exit(0)
"""


@pytest.mark.fault("R23")
def test_no_orphan_where_the_parent_dies_before_a_worker_has_begun():
    done = python("-c", LATE)
    assert done.returncode == 0, done.stderr
    assert gone_within(20, [int(done.stdout)])


@pytest.mark.fault("R23")
def test_no_hang_at_the_end_and_no_orphans():
    for killed in (False, True):
        with Command("-c", HANG, "1000" if killed else "1", cwd=REPO) as process:
            pids = [int(pid) for pid in next(process.lines()).split()]
            assert len(pids) == 2
            if killed:
                process.send_signal(signal.SIGKILL)
            process.wait(40)
            assert gone_within(20, pids)


@pytest.mark.fault("R23")
@pytest.mark.parametrize("pin_memory", [False, True])
def test_a_dead_worker_is_named_with_its_batch(pin_memory):
    if pin_memory and not torch.cuda.is_available():
        pytest.skip("pins for a GPU")
    order = torch.randperm(40, generator=torch.Generator().manual_seed(1)).tolist()
    dataset = Numbers(dies=[order[18]])  # in the fifth batch: of the first worker
    loader = guarded(dataset, sampler=order, pin_memory=pin_memory, prefetch_factor=3)
    iterator = iter(loader)
    pids = processes(iterator)
    assert gone_within(20, pids[:1])
    time.sleep(0.5)
    for _ in range(100_000):  # no error comes in the middle of other work
        pass
    got = []
    with pytest.raises(WorkerError) as caught:
        got += [x for batch in iterator for x in batch.tolist()]
    images = [f"sample {i}" for i in order[16:20]]
    assert str(caught.value).startswith(
        f"Worker 0 (process {pids[0]}) of the data loader was killed by SIGKILL while "
        f"it was to read batch 5 ({', '.join(images)}). "
    )
    assert "memory runs out" in str(caught.value)
    assert caught.value.images == images
    assert got == [i**2 for i in order[: len(got)]]  # nothing was left out before it
    end_workers()
    assert gone_within(1, pids)


@pytest.mark.fault("R23")
@pytest.mark.parametrize("error", [ConnectionResetError, SLOW(EOFError)])
@pytest.mark.parametrize("dies", [True, False])
def test_a_worker_that_dies_while_its_batch_is_taken_over_is_named(error, dies):
    iterator = iter(guarded(Numbers(slow=0.01)))
    pids = processes(iterator)
    get = iterator._data_queue.get
    broken = [error]

    def get_from_the_dying(timeout):
        if not broken:
            return get(timeout=timeout)
        if dies:
            threading.Timer(0.2, os.kill, (pids[0], signal.SIGKILL)).start()
        raise broken.pop()

    iterator._data_queue.get = get_from_the_dying
    match = "Worker 0" if dies else None
    with pytest.raises(WorkerError if dies else error, match=match):
        list(iterator)
    end_workers()


@pytest.mark.alone
@pytest.mark.fault("R23")
def test_a_worker_that_hangs_is_named_in_time_and_killed_at_once():
    loader = guarded(Numbers(hangs=[9]), timeout=2)
    iterator = iter(loader)
    pids = processes(iterator)
    start = time.monotonic()
    with pytest.raises(WorkerError) as caught:
        list(iterator)
    assert 2 <= time.monotonic() - start < 8
    assert (
        f"Worker 0 (process {pids[0]}) of the data loader has not answered for 2 s and "
        "was to read batch 3 (sample 8, sample 9, sample 10, sample 11)."
    ) in str(caught.value)
    start = time.monotonic()
    end_workers()
    del iterator, caught
    assert time.monotonic() - start < 1 and gone_within(1, pids)


@pytest.mark.alone
def test_suspended_time_does_not_count():
    child = multiprocessing.get_context("fork").Process(target=_read_slowly)
    child.start()
    time.sleep(0.7)
    os.kill(child.pid, signal.SIGSTOP)
    time.sleep(2.3)
    os.kill(child.pid, signal.SIGCONT)
    child.join(30)
    assert child.exitcode == 0


def _read_slowly():
    torch.set_num_threads(1)
    # Workers are stopped too, as by a scheduler; one takes 1 s for a batch.
    loader = guarded(Numbers(slow=0.25), num_workers=1, timeout=2)
    iterator = iter(loader)
    for _ in range(3):
        next(iterator)
    end_workers()
    os._exit(0)


@pytest.mark.fault("R23")
def test_persistent_workers_are_missed_where_the_next_epoch_begins():
    loader = guarded(Numbers(), persistent_workers=True)
    expected = [i**2 for i in range(40)]
    assert torch.cat(list(loader)).tolist() == expected
    pids = processes(loader._iterator)
    os.kill(pids[1], signal.SIGKILL)
    gone_within(5, pids[1:])
    batches = iter(loader)  # not here, where ranks do not agree on anything
    with pytest.raises(WorkerError, match=rf"Worker 1 \(process {pids[1]}\)"):
        next(batches)
    end_workers()
    assert torch.cat(list(loader)).tolist() == expected  # by new workers
    assert not set(processes(loader._iterator)) & set(pids)


def test_all_else_is_as_torch_has_it():
    order = torch.randperm(40, generator=torch.Generator().manual_seed(2)).tolist()
    for options in (
        {"num_workers": 0},
        {"num_workers": 3, "drop_last": True, "batch_size": 7},
        {"num_workers": 2, "batch_size": None, "prefetch_factor": 1},
    ):
        options = {"batch_size": 4, "sampler": order, **options}
        plain = DataLoader(Numbers(), **options)
        loader = guard_workers(DataLoader(Numbers(), **options))
        assert guard_workers(loader) is loader
        found, expected = (
            torch.cat([torch.atleast_1d(x) for x in each]).tolist()
            for each in (loader, plain)
        )
        assert found == expected and len(loader) == len(plain)
        workers = options["num_workers"] > 0
        assert loader.timeout == (TIMEOUT if workers else 0)
    assert guarded(Numbers(), timeout=7).timeout == 7
    # a stream, one of whose workers ends long before the other
    assert len(list(guarded(Stream(), batch_size=None))) == 12
