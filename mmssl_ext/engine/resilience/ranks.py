"""The start of the ranks of a run, and what tells that one has lost another."""

from __future__ import annotations

import os
import re
import subprocess
from datetime import timedelta

import torch.distributed as dist
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.dist import init_dist
from mmengine.utils.dl_utils import set_multi_processing

from mmssl_ext.errors import RankError

TIMEOUT = 600.0  # seconds that ranks wait for one another, unless the config says

# Where a launcher other than torchrun tells rank, number and rank on the node.
_VARIABLES = {
    "slurm": "SLURM_PROCID SLURM_NTASKS SLURM_LOCALID",
    "mpi": "OMPI_COMM_WORLD_RANK OMPI_COMM_WORLD_SIZE OMPI_COMM_WORLD_LOCAL_RANK",
}
_COLLECTIVE = re.compile(
    r"gloo|NCCL|ProcessGroup|Connection (closed|reset)|Broken pipe|TCPStore|FileStore"
)


def start_ranks(cfg: Config) -> None:
    """Let the ranks of a prepared config find one another, unless they have.

    Raises:
        RankError: Not all of them came in time.
    """
    if cfg.launcher == "none" or dist.is_initialized():
        return
    options = cfg.env_cfg.dist_cfg
    try:
        if get_device() == "cpu":  # mmengine's launchers would select a GPU
            _tell_torch(cfg.launcher)
            timeout = timedelta(seconds=options.timeout)
            dist.init_process_group(options.backend, timeout=timeout)
        else:
            mp_cfg = cfg.env_cfg.get("mp_cfg") or {}
            set_multi_processing(**mp_cfg, distributed=True)
            init_dist(cfg.launcher, **options)
    except RuntimeError as error:
        if not is_collective(error):
            raise
        address, port = (os.environ.get(f"MASTER_{x}") for x in ("ADDR", "PORT"))
        raise RankError(
            f"The {os.environ.get('WORLD_SIZE')} ranks did not find one another at "
            f"{address}:{port} within {options.timeout:g} s: {first_line(error)}. "
            "Check that every node has started and reaches this address, and that the "
            "port is not used by another run."
        ) from error


def _tell_torch(launcher: str) -> None:
    """Set the variables that torch reads, as mmengine does where there is a GPU."""
    if launcher in _VARIABLES:
        names = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
        for name, source in zip(names, _VARIABLES[launcher].split(), strict=True):
            os.environ[name] = os.environ[source]
        os.environ.setdefault("MASTER_PORT", "29500")
    if launcher == "slurm" and "MASTER_ADDR" not in os.environ:
        command = ["scontrol", "show", "hostnames", os.environ["SLURM_NODELIST"]]
        hosts = subprocess.run(command, capture_output=True, text=True, check=True)
        os.environ["MASTER_ADDR"] = hosts.stdout.split()[0]


def is_collective(error: BaseException | None) -> bool:
    """Whether an error, or what caused it, comes from a collective."""
    while error is not None:
        known = isinstance(error, RuntimeError) and _COLLECTIVE.search(str(error))
        if known or isinstance(error, dist.DistError):
            return True
        error = error.__cause__ or error.__context__
    return False


def first_line(error: BaseException | None) -> str:
    """The message of an error, short enough for a sentence."""
    lines = str(error).strip().splitlines() or ["no message"]
    return lines[0][:300]
