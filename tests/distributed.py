"""Run a function in several gloo processes."""

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp


def run_ranks(function: Callable, world_size: int, *args) -> list:
    """Call ``function(rank, *args)`` in ``world_size`` processes.

    Args:
        function: A module-level function.
        world_size: Number of processes.
        *args: Picklable arguments.

    Returns:
        What each rank returned (tensors and plain data), in rank order.
    """
    # Forked from a server that has imported the packages and done nothing else yet.
    mp.get_context("forkserver").set_forkserver_preload(["mmssl_ext.models"])
    with tempfile.TemporaryDirectory() as folder:
        mp.start_processes(
            *(_start, (function, world_size, folder, args)),
            nprocs=world_size,
            start_method="forkserver",
        )
        return [torch.load(Path(folder, f"{rank}.pt")) for rank in range(world_size)]


def _start(rank: int, function: Callable, world_size: int, folder: str, args) -> None:
    torch.set_num_threads(1)
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(world_size), LOCAL_RANK=str(rank))
    store = dist.FileStore(str(Path(folder, "store")), world_size)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=world_size)
    try:
        torch.save(function(rank, *args), Path(folder, f"{rank}.pt"))
        dist.barrier()
    finally:
        dist.destroy_process_group()
