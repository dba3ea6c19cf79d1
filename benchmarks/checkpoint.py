"""Saving a checkpoint: how long training stands still, and memory, against mmengine.

The model is MoCo with a ResNet-50 and K = 65,536 and the momentum of SGD. Two scopes:

* ``file``: writing one and the same dict, ``start_saving`` against mmengine's
  ``save_checkpoint``;
* ``hook``: what a Runner calls, PlainCheckpointHook against CheckpointHook, with the
  text of a config, one old file to delete and the pointer.

``stall`` is the time until the call returns, ``cpu`` the processor's part of it, which
other loads of the machine disturb less. ``safe`` is the time until the file is on the
disk: for ours until the thread has ended, for mmengine, which does not flush, until an
``fsync`` after its call. Each save makes a new file and directly follows an untimed one
of its kind whose file was deleted: both then find memory that is there. A virtual
machine whose host takes free memory back measures little else than getting it again.
Peak memory is that of one save in a fresh process, over the file's size. Run:

    python benchmarks/checkpoint.py [--folder FOLDER ON THE DISK TO MEASURE]
"""

import argparse
import logging
import multiprocessing as mp
import os
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import common
import torch
from mmengine.config import Config
from mmengine.hooks import CheckpointHook
from mmengine.runner import Runner, save_checkpoint
from step import config

from mmssl_ext.engine.checkpoint.identity import RunIdentity
from mmssl_ext.engine.checkpoint.read import load_checkpoint_file
from mmssl_ext.engine.checkpoint.saver import Saver
from mmssl_ext.engine.checkpoint.write import start_saving, wait_for_checkpoints
from mmssl_ext.engine.hooks import PlainCheckpointHook

CONFIG = Path(__file__).parents[1] / "configs/mocov2/mocov2_r50_imagenet.py"
HOOKS = {"ours": PlainCheckpointHook, "mmengine": CheckpointHook}
WRITE: dict[str, Callable[[Any, str], object]] = {
    "ours": start_saving,
    "mmengine": save_checkpoint,
}
BLOCKS = 7


class Data(torch.utils.data.Dataset):
    """Nothing is trained: the optimizer's state is made by hand."""

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> int:
        return index


def build_runner(folder: Path) -> Runner:
    """A runner in the middle of its training."""
    runner = Runner(
        model=config("MoCo", 50),
        work_dir=str(folder),
        train_dataloader=torch.utils.data.DataLoader(Data()),
        train_cfg={"by_epoch": True, "max_epochs": 10},
        optim_wrapper={"optimizer": {"type": "SGD", "lr": 0.03, "momentum": 0.9}},
        param_scheduler={"type": "CosineAnnealingLR", "T_max": 10},
        default_hooks={"checkpoint": None, "logger": None},
        default_scope="mmssl_ext",
        log_level=logging.ERROR,
        cfg=Config.fromfile(str(CONFIG)),
    )
    runner._train_loop = runner.build_train_loop(runner._train_loop)
    runner.optim_wrapper = runner.build_optim_wrapper(runner.optim_wrapper)
    runner.param_schedulers = runner.build_param_scheduler(runner.param_schedulers)
    optimizer = runner.optim_wrapper.optimizer
    for group in optimizer.param_groups:
        for p in group["params"]:
            optimizer.state[p]["momentum_buffer"] = torch.randn_like(p)
    return runner


def savers(scope: str, folder: Path) -> dict[str, Callable[[], Path]]:
    """What saves, by arm; each call makes a new file and returns its path."""
    counts = dict.fromkeys(HOOKS, 0)
    runner = build_runner(folder)
    arms: dict[str, Callable[[], Path]] = {}
    if scope == "file":
        saver = Saver(runner, RunIdentity("", ""), None, verify=False)
        content = saver._content({}, optimizer=True, schedulers=True)
        content["message_hub"] = {}  # histories, which mmengine's file has as objects

        def save(arm: str) -> Path:
            counts[arm] += 1
            path = folder / arm / f"file_{counts[arm]}.pth"
            WRITE[arm](content, str(path))
            return path

        for arm in HOOKS:
            (folder / arm).mkdir(exist_ok=True)
            arms[arm] = lambda arm=arm: save(arm)
        return arms

    def save_by(arm: str, hook: CheckpointHook) -> Path:
        counts[arm] += 1
        runner._hooks = [hook]
        meta = {"epoch": counts[arm], "iter": 0}
        hook._save_checkpoint_with_step(runner, counts[arm], meta)
        return Path(str(hook.last_ckpt))

    for arm, kind in HOOKS.items():
        hook = kind(interval=1, max_keep_ckpts=1, out_dir=str(folder / arm))
        hook.before_train(runner)
        arms[arm] = lambda arm=arm, hook=hook: save_by(arm, hook)
    return arms


