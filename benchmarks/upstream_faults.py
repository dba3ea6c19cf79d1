"""The faults of the suite done to mmengine and mmpretrain as installed.

Runs are of mmpretrain's own MoCo v2 config, made small (see ``upstream_runs.py``), and
nothing of mmssl_ext takes part in them. What was observed is computed from the files,
the log and the exit of the runs and written to ``results/upstream_faults.csv``; the
table in docs/faults.md is made from it. Run (about five minutes on one core):

    python benchmarks/upstream_faults.py [R5 R22]
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import importlib.metadata
import json
import math
import os
import random
import resource
import shutil
import signal
import socket
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import mmengine
import mmpretrain
import numpy as np
import torch
import upstream_reports  # noqa: F401 - registers its checks
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.registry import init_default_scope
from mmengine.runner import Runner, load_checkpoint
from PIL import Image
from upstream_runs import (
    CHECKS,
    CONTEXT,
    EPOCHS,
    HANG,
    SCRATCH,
    STEPS,
    STOCK,
    Run,
    Seen,
    check,
    compare,
    config,
    copy,
    digest,
    loads,
    read,
    stop_by,
    train,
    warnings_of,
    whole_run,
    write_images,
)

REPO = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPO))  # before packages that installed their own tests

from tests.faults.suite import FAULTS  # noqa: E402 - ids and names of the faults

RESULTS = REPO / "benchmarks/results/upstream_faults.csv"
VERSIONS = (
    f"mmengine {mmengine.__version__}, mmpretrain {mmpretrain.__version__}, "
    f"torch {torch.__version__.split('+')[0]}"
)
# Of those who take part in some rows only.
FURTHER = {
    "R44": ("mmdet", "onedl-mmdetection"),
    "R45": ("mmseg", "onedl-mmsegmentation"),
}
COLUMNS = ("id", "fault", "outcome", "observed", "versions")


# --- Checkpoints


def announce_second_save(event: Any, runner: Any) -> None:
    """Tell the parent when the second save begins; note how long a save takes."""
    hook = next(h for h in runner.hooks if type(h).__name__ == "CheckpointHook")
    save = hook._save_checkpoint

    def announced(runner: Any) -> None:
        if runner.epoch == 1:
            event.set()
        begin = time.monotonic()
        save(runner)
        Path(runner.work_dir, "seconds.txt").write_text(str(time.monotonic() - begin))

    hook._save_checkpoint = announced


@check("R1")
def killed_writes() -> Seen:
    """Ten kills per setting, uniform over the time that a save takes."""
    rng = random.Random(0)
    broken = {}
    for keep in (3, 1):  # the stock setting, and the one that a full disk asks for
        options = dict(
            default_hooks__checkpoint__max_keep_ckpts=keep,
            model__backbone__base_channels=32, model__backbone__stem_channels=32,
            model__neck__in_channels=256,
        )  # fmt: skip
        event = CONTEXT.Event()
        injury = partial(announce_second_save, event)
        whole = Run(f"write{keep}", train, injury, **options).end()
        seconds = float((whole.folder / "seconds.txt").read_text())
        broken[keep] = 0
        for kill in range(10):
            event = CONTEXT.Event()
            injury = partial(announce_second_save, event)
            run = Run(f"write{keep}_{kill}", train, injury, **options)
            run.wait_until(event.is_set)
            time.sleep(rng.uniform(0, seconds))
            run.kill()
            broken[keep] += not loads(run.checkpoint)
            shutil.rmtree(run.folder)
    lost = ", ".join(
        f"{n} of 10 with max_keep_ckpts={keep}" for keep, n in broken.items()
    )
    bad = [n > 0 for n in broken.values()]
    outcome = "fail" if all(bad) else "partial" if any(bad) else "pass"
    return outcome, (
        f"last_checkpoint named a file that is gone or does not load after {lost}"
    )


class FullDisk(Hook):
    """Lets no file grow beyond half a checkpoint, once there is one."""

    priority = "VERY_LOW"

    def after_train_epoch(self, runner: Any) -> None:
        file = Path(runner.work_dir, "epoch_1.pth")
        if runner.epoch == 0:
            resource.setrlimit(resource.RLIMIT_FSIZE, (file.stat().st_size // 2,) * 2)


def fill_disk(runner: Any) -> None:
    """Register it."""
    runner.register_hook(FullDisk())


@check("R2")
def full_disk() -> Seen:
    """Second save fails with keep=1."""
    run = Run(
        "full", train, fill_disk, default_hooks__checkpoint__max_keep_ckpts=1
    ).end()
    kept = loads(run.checkpoint)
    return ("pass" if kept else "fail"), f"{run.short_error}; {run.files()}"


@check("R3")
def truncated() -> Seen:
    """Half of the newest file."""
    folder = copy(whole_run(), "truncated", 2)
    newest = folder / "epoch_2.pth"
    os.truncate(newest, newest.stat().st_size // 2)
    run = Run("truncated", train, resume=True).end()
    first = [line["start"] for line in run.journal if "start" in line]
    if first == [STEPS]:
        return "pass", "resumed from epoch_1.pth"
    return "fail", f"no fallback to epoch_1.pth: {run.short_error}"


@check("R4")
def bit_flip() -> Seen:
    """The highest bit of the exponent's lower half in one weight."""
    folder = copy(whole_run(), "flipped", 2)
    file = folder / "epoch_2.pth"
    name = "backbone.layer1.0.conv1.weight"
    weight = read(file)["state_dict"][name]
    data = bytearray(file.read_bytes())
    at = data.index(weight.numpy().tobytes()) + 2
    data[at] ^= 0x40
    file.write_bytes(data)
    changed = (read(file)["state_dict"][name] != weight).sum()
    run = Run("flipped", train, resume=True).end()
    if run.code:
        return "pass", f"refused: {run.short_error}"
    return "fail", (
        f"resumed with {changed} changed weight and trained to the end; "
        f"warnings: {warnings_of(run)}"
    )


