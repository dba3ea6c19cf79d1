"""What the benchmarks share: interleaved timing, peak memory, CSV with versions.

Arms are timed in turn (A, B, A, B, ...) by the wall clock, or by the processor time of
this process, so that another load on the machine changes both alike. A ratio is the
median of the ratios of its blocks, with a bootstrap interval.
"""

import contextlib
import csv
import ctypes
import multiprocessing as mp
import os
import platform
import statistics
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

REPOSITORY = Path(__file__).resolve().parents[1]
RESULTS = Path(__file__).parent / "results"
Arms = dict[str, Callable[[], object]]


def time_arms(
    arms: Arms,
    blocks: int,
    steps: int,
    warmups: int = 2,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Seconds per call of each arm by ``clock``, one value per block of steps."""
    for arm in arms.values():
        for _ in range(warmups):
            arm()
    seconds: dict[str, list[float]] = {name: [0.0] * blocks for name in arms}
    for block in range(blocks):
        for _ in range(steps):
            for name, arm in arms.items():
                start = clock()
                arm()
                seconds[name][block] += (clock() - start) / steps
    return seconds


def ratio(numerator: list[float], denominator: list[float]) -> tuple[float, ...]:
    """Median of the block ratios and its 95 % bootstrap interval."""
    ratios = np.array(numerator) / np.array(denominator)
    draws = np.random.default_rng(0).choice(ratios, (2000, len(ratios)))
    low, high = np.quantile(np.median(draws, axis=1), [0.025, 0.975])
    return float(np.median(ratios)), float(low), float(high)


def keep_freed_memory() -> None:
    """Let this process keep what it frees, as torch's allocator does on a GPU.

    Otherwise glibc returns every large tensor to the kernel, and whole steps measure
    page faults: RegionCL's then took 2.9 instead of 1.8 of MoCo's. Linux with glibc.
    """
    libc = ctypes.CDLL(None)
    libc.mallopt(-4, 0)  # M_MMAP_MAX: nothing has a mapping of its own
    libc.mallopt(-1, -1)  # M_TRIM_THRESHOLD: the heap is never trimmed


def peak_memory(call: Callable[[], object]) -> int:
    """Bytes by which a call raises the resident memory of this process at most.

    Linux with glibc only: what earlier calls freed is given back first, since a call
    would else take it unseen, and the kernel's high-water mark is reset.
    """
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    before = _status("VmRSS")
    call()
    return max(0, _status("VmHWM") - before)


def fresh_peak_memory(losses: type, size: int, arm: str) -> int:
    """Peak extra bytes of ``losses(size).arm()`` in a fresh process, on one thread.

    Args:
        losses: A class of the benchmark's main module.
        size: Of the inputs.
        arm: Name of the method to call.
    """
    context = mp.get_context("spawn")
    with ProcessPoolExecutor(1, context) as pool:
        return pool.submit(_peak_of_arm, losses, size, arm).result()


def _peak_of_arm(losses: type, size: int, arm: str) -> int:
    torch.set_num_threads(1)
    call = getattr(losses(size), arm)
    getattr(losses(8), arm)()  # one-time allocations of libraries
    return peak_memory(call)


def peaks_of_steps(
    step_of: Callable[..., Callable[[], object]], names: Sequence[str], *given: object
) -> dict[str, int]:
    """MB that the second call of ``step_of(name, *given)`` adds at most, by name.

    On one thread, each in a fresh process; ``step_of`` is a function of a module.
    """
    with ProcessPoolExecutor(1, mp.get_context("spawn"), max_tasks_per_child=1) as pool:
        jobs = {name: pool.submit(_peak_of, step_of, name, *given) for name in names}
        return {name: round(job.result() / 1e6) for name, job in jobs.items()}


def _peak_of(step_of: Callable, name: str, *given: object) -> int:
    torch.set_num_threads(1)
    step = step_of(name, *given)
    step()
    return peak_memory(step)


def let_remember(model: Any, images: int) -> None:
    """Fill what terms keep of so many images, of the past and of clusters.

    With noise: the time of a step does not depend on it.
    """
    if "inter" in model.terms:
        inter = model.terms.inter
        inter.bank.fill(torch.randn(images, inter.bank.features.shape[1]))
        labels = torch.arange(images) % inter.labels.num_clusters
        inter.labels.set_labels(labels, inter.bank)
    if "temporal" in model.terms:
        for _ in range(model.terms.temporal.num_teachers):
            model.terms.temporal.take(model)
    semantic = model.terms.semantic if "semantic" in model.terms else None
    if hasattr(semantic, "clusterings"):  # as after the first
        semantic.centroids.copy_(normalize(torch.randn(semantic.centroids.shape)))
        semantic.clusterings.count_step()


def loss_and_gradient(loss: Callable[[], Tensor], leaf: Tensor) -> tuple[Tensor, ...]:
    """Value of a loss and its gradient with respect to ``leaf``."""
    leaf.grad = None
    value = loss()
    value.backward()
    assert leaf.grad is not None
    return value.detach(), leaf.grad


def compare(result: tuple[Tensor, ...], peer: tuple[Tensor, ...]) -> None:
    """Fail unless two results of :func:`loss_and_gradient` are the same."""
    torch.testing.assert_close(result[0], peer[0], rtol=1e-5, atol=1e-6)
    assert (result[1] - peer[1]).norm() / peer[1].norm() < 1e-5


def against_peer(
    arm: str, peer: str, seconds: dict[str, list[float]], peaks: dict[str, int]
) -> dict:
    """Columns that compare time and peak extra memory of an arm with its peer's."""
    speedup, low, high = ratio(seconds[peer], seconds[arm])
    return {
        "arm": arm,
        "peer": peer,
        "arm_ms": median_ms(seconds[arm]),
        "peer_ms": median_ms(seconds[peer]),
        "speedup": round(speedup, 2),
        "speedup_low": round(low, 2),
        "speedup_high": round(high, 2),
        "arm_peak_mb": round(peaks[arm] / 1e6, 1),
        "peer_peak_mb": round(peaks[peer] / 1e6, 1),
    }


def _status(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(x.split()[1]) * 1024 for x in lines if x.startswith(key + ":"))


def describe_machine() -> dict[str, str | int]:
    """Code, versions and hardware, for every row of a result."""
    info: dict[str, str] = {}
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        key, _, value = line.partition(":")
        info.setdefault(key.strip(), value.strip())
    names = ("torch", "onedl-mmpretrain", "onedl-mmengine")
    return {name: version(name) for name in names} | {
        "python": platform.python_version(),
        "cpu": info.get("model name", platform.processor()),
        "vector_units": vector_units(info.get("flags", "")),
        "threads": torch.get_num_threads(),
        "commit": commit(),
    }


def vector_units(flags: str) -> str:
    """The widest of a processor's flags that the libraries choose their code by."""
    names = {"avx512f": "AVX-512", "avx2": "AVX2"}
    return next((name for flag, name in names.items() if flag in flags.split()), "")


def commit(repository: Path = REPOSITORY) -> str:
    """Commit of this repository, with a + where files differ from it.

    What benchmarks write themselves, ``benchmarks/results``, may differ: a measurement
    of several runs writes it after each of them.
    """

    def git(*words: str) -> subprocess.CompletedProcess[str]:
        command = ["git", "-C", str(repository), *words]
        return subprocess.run(command, capture_output=True, text=True)

    try:
        found = git("describe", "--always", "--abbrev=10", "--exclude=*")
        besides = ("--", ":/", ":(top,exclude)benchmarks/results")
        changed = git("diff", "--quiet", "HEAD", *besides).returncode
    except FileNotFoundError:
        return ""
    return found.stdout.strip() + "+" * (changed == 1)


def write_rows(name: str, rows: list[dict]) -> None:
    """Print the rows and write them to ``results/<name>.csv``.

    What a row says itself of versions and hardware is kept.
    """
    machine = describe_machine()
    rows = [row | {k: row.get(k, v) for k, v in machine.items()} for row in rows]
    RESULTS.mkdir(exist_ok=True)
    with open(RESULTS / f"{name}.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys(), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    for row in rows:
        print({k: v for k, v in row.items() if k not in machine})


@contextlib.contextmanager
def photographs(folder: Path | None = None) -> Iterator[Path | None]:
    """A folder of real photographs: the given one, the data set at hand, or None.

    The data set is BCCD, 364 photographs of 640 x 480 pixels: the file bccd_voc.tar.xz
    in the folder MMSSL_BCCD, unpacked for as long as the context lasts.
    """
    file = Path(os.environ.get("MMSSL_BCCD", ""), "bccd_voc.tar.xz")
    if folder is not None or not file.is_file():
        yield folder
        return
    with tempfile.TemporaryDirectory() as unpacked:
        with tarfile.open(file) as archive:
            members = [m for m in archive if m.isfile() and m.name.endswith(".jpg")]
            for member in members:
                member.name = Path(member.name).name
                archive.extract(member, unpacked, filter="data")
        yield Path(unpacked)


def exponent(x: list[float], y: list[float]) -> float:
    """Slope of log y over log x by least squares: y grows as x to this power."""
    return float(np.polyfit(np.log(x), np.log(y), 1)[0])


def median_ms(seconds: list[float]) -> float:
    """Median of the blocks in milliseconds."""
    return round(1000 * statistics.median(seconds), 2)