def settle(arm: str, path: Path) -> None:
    """Bring the file to the disk, by the arm's own means or by ``fsync``."""
    if arm == "ours":
        wait_for_checkpoints()
    else:
        with path.open("rb") as file:
            os.fsync(file.fileno())


def measure(scope: str, folder: Path) -> tuple[dict[str, dict[str, list[float]]], int]:
    """Seconds by kind, arm and block; bytes of a file."""
    rehearsals = savers("file", folder)
    arms = savers(scope, folder)
    seconds: dict[str, dict[str, list[float]]] = {
        kind: {arm: [] for arm in arms} for kind in ("stall", "cpu", "safe")
    }
    paths: dict[str, Path] = {}
    for block in range(-1, BLOCKS):  # the first is a warm-up
        for arm, save in arms.items():
            os.sync()
            path = rehearsals[arm]()
            settle(arm, path)
            path.unlink()
            start, cpu = time.perf_counter(), time.thread_time()
            paths[arm] = save()
            stall, cpu = time.perf_counter() - start, time.thread_time() - cpu
            settle(arm, paths[arm])
            safe = time.perf_counter() - start
            if block >= 0:
                for kind, value in (("stall", stall), ("cpu", cpu), ("safe", safe)):
                    seconds[kind][arm].append(value)
        check_equal(paths["ours"], paths["mmengine"])
        size = paths["ours"].stat().st_size
        if scope == "file":
            for path in paths.values():
                path.unlink()
    return seconds, size


def check_equal(ours: Path, mmengines: Path) -> None:
    """Fail unless both files hold the same weights, optimizer and schedulers."""
    a = load_checkpoint_file(ours)
    b = torch.load(mmengines, weights_only=False)
    assert a.keys() == b.keys()
    assert a["param_schedulers"] == b["param_schedulers"]
    assert list(a["state_dict"]) == list(b["state_dict"])
    for name, value in a["state_dict"].items():
        assert torch.equal(value, b["state_dict"][name]), name
    a, b = a["optimizer"], b["optimizer"]
    assert a["param_groups"] == b["param_groups"]
    assert a["state"].keys() == b["state"].keys()
    for key, state in a["state"].items():
        assert torch.equal(state["momentum_buffer"], b["state"][key]["momentum_buffer"])


def fresh_peak(scope: str, arm: str, folder: Path) -> tuple[int, int]:
    """Peak extra bytes of one save in a fresh process, and the size of its file."""
    with ProcessPoolExecutor(1, mp.get_context("spawn")) as pool:
        return pool.submit(_peak, scope, arm, folder).result()


def _peak(scope: str, arm: str, folder: Path) -> tuple[int, int]:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(dir=folder) as name:
        save = savers(scope, Path(name))[arm]
        small = {"state_dict": {"w": torch.ones(8)}}  # one-time allocations
        start_saving(small, Path(name, "small.pth")).finish()
        save_checkpoint(small, str(Path(name, "small.pth")))
        _ = Config.fromfile(str(CONFIG)).pretty_text
        found: list[Path] = []

        def call() -> None:
            found.append(save())
            settle(arm, found[0])

        return common.peak_memory(call), found[0].stat().st_size


def file_system(folder: Path) -> str:
    """Type of the file system that holds a folder."""
    mounts = [x.split()[1:3] for x in Path("/proc/mounts").read_text().splitlines()]
    inside = [x for x in mounts if folder.is_relative_to(x[0])]
    return max(inside, key=lambda x: len(x[0]))[1]


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("."))
    folder = parser.parse_args().folder.resolve()
    torch.set_num_threads(1)
    rows = []
    for scope in ("file", "hook"):
        with tempfile.TemporaryDirectory(dir=folder) as name:
            seconds, size = measure(scope, Path(name))
        peaks = {arm: fresh_peak(scope, arm, folder) for arm in HOOKS}
        row = {"scope": scope, "file_mb": round(size / 1e6, 1), "threads": 1}
        row["file_system"] = file_system(folder)
        for what, by_arm in seconds.items():
            value, low, high = common.ratio(by_arm["ours"], by_arm["mmengine"])
            row |= {
                f"{what}_ratio": round(value, 3),
                f"{what}_low": round(low, 3),
                f"{what}_high": round(high, 3),
                f"ours_{what}_ms": common.median_ms(by_arm["ours"]),
                f"mmengine_{what}_ms": common.median_ms(by_arm["mmengine"]),
            }
        for arm, (peak, written) in peaks.items():
            row[f"{arm}_peak_over_file"] = round(peak / written, 3)
        rows.append(row)
    common.write_rows("checkpoint_cpu", rows)


if __name__ == "__main__":
    main()
