"""Run a function in several gloo processes."""

import contextlib
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from multiprocessing import forkserver
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from tests.machine import free_port


def run_ranks(function: Callable, world_size: int, *args) -> list:
    """Call ``function(rank, *args)`` in ``world_size`` processes.

    Args:
        function: A module-level function.
        world_size: Number of processes.
        *args: Picklable arguments.

    Returns:
        What each rank returned (tensors and plain data), in rank order.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with workers(_save, world_size, folder, function, name, args) as found:
            wait_for(found, 600)
            texts = [worker.text for worker in found]
            assert not any(worker.code for worker in found), "\n".join(texts)
        return [torch.load(folder / f"{rank}.pt") for rank in range(world_size)]


def _save(rank: int, function: Callable, folder: str, args: tuple) -> int:
    dist.init_process_group("gloo")
    try:
        torch.save(function(rank, *args), Path(folder, f"{rank}.pt"))
        dist.barrier()
    finally:
        dist.destroy_process_group()
    return 0


def server() -> multiprocessing.context.BaseContext:
    """Processes forked from a server that has imported the packages and no more.

    It runs from now on. A guarded loader would start it with all signals blocked.
    """
    context = mp.get_context("forkserver")
    context.set_forkserver_preload(["tests.preload"])
    forkserver.ensure_running()
    return context


class Worker:
    """A process of :func:`workers`.

    Attributes:
        process: With ``exitcode``, minus the signal where one ended it.
        output: Path of what it printed.
    """

    def __init__(self, process: multiprocessing.process.BaseProcess, output: Path):
        self.process = process
        self.output = output

    @property
    def code(self) -> int | None:
        return self.process.exitcode

    @property
    def text(self) -> str:
        return self.output.read_text()


@contextlib.contextmanager
def workers(
    function: Callable, world_size: int, folder: Path, *args, own_store: bool = False
) -> Iterator[list[Worker]]:
    """Start ``function(rank, *args)``, which returns the exit code, as torchrun does.

    The environment is torchrun's and this process holds the store, unless rank 0 does,
    as under Slurm (``own_store``). Nothing else is started: that is up to ``function``.
    Whoever still runs in the end is killed.
    """
    context = server()
    port = free_port()
    if not own_store:
        store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        port = store.port
    environment = {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "WORLD_SIZE": str(world_size),
        "TORCHELASTIC_USE_AGENT_STORE": str(not own_store),
        "TORCHELASTIC_RESTART_COUNT": "0",  # read by old releases of torch
    }
    folder.mkdir(parents=True, exist_ok=True)
    found = []
    for rank in range(world_size):
        output = folder / f"rank{rank}.txt"
        output.write_text("")
        mine = environment | {"RANK": str(rank), "LOCAL_RANK": str(rank)}
        arguments = (function, rank, mine, str(output), args)
        process = context.Process(target=_work, args=arguments)
        process.start()
        found.append(Worker(process, output))
    try:
        yield found
    finally:
        for worker in found:
            worker.process.kill()
            worker.process.join()


def _work(function: Callable, rank: int, environment: dict, output: str, args) -> None:
    torch.set_num_threads(1)
    os.environ.update(environment)
    opened = os.open(output, os.O_WRONLY | os.O_APPEND)
    os.dup2(opened, 1)
    os.dup2(opened, 2)
    code = function(rank, *args)
    sys.stdout.flush()
    sys.exit(code)


def wait_for(found: list[Worker], timeout: float) -> float:
    """Wait until these workers have ended; return the seconds that it took.

    Raises:
        TimeoutError: Some have not.
    """
    start = time.monotonic()
    for worker in found:
        worker.process.join(max(start + timeout - time.monotonic(), 0.0))
    if late := [worker for worker in found if worker.code is None]:
        raise TimeoutError("\n".join(worker.text for worker in late))
    return time.monotonic() - start
