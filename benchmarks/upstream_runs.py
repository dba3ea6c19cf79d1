"""Runs of mmpretrain's MoCo v2 that can be injured, killed and looked at.

The stock config made small: a ResNet-18 of 1/8 width, 64 keys in the queue, 24 images
of 32 x 32, batch 4; everything else, its hooks and its augmentation included, stays as
it is. Each run is a process of its own in a folder of its own.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import multiprocessing as mp
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import mmpretrain
import numpy as np
import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.runner import Runner
from PIL import Image

STOCK = Path(mmpretrain.__file__).parent / (
    ".mim/configs/mocov2/mocov2_resnet50_8xb32-coslr-200e_in1k.py"
)
STEPS = 6  # per epoch: 24 images in batches of 4
EPOCHS = 3
HANG = 20  # seconds without a step that count as a hang
SCRATCH = Path(tempfile.gettempdir(), f"upstream_faults_{os.getpid()}")

# Forked from a server that has imported everything: a child starts in a moment.
CONTEXT = mp.get_context("forkserver")
CONTEXT.set_forkserver_preload(
    ["mmengine.runner", "mmpretrain.models", "mmpretrain.datasets", "mmpretrain.engine"]
)


def write_images(folder: Path, number: int = 24) -> None:
    """Noisy images of different colours."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    for i in range(number):
        pixels = rng.integers(0, 256, 3) + rng.normal(0, 40, (32, 32, 3))
        image = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
        image.save(folder / f"{i:02}.jpg", quality=95)


def config(folder: Path, **changes: Any) -> Config:
    """The stock config made small; dots in the names are written as two underscores."""
    cfg = Config.fromfile(STOCK)
    cfg.model.backbone.update(depth=18, stem_channels=8, base_channels=8)
    cfg.model.neck.update(in_channels=64, hid_channels=64, out_channels=16)
    cfg.model.update(queue_len=64, feat_dim=16)
    loader = cfg.train_dataloader
    loader.update(batch_size=4, num_workers=0, persistent_workers=False)
    pipeline = loader.dataset.pipeline
    pipeline[1].transforms[0][0].scale = 32
    own = folder / "images"
    images = own if own.is_dir() else folder.parent / "images"
    loader.dataset = dict(
        type="CustomDataset", data_root=str(images), with_label=False, pipeline=pipeline
    )
    cfg.train_cfg.max_epochs = EPOCHS
    cfg.default_hooks.logger.interval = 1
    cfg.randomness.seed = 0
    cfg.work_dir, cfg.experiment_name = str(folder), folder.name
    cfg.merge_from_dict({k.replace("__", "."): v for k, v in changes.items()})
    return cfg


class Journal(Hook):
    """Writes down what each step was, at once: the run may be killed."""

    priority = "VERY_LOW"

    def __init__(self, folder: Path) -> None:
        self.file = folder / f"journal{os.environ.get('RANK', '')}.jsonl"

    def write(self, **line: Any) -> None:
        with self.file.open("a") as file:
            file.write(json.dumps(line) + "\n")

    def before_train(self, runner: Any) -> None:
        model = getattr(runner.model, "module", runner.model)
        queue = digest(model.queue) if hasattr(model, "queue") else None
        self.write(start=runner.iter, queue=queue)

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        names = [Path(s.img_path).name for s in data_batch["data_samples"]]
        views = zip(*data_batch["inputs"], strict=True)
        draws = [digest(*v) for v in views]
        line = {"epoch": runner.epoch, "draws": dict(zip(names, draws, strict=True))}
        self.write(iter=runner.iter, loss=float(outputs["loss"]), images=names, **line)


def train(folder: Path, *injuries: Callable[[Any], None], **changes: Any) -> None:
    """Build the run, injure it and train."""
    runner = Runner.from_cfg(config(folder, **changes))
    runner.register_hook(Journal(folder))
    for injure in injuries:
        injure(runner)
    runner.train()