# --- Resume


@check("R5")
def killed_step() -> Seen:
    """Killed in the second epoch; resumed from its start, and from inside it."""
    whole = whole_run()
    same = compare(Run("again", train).end(), whole)[0]
    step = random.Random(0).randrange(STEPS + 1, 2 * STEPS)
    Run("killed", train).wait_for(step).kill()
    run = Run("killed", train, resume=True).end()
    exact, phrase = compare(run, whole)
    inside = dict(
        default_hooks__checkpoint=dict(
            type="CheckpointHook", interval=4, by_epoch=False
        )
    )
    killed = Run("inside", train, **inside).wait_for(2 * STEPS - 2).kill()
    before = len(killed.steps)
    start = read(killed.checkpoint)["meta"]["iter"]
    Run("inside", train, resume=True, **inside).end()
    done = len(killed.steps) - before
    left = EPOCHS * STEPS - start
    ends = exact and done == left
    return ("pass" if ends else "fail"), (
        f"killed after step {step}, resumed from epoch 1: {phrase} (two whole runs are "
        f"{'' if same else 'not '}equal); resumed inside epoch 2 at step {start}: ran "
        f"{done} steps where {left} were left"
    )


@check("R6")
def other_workers() -> Seen:
    """One worker, then two from epoch 2 on; the stock loader's persistent workers."""
    workers = dict(train_dataloader__persistent_workers=True)
    one, two = (workers | dict(train_dataloader__num_workers=n) for n in (1, 2))
    whole = Run("worker1", train, **one).end()
    phrases = []
    for number, options in ((1, one), (2, two)):
        folder = copy(whole, f"resume_worker{number}", 1)
        run = Run(folder.name, train, resume=True, **options).end()
        equal, phrase = compare(run, whole)
        phrases.append(f"with {number}: {phrase}")
    return ("pass" if equal else "fail"), (
        f"run with 1 worker, resumed after epoch 1 {'; '.join(phrases)}"
    )


def train_rank(
    folder: Path, *injuries: Any, rank: int, port: int, world: int = 2, **changes: Any
) -> None:
    """One of several processes over gloo, with mmengine's own timeout of 30 minutes."""
    os.environ.update(
        RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world),
        MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port),
    )  # fmt: skip
    # init_dist would choose a GPU first.
    torch.distributed.init_process_group("gloo", timeout=timedelta(minutes=30))
    wrapper = dict(
        type="MMDistributedDataParallel", device_ids=None, broadcast_buffers=False
    )
    changes |= dict(launcher="pytorch", model_wrapper_cfg=wrapper)
    train(folder, *injuries, **changes)