class Run:
    """A process that works in a folder of its own below the scratch folder.

    Args:
        name: The folder.
        function: Called with the folder, ``args`` and ``options``.
    """

    def __init__(self, name: str, function: Callable, *args: Any, **options: Any):
        self.folder = SCRATCH / name
        self.folder.mkdir(parents=True, exist_ok=True)
        self.rank = str(options.get("rank", ""))
        given = (self.folder, self.rank, function, args, options)
        self.process = CONTEXT.Process(target=_work, args=given)
        self.process.start()

    def end(self, limit: float = 120) -> Run:
        """Wait for the end; a run that takes longer is killed and ``hangs``."""
        begin = time.monotonic()
        self.process.join(limit)
        self.seconds = time.monotonic() - begin
        self.hangs = self.process.is_alive()
        self.process.kill()
        self.process.join()
        self.code = self.process.exitcode
        return self

    def wait_for(self, steps: int, limit: float = 60) -> Run:
        """Wait until so many steps are done."""
        return self.wait_until(lambda: len(self.steps) >= steps, limit)

    def wait_until(self, happened: Callable[[], bool], limit: float = 60) -> Run:
        """Wait for something."""
        stop = time.monotonic() + limit
        while not happened():
            if time.monotonic() > stop or not self.process.is_alive():
                raise RuntimeError(f"{self.folder.name}: {self.error or self.log}")
            time.sleep(0.01)
        return self

    def kill(self, signum: int = signal.SIGKILL) -> Run:
        """Send a signal and wait for the end."""
        os.kill(self.process.pid or 0, signum)
        return self.end(HANG)

    @property
    def error(self) -> str:
        """Type and message of the exception that ended the run, in one line."""
        file = self.folder / f"error{self.rank}.txt"
        return " ".join(file.read_text().split()) if file.exists() else ""

    @property
    def short_error(self) -> str:
        """As much of it as fits into a cell."""
        return self.error if len(self.error) < 100 else f"{self.error[:97]}..."

    @property
    def log(self) -> str:
        """What the run printed."""
        return (self.folder / f"out{self.rank}.txt").read_text(errors="replace")

    @property
    def journal(self) -> list[dict]:
        """Lines of the journal; the last may be cut off."""
        lines = []
        with contextlib.suppress(OSError, json.JSONDecodeError):
            for line in (self.folder / f"journal{self.rank}.jsonl").open():
                lines.append(json.loads(line))
        return lines

    @property
    def steps(self) -> list[dict]:
        """Its steps."""
        return [line for line in self.journal if "iter" in line]

    @property
    def losses(self) -> dict[int, float]:
        """Loss by iteration; a step that was done again counts as it was last."""
        return {step["iter"]: step["loss"] for step in self.steps}

    @property
    def checkpoint(self) -> Path:
        """The file that the pointer names."""
        pointer = self.folder / "last_checkpoint"
        return Path(pointer.read_text() if pointer.exists() else "no last_checkpoint")

    def files(self) -> str:
        """Sizes of the checkpoints, and the pointer."""
        sizes = [
            f"{p.name} {p.stat().st_size}" for p in sorted(self.folder.glob("*.pth"))
        ]
        return f"{', '.join(sizes) or 'no checkpoint'}; {self.pointer()}"

    def pointer(self) -> str:
        """What ``last_checkpoint`` names, and whether that loads."""
        target = self.checkpoint
        if not target.suffix:
            return str(target)
        state = "loads" if loads(target) else "cut off" if target.exists() else "gone"
        return f"last_checkpoint names {target.name} ({state})"


def _work(
    folder: Path, rank: str, function: Callable, args: tuple, options: dict
) -> None:
    out = os.open(folder / f"out{rank}.txt", os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    os.dup2(out, 1)
    os.dup2(out, 2)
    torch.set_num_threads(1)
    os.chdir(folder)
    try:
        function(folder, *args, **options)
    except BaseException as error:
        name = f"{type(error).__module__}.{type(error).__name__}"
        text = f"{name.removeprefix('builtins.')}: {error}"
        (folder / f"error{rank}.txt").write_text(text)
        raise


def digest(*tensors: torch.Tensor) -> str:
    """Short hash of values."""
    found = hashlib.sha256()
    for tensor in tensors:
        found.update(tensor.contiguous().numpy().tobytes())
    return found.hexdigest()[:16]


def read(path: Path) -> Any:
    """A checkpoint that this script had written."""
    return torch.load(path, weights_only=False, map_location="cpu")


def loads(path: Path) -> bool:
    """Whether torch can read a file."""
    try:
        read(path)
    except Exception:
        return False
    return True


def copy(run: Run, name: str, upto: int = EPOCHS) -> Path:
    """A work_dir as it was after some epochs."""
    folder = SCRATCH / name
    folder.mkdir()
    for epoch in range(1, upto + 1):
        shutil.copy(run.folder / f"epoch_{epoch}.pth", folder)
    (folder / "last_checkpoint").write_text(str(folder / f"epoch_{upto}.pth"))
    return folder


def distance(one: Path, other: Path) -> str:
    """How many of the tensors of two checkpoints differ."""
    a, b = (read(path)["state_dict"] for path in (one, other))
    apart = sum(not torch.equal(a[name], b[name]) for name in a)
    return f"{apart} of {len(a)} final tensors" if apart else ""


def stop_by(signum: signal.Signals) -> tuple[Run, bool, str]:
    """Signal a run in its second epoch; it, whether all was saved, and a phrase."""
    run = Run(f"signal{signum}", train).wait_for(STEPS + 2).kill(signum)
    steps = read(run.checkpoint)["meta"]["iter"]
    lost = f"{len(run.steps) - steps} of {len(run.steps)} steps lost"
    return run, steps >= STEPS + 2, f"{signum.name}: exit {run.code}, {lost}"


def compare(run: Run, whole: Run) -> tuple[bool, str]:
    """Whether a run was the other one, and a phrase on it."""
    expected, found = whole.losses, run.losses
    changed = [i for i in found if found[i] != expected.get(i)]
    last = f"epoch_{EPOCHS}.pth"
    apart = distance(run.folder / last, whole.folder / last)
    if not changed and not apart:
        return True, "losses and final tensors bitwise equal"
    return False, (f"{len(changed)} of {len(found)} losses and {apart} differ")


# --- Checks

Seen = tuple[str, str]  # pass, partial or fail; what was observed
CHECKS: dict[str, Callable[[], Seen]] = {}


def check(fault: str) -> Callable:
    """Register the check of a fault."""

    def register(function: Callable[[], Seen]) -> Callable[[], Seen]:
        CHECKS[fault] = function
        return function

    return register


def warnings_of(run: Run) -> int:
    """Warnings in the log, without those that every run has."""
    return len(_warnings(run) - _warnings(whole_run()))


def _warnings(run: Run) -> set[str]:
    return {
        line.split(" - ", 2)[-1]
        for line in run.log.splitlines()
        # mmengine prints the last one without its logger.
        if any(word in line for word in ("WARNING", "ERROR", "do not match exactly"))
    }


@cache
def whole_run() -> Run:
    """Three epochs that nothing happens to."""
    run = Run("whole", train).end()
    if run.code:
        raise RuntimeError(run.log)
    return run