def start_ranks(name: str, *injuries: Any, **changes: Any) -> list[Run]:
    """Two ranks in one work_dir."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return [
        Run(name, train_rank, *injuries, rank=rank, port=port, **changes)
        for rank in range(2)
    ]


@check("R7")
def other_world_size() -> Seen:
    """Two ranks, then one: with the same batch per rank, and with the same in all."""
    half = dict(train_dataloader__batch_size=2)
    whole = [run.end() for run in start_ranks("ranks", **half)]
    folder = copy(whole[0], "one_rank", 1)
    one = Run(folder.name, train, resume=True, **half).end()
    folder = copy(whole[0], "one_rank_all", 1)
    both = Run(folder.name, train, resume=True).end()
    expected = [
        sorted(a["images"] + b["images"])
        for a, b in zip(*(run.steps for run in whole), strict=True)
    ]
    found = [sorted(step["images"]) for step in both.steps]
    order = "the same" if found == expected[STEPS:] else "another"
    refused = bool(one.code)
    said = f"refused: {one.short_error}" if refused else (
        f"ran {len(one.steps)} steps of batch {len(one.steps[0]['images'])} where "
        f"{len(expected) - STEPS} of batch {len(expected[0])} were left, "
        f"warnings: {warnings_of(one)}"
    )  # fmt: skip
    outcome = "pass" if refused else "partial" if order == "the same" else "fail"
    return outcome, (
        f"2 ranks, resumed on 1 by the same config: {said}; with the global batch kept "
        f"by hand: {order} images in every step"
    )


@check("R22")
def queue_after_resume() -> Seen:
    """Queue of the checkpoint against that before the first resumed step."""
    folder = copy(whole_run(), "queue", 2)
    saved = digest(read(folder / "epoch_2.pth")["state_dict"]["queue"])
    run = Run("queue", train, resume=True).end()
    equal = run.journal[0]["queue"] == saved
    return ("pass" if equal else "fail"), (
        f"queue {'bitwise equal' if equal else 'differs'}"
    )


@check("R24")
def changed_config() -> Seen:
    """Another queue length, feature size and method."""
    changes: dict[str, dict] = {
        "queue_len=128": dict(model__queue_len=128),
        "feat_dim=8": dict(model__feat_dim=8, model__neck__out_channels=8),
        "SimCLR": dict(
            model=dict(
                _delete_=True, type="SimCLR",
                backbone=dict(
                    type="ResNet", depth=18, stem_channels=8, base_channels=8
                ),
                neck=dict(
                    type="NonLinearNeck", in_channels=64, hid_channels=64,
                    out_channels=16, num_layers=2, with_avg_pool=True,
                ),
                head=dict(
                    type="ContrastiveHead", loss=dict(type="CrossEntropyLoss")
                ),
            )
        ),
    }  # fmt: skip
    phrases, refused = [], 0
    for i, (name, change) in enumerate(changes.items()):
        folder = copy(whole_run(), f"changed{i}", 2)
        run = Run(folder.name, train, resume=True, **change).end()
        refused += bool(run.code)
        phrases.append(
            f"{name}: {run.short_error}" if run.code
            else f"{name}: trained on, warnings: {warnings_of(run)}"
        )  # fmt: skip
    outcome = ("fail", "partial", "partial", "pass")[refused]
    return outcome, "; ".join(phrases)


# --- Signals, workers and ranks


class Sleeper:
    """Wraps a dataset's ``__getitem__``: one image takes forever."""

    def __init__(self, dataset: Any, folder: Path) -> None:
        self.get, self.folder, self.calls = dataset.__getitem__, folder, 0
        self.parent = os.getpid()

    def __call__(self, index: int) -> Any:
        self.calls += 1
        if self.calls > 9:
            (self.folder / "worker.pid").write_text(str(os.getpid()))
            while os.getppid() == self.parent:  # then it would be left over
                time.sleep(0.1)
            os._exit(0)
        return self.get(index)


def fall_asleep(runner: Any) -> None:
    """Let a worker sleep at its tenth image."""
    dataset = runner.train_dataloader.dataset
    sleeper = Sleeper(dataset, Path(runner.work_dir))
    kind = type(dataset)
    dataset.__class__ = type(kind.__name__, (kind,), {})
    dataset.__class__.__getitem__ = lambda self, index: sleeper(index)


def build_loader(runner: Any) -> None:
    """Make the loader exist before the injuries that follow."""
    runner._train_loop = runner.build_train_loop(runner._train_loop)
    runner._train_dataloader = runner._train_loop.dataloader


def sleeping_run(name: str) -> Run:
    """A run whose worker sleeps, once it does."""
    run = Run(name, train, build_loader, fall_asleep, train_dataloader__num_workers=1)
    return run.wait_until((run.folder / "worker.pid").exists)


@check("R8")
def signals() -> Seen:
    """SIGTERM and SIGUSR1 between steps, SIGTERM while a worker lets the run wait."""
    phrases, saved = [], 0
    for signum in (signal.SIGTERM, signal.SIGUSR1):
        _, whole, phrase = stop_by(signum)
        saved += whole
        phrases.append(phrase)
    run = sleeping_run("signal_wait").kill(signal.SIGTERM)
    saved += loads(run.checkpoint)
    phrases.append(f"SIGTERM in a wait for data: exit {run.code}, {run.pointer()}")
    outcome = "pass" if saved == 3 else "partial" if saved else "fail"
    return outcome, "; ".join(phrases)


@check("R23")
def workers() -> Seen:
    """Five workers that are killed, and one that sleeps."""
    errors, named, saved, hangs = set(), 0, 0, 0
    for kill in range(5):
        run = Run(
            f"worker_killed{kill}", train, train_dataloader__num_workers=1,
            train_cfg__max_epochs=10_000,
        ).wait_for(2)  # fmt: skip
        (worker,) = children(run.process.pid or 0)
        os.kill(worker, signal.SIGKILL)
        run.end(HANG)
        steps = read(run.checkpoint)["meta"]["iter"] if loads(run.checkpoint) else 0
        errors.add(run.error.split(":")[0])
        named += str(worker) in run.error
        saved += steps == len(run.steps)
        hangs += run.hangs
    asleep = sleeping_run("worker_asleep").end(HANG)
    how = f"still waiting after {HANG} s" if asleep.hangs else asleep.short_error
    outcome = "fail" if hangs else "partial" if asleep.hangs else "pass"
    return outcome, (
        f"5 killed workers: {', '.join(sorted(errors))}, the worker named in {named}, "
        f"all steps saved in {saved}; sleeping worker: {how}"
    )


def children(pid: int) -> list[int]:
    """Processes that a process started, torch's helpers left out."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            if int(path.read_text().rpartition(")")[2].split()[1]) == pid:
                found.append(int(path.parent.name))
    return found


@check("R28")
def lost_rank() -> Seen:
    """Rank 1 is killed; rank 1 stops answering."""
    ends = []
    for signum in (signal.SIGKILL, signal.SIGSTOP):
        # Long enough not to end by itself.
        ranks = start_ranks(
            f"lost{signum}",
            train_dataloader__batch_size=2,
            train_cfg__max_epochs=10_000,
        )
        for rank in ranks:
            rank.wait_for(2)
        os.kill(ranks[1].process.pid or 0, signum)
        ends.append(ranks[0].end(HANG))
        ranks[1].end(0)
    killed, stopped = ends
    named = "rank 1" in killed.error.lower()
    phrases = [
        f"rank 1 killed: rank 0 hangs for {HANG} s" if killed.hangs else
        f"rank 1 killed: rank 0 ended within {math.ceil(killed.seconds)} s, its error "
        f"{'names' if named else 'does not name'} the rank",
        f"rank 1 stopped: rank 0 {'still waits' if stopped.hangs else 'ended'} after "
        f"{HANG} s (timeout of the process group: 1800 s)",
    ]  # fmt: skip
    fine = (not killed.hangs and named) + (not stopped.hangs)
    outcome = "pass" if fine == 2 else "fail" if killed.hangs else "partial"
    return outcome, "; ".join(phrases)


@check("R25")
def one_folder() -> Seen:
    """Two runs at a time; a folder of another user."""
    two = [Run("shared", train, rank=rank) for rank in ("0", "1")]
    ends = [run.end() for run in two]
    refused = any(run.code for run in ends)
    folder = SCRATCH / "read_only"
    folder.mkdir(mode=0o555)
    run = Run("read_only_run", train_elsewhere, str(folder)).end()
    before = bool(run.error) and not run.steps
    outcome = ("fail", "partial", "pass")[refused + before]
    return outcome, (
        f"two runs in one work_dir: "
        f"{'one refused' if refused else 'both trained to the end, no message'}; "
        f"read-only work_dir: {run.error.split(':')[0] or 'no error'} "
        f"{'before' if before else 'not before'} the first step"
    )


def train_elsewhere(folder: Path, work_dir: str) -> None:
    """Train as a user who may not write there: root may write everywhere."""
    if os.geteuid() == 0:
        for path in (folder, *folder.iterdir()):
            os.chmod(path, 0o777)
        os.seteuid(65534)
    train(folder, work_dir=work_dir)


# --- Data


def draws_by_epoch(run: Run) -> list[dict[str, str]]:
    """What each image looked like, by epoch."""
    epochs: dict[int, dict[str, str]] = {}
    for step in run.steps:
        epochs.setdefault(step["epoch"], {}).update(step["draws"])
    return list(epochs.values())


@check("R9")
def draws_per_epoch() -> Seen:
    """Share of the images that look as in the first epoch; images in their order."""
    repeated = {}
    for persistent in (False, True):
        run = Run(
            f"draws{persistent}", train, train_dataloader__num_workers=2,
            train_dataloader__persistent_workers=persistent,
            train_dataloader__sampler__shuffle=False,
        ).end()  # fmt: skip
        first, *others = draws_by_epoch(run)
        repeated[persistent] = sum(
            later[name] == first[name] for later in others for name in first
        ) / sum(map(len, others))
    stock = Config.fromfile(STOCK).train_dataloader.persistent_workers
    return ("fail" if repeated[False] else "pass"), (
        f"views in epochs 2 and 3 that equal those of epoch 1: {repeated[False]:.0%} "
        f"without persistent_workers, {repeated[True]:.0%} with them (the stock config "
        f"{'has' if stock else 'does not have'} them; images in a fixed order)"
    )


class Numbers(torch.utils.data.Dataset):
    """What a worker draws from the global generators."""

    def __len__(self) -> int:
        return 16

    def __getitem__(self, index: int) -> list[float]:
        numbers = [random.random(), torch.rand(()).item()]
        return [np.random.rand(), *numbers]  # noqa: NPY002 - what transforms draw from


def streams(folder: Path, name: str, seed: int, rank: int) -> None:
    """Write what each of two workers draws, by mmengine's own seeding."""
    if rank:  # one of two, without the other
        from torch.testing._internal.distributed.fake_pg import FakeStore

        torch.distributed.init_process_group(
            "fake", rank=rank, world_size=2, store=FakeStore()
        )
    loader = Runner.build_dataloader(
        dict(
            dataset=Numbers(), batch_size=4, num_workers=2,
            multiprocessing_context="fork",
            sampler=dict(type="DefaultSampler", shuffle=False),
            collate_fn=dict(type="pseudo_collate"),
        ),
        seed=seed,
    )  # fmt: skip
    drawn = [str(batch) for batch in loader]
    (folder / f"{name}.json").write_text(json.dumps(drawn[:2]))


@check("R10")
def streams_apart() -> Seen:
    """Seeds 0, 1 and 2 on rank 0, seed 0 on rank 1, two workers each."""
    found = {}
    for name, seed, rank in (("s", 0, 0), ("s1", 1, 0), ("s2", 2, 0), ("r1", 0, 1)):
        run = Run("streams", streams, name, seed, rank).end()
        if run.code:
            raise RuntimeError(run.log)
        found[name] = json.loads((run.folder / f"{name}.json").read_text())
    neighbours = len(set(found["s"]) & set(found["s1"]))
    ranks = len(set(found["s2"]) & set(found["r1"]))
    return ("fail" if neighbours or ranks else "pass"), (
        f"2 workers: seeds 0 and 1 share {neighbours} of 2 streams; seed 0 on rank 1 "
        f"and seed 2 on rank 0 share {ranks} of 2"
    )


def folder_with(name: str, write: Callable[[Path], None], bad: int = 1) -> str:
    """Images of a run of which some are spoiled."""
    folder = SCRATCH / name / "images"
    write_images(folder)
    for i in range(bad):
        write(folder / f"{i:02}.jpg")
    return name


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def vanish(runner: Any) -> None:
    """Delete the images that the last run was told to find, after the listing."""
    dataset = runner.train_dataloader.dataset
    dataset.full_init()
    for i in range(int(os.environ["VANISH"])):
        Path(dataset.get_data_info(i)["img_path"]).unlink()


UNREADABLE: dict[str, Callable[[Path], Any]] = {
    "truncated": _cut,
    "text": lambda path: path.write_text("no image"),
    "empty": lambda path: path.write_bytes(b""),
}


def train_without(folder: Path, missing: int, **changes: Any) -> None:
    """Train on a list of which some files are gone."""
    os.environ["VANISH"] = str(missing)
    train(folder, build_loader, vanish, **changes)


@check("R11")
def unreadable() -> Seen:
    """One bad image of each kind, by policy."""
    phrases, good = [], 0
    load = "train_dataloader__dataset__pipeline"
    for kind in (*UNREADABLE, "missing"):
        ends = []
        for skip in (False, True):
            name = folder_with(f"{kind}{skip}", UNREADABLE.get(kind, lambda path: None))
            pipeline = config(SCRATCH / name).train_dataloader.dataset.pipeline
            pipeline[0]["ignore_empty"] = skip
            options = {load: pipeline, "train_cfg__max_epochs": 1}
            if kind == "missing":
                run = Run(name, train_without, 1, **options).end()
            else:
                run = Run(name, train, **options).end()
            bad = "00.jpg"
            used = any(bad in step["images"] for step in run.steps)
            if run.code:
                error = run.error.split(":")[0]
                ends.append(f"{error} {'with' if bad in run.error else 'without'} path")
            else:
                ends.append("trained on it" if used else "skipped")
            if skip:
                good += ends[-1] == "skipped"
            else:
                good += ends[-1].endswith("with path")
        phrases.append(
            f"{kind}: {ends[0]}" if ends[0] == ends[1]
            else f"{kind}: {ends[0]}, with ignore_empty {ends[1]}"
        )  # fmt: skip
    outcome = "pass" if good == 2 * len(phrases) else "partial" if good else "fail"
    return outcome, "; ".join(phrases)


@check("R12")
def many_unreadable() -> Seen:
    """A third of the images is gone."""
    name = folder_with("third", lambda path: None)
    pipeline = config(SCRATCH / name).train_dataloader.dataset.pipeline
    pipeline[0]["ignore_empty"] = True
    options = {"train_dataloader__dataset__pipeline": pipeline}
    run = Run(name, train_without, 8, **options, train_cfg__max_epochs=1).end()
    if run.code:
        return "pass", run.short_error
    images = {name for step in run.steps for name in step["images"]}
    return "fail", (
        f"8 of 24 images missing, ignore_empty: trained on {len(images)} to the end, "
        f"warnings: {warnings_of(run)}"
    )


ODD_IMAGES: dict[str, Callable[[], Image.Image]] = {
    "CMYK": lambda: Image.new("CMYK", (40, 40), (10, 200, 30, 40)),
    "16-bit": lambda: Image.fromarray(np.full((40, 40), 40_000, np.uint16)),
    "gray": lambda: Image.new("L", (40, 40), 99),
    "alpha": lambda: Image.new("RGBA", (40, 40), (10, 200, 30, 40)),
    "1 x 1": lambda: Image.new("RGB", (1, 1), (10, 200, 30)),
    "1 x 500": lambda: Image.new("RGB", (1, 500), (10, 200, 30)),
    "30,000 x 40": lambda: Image.new("RGB", (30_000, 40), (10, 200, 30)),
}


def odd_images(folder: Path) -> None:
    """Send each through the stock pipeline, ten times; note what came of it."""
    from mmpretrain.registry import TRANSFORMS

    init_default_scope("mmpretrain")
    steps = config(folder).train_dataloader.dataset.pipeline
    pipeline = [TRANSFORMS.build(step) for step in steps]
    found = {}
    for name, draw in ODD_IMAGES.items():
        image = draw()
        file = folder / ("a.jpg" if image.mode == "CMYK" else "a.png")
        image.save(file)
        try:
            shapes = set()
            for _ in range(10):
                data: Any = {"img_path": str(file)}
                for transform in pipeline:
                    data = transform(data)
                shapes |= {(tuple(v.shape), str(v.dtype)) for v in data["inputs"]}
            one = shapes == {((3, 32, 32), "torch.uint8")}
            found[name] = "" if one else f"{sorted(shapes)}"
        except Exception as error:
            found[name] = type(error).__name__
    (folder / "found.json").write_text(json.dumps(found))


@check("R13")
def odd() -> Seen:
    """Each through the stock pipeline."""
    run = Run("odd", odd_images).end()
    found = json.loads((run.folder / "found.json").read_text())
    bad = [f"{name}: {what}" for name, what in found.items() if what]
    good = [name for name, what in found.items() if not what]
    outcome = "pass" if not bad else "partial" if good else "fail"
    return outcome, "; ".join([f"3 x 32 x 32 bytes: {', '.join(good)}", *bad])


# --- Training


def poison(runner: Any) -> None:
    """NaN in the loss of one step of the second epoch, as it would come about."""
    loss = runner.model.head.loss

    def poisoned(*args: Any) -> Any:
        return loss(*args) * (float("nan") if runner.iter == STEPS + 2 else 1)

    runner.model.head.loss = poisoned


@check("R14")
def not_a_number() -> Seen:
    """NaN at one step."""
    run = Run("nan", train, poison, default_hooks__checkpoint__max_keep_ckpts=1).end()
    bad = [step for step in run.steps if not math.isfinite(step["loss"])]
    last = read(run.checkpoint)["state_dict"]
    spoiled = sum(
        not v.isfinite().all() for v in last.values() if v.is_floating_point()
    )
    if run.code and not spoiled:
        return "pass", run.short_error
    kept = "NaN in the only checkpoint that is left" if spoiled else "checkpoint whole"
    return "fail", (
        f"exit {run.code}, {len(bad)} steps with a loss of NaN, "
        f"{kept} ({spoiled} tensors), warnings: {warnings_of(run)}"
    )


def constant_embeddings(runner: Any) -> None:
    """Let both encoders give one vector for every image, and fill the queue with it."""
    model = runner.model
    for neck in (model.neck, model.encoder_k.module[1]):
        neck.forward = lambda x: [x[-1].flatten(1)[:, :16] * 0 + torch.ones(16)]
    model.queue.fill_(0.25)


@check("R15")
def collapse() -> Seen:
    """Constant embeddings from the first step."""
    run = Run("constant", train, constant_embeddings).end()
    pinned = [s for s in run.steps if abs(s["loss"] - math.log(65)) < 0.01]
    said = warnings_of(run)
    return ("pass" if said else "fail"), (
        f"{len(pinned)} of {len(run.steps)} steps with a loss of ln(K + 1), "
        f"warnings: {said}"
    )


@check("R21")
def odd_batch() -> Seen:
    """Batch 6, 64 keys."""
    run = Run("batch6", train, train_dataloader__batch_size=6).end()
    if run.code:
        where = "_dequeue_and_enqueue" in run.log
        return "fail", (
            f"{run.error.split(':')[0]} in the first step"
            f"{' (queue_len % batch_size)' if where else ''}"
        )
    return "pass", "trained to the end"


@check("R26")
def mixed_precision() -> Seen:
    """AmpOptimWrapper without a GPU."""
    run = Run("amp", train, optim_wrapper__type="AmpOptimWrapper").end()
    return ("fail" if run.code else "pass"), run.short_error or "trained to the end"


def shuffled_features(folder: Path) -> None:
    """Key features of a batch by the shuffle of MoCo, and without it."""
    from mmpretrain.models.utils.batch_shuffle import (
        batch_shuffle_ddp,
        batch_unshuffle_ddp,
    )
    from mmpretrain.registry import MODELS

    init_default_scope("mmpretrain")
    model = MODELS.build(config(folder).model)
    model.train()
    images = torch.randn(8, 3, 32, 32)
    with torch.no_grad():
        plain = model.encoder_k(images)[0]
        mixed, back = batch_shuffle_ddp(images)
        shuffled = batch_unshuffle_ddp(model.encoder_k(mixed)[0], back)
    apart = ((shuffled - plain).abs().max() / plain.abs().max()).item()
    (folder / "apart.txt").write_text(str(apart))


@check("R27")
def one_device_shuffle() -> Seen:
    """Does the shuffle change which images share statistics?"""
    run = Run("shuffle", shuffled_features).end()
    apart = float((run.folder / "apart.txt").read_text())
    said = "shuffle" in whole_run().log.lower().replace("shuffle=", "")
    nothing = apart < 1e-4
    return ("fail" if nothing and not said else "pass"), (
        f"key features with and without the shuffle differ by {apart:.0e} of their "
        f"size: {'no' if nothing else 'an'} effect; "
        f"{'told' if said else 'not told'} in the log"
    )


# --- Weights and files


def pretrained(folder: Path, file: str, prefix: str | None, result: str) -> None:
    """Initialise a ResNet-50 by mmengine's ``Pretrained``, as mmdet and mmseg do."""
    from mmpretrain.models import ResNet

    init_default_scope("mmpretrain")
    init = dict(type="Pretrained", checkpoint=file)
    if prefix:
        init["prefix"] = prefix
    model = ResNet(50, stem_channels=16, base_channels=16, init_cfg=init)
    model.init_weights()
    torch.save(model.state_dict(), result)


def source(name: str, change: Callable[[dict], dict] = dict) -> tuple[Path, dict]:
    """A checkpoint of a backbone unlike any initialisation."""
    from mmpretrain.models import ResNet

    torch.manual_seed(1)
    state = ResNet(50, stem_channels=16, base_channels=16).state_dict()
    for key, value in state.items():
        state[key] = torch.randn_like(value) if value.is_floating_point() else value + 7
    path = SCRATCH / f"{name}.pth"
    changed = change(state)
    torch.save({"state_dict": {f"backbone.{k}": v for k, v in changed.items()}}, path)
    return path, state


def hand_over(
    name: str, prefix: str | None, change: Callable[[dict], dict] = dict
) -> tuple[Run, int, int]:
    """Hand a file over; the number of tensors that arrived, and of all."""
    path, state = source(name, change)
    run = Run(f"{name}_run", pretrained, str(path), prefix, f"{name}_model.pth").end()
    arrived = 0
    if not run.code:
        model = read(run.folder / f"{name}_model.pth")
        arrived = sum(
            v.shape == model[n].shape and torch.equal(v, model[n])
            for n, v in state.items()
        )
    return run, arrived, len(state)


@check("R16")
def wrong_prefix() -> Seen:
    """Names below 'backbone.': loaded without a prefix, and with another one."""
    none, count, total = hand_over("no_prefix", None)
    other, *_ = hand_over("other_prefix", "encoder.")
    raised = bool(none.code), bool(other.code)
    outcome = ("fail", "partial", "pass")[sum(raised)]
    hint = "'backbone.'" in other.error or "prefix is 'backbone" in other.error
    return outcome, (
        "no prefix given: "
        + (none.short_error or f"{count} of {total} tensors loaded, no error")
        + f"; prefix that the file lacks: {other.short_error or 'no error'}"
        + (", right one hinted" if hint else ", no hint of the right one")
    )


def _widen(state: dict) -> dict:
    name = "layer4.2.conv3.weight"
    return {**state, name: torch.randn(8, *state[name].shape[1:])}


@check("R17")
def part_of_the_weights() -> Seen:
    """Six of ten tensors; one of another shape."""
    some, count, total = hand_over(
        "part", "backbone.", lambda s: dict(list(s.items())[: int(0.6 * len(s))])
    )
    shape, kept, _ = hand_over("shape", "backbone.", _widen)
    raised = bool(some.code) + bool(shape.code)
    phrases = [
        f"60 % of the names: {some.short_error or f'{count} of {total} loaded'}",
        f"one other shape: {shape.short_error or f'{kept} of {total} loaded'}",
    ]
    listed = "missing keys" in some.log and "size mismatch" in shape.log
    said = ", no error, both listed in the log" if listed else ", no error"
    return ("fail", "partial", "pass")[raised], "; ".join(phrases) + (
        "" if raised == 2 else said
    )


@check("R18")
def arrives() -> Seen:
    """The right prefix: does everything arrive, and is that recorded?"""
    run, count, total = hand_over("right", "backbone.")
    text = run.log.lower()
    recorded = any(word in text for word in ("sha256", "hash", f"{total} "))
    outcome = "fail" if count < total else "pass" if recorded else "partial"
    return outcome, (
        f"{count} of {total} tensors arrived (mmpretrain's ResNet), "
        f"{'recorded' if recorded else 'neither count nor hash recorded'} in the log"
    )


class Payload:
    """Leaves a file where its pickle is loaded."""

    def __init__(self, sign: Path) -> None:
        self.sign = sign

    def __reduce__(self) -> tuple:
        return Path.touch, (self.sign,)


def load_payload(folder: Path) -> None:
    """Load it as every Runner does."""
    load_checkpoint(torch.nn.Linear(1, 1), str(folder / "payload.pth"))


@check("R19")
def payload() -> Seen:
    """A pickle that runs code."""
    folder = SCRATCH / "payload"
    folder.mkdir()
    content = {"state_dict": {}, "extra": Payload(folder / "sign")}
    torch.save(content, folder / "payload.pth")
    run = Run("payload", load_payload).end()
    ran = (folder / "sign").exists()
    return ("fail" if ran else "pass"), (
        "load_checkpoint ran the code" if ran else f"refused: {run.short_error}"
    )


@check("R20")
def side_effects() -> Seen:
    """A config that writes a file."""
    folder = SCRATCH / "side"
    folder.mkdir()
    sign = folder / "sign"
    text = f"from pathlib import Path\nPath({str(sign)!r}).touch()\nlr = 0.1\n"
    (folder / "config.py").write_text(text)
    Run("side", read_config, "config.py").end()
    ran = sign.exists()
    strict = [n for n in Config.fromfile.__code__.co_varnames if "strict" in n]
    return ("fail" if ran and not strict else "pass"), (
        f"the config's code {'ran' if ran else 'did not run'}; Config.fromfile has "
        f"{'a' if strict else 'no'} strict mode"
    )


def read_config(folder: Path, name: str) -> None:
    """Read a config."""
    Config.fromfile(folder / name)


# --- All of it


def observe(fault: str) -> dict[str, str]:
    """Run a check; return its row."""
    begin = time.monotonic()
    outcome, observed = CHECKS[fault]()
    observed = observed.replace(str(SCRATCH), "...")
    seconds = time.monotonic() - begin
    print(f"{fault} {seconds:.0f} s {outcome}: {observed}", flush=True)
    versions = VERSIONS
    if fault in FURTHER:
        name, package = FURTHER[fault]
        versions += f", {name} {importlib.metadata.version(package)}"
    row = (fault, FAULTS[fault], outcome, observed, versions)
    return dict(zip(COLUMNS, row, strict=True))


def save(row: dict[str, str]) -> None:
    """Put a row into the table."""
    rows = {}
    if RESULTS.exists():
        with RESULTS.open(newline="", encoding="utf-8") as file:
            rows = {old["id"]: old for old in csv.DictReader(file)}
    rows[row["id"]] = row
    with RESULTS.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows[fault] for fault in FAULTS if fault in rows)


def main() -> None:
    """Run the checks that were asked for; each row is saved at once."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("faults", nargs="*", metavar="ID", help="all if none is given")
    try:
        write_images(SCRATCH / "images")
        for fault in parser.parse_args().faults or FAULTS:
            save(observe(fault))
    finally:
        shutil.rmtree(SCRATCH, ignore_errors=True)


if __name__ == "__main__":
    main()
