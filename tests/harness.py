"""Small real runs, and what starts, stops, resumes and compares them.

Two kinds of runs: :func:`config` and :func:`make_runner` train a tiny MoCo on images as
the tools do; :func:`toy_runner` is the smallest run that mmengine can train, for hooks
around the loop. :class:`RunHarness` takes either.
"""

from __future__ import annotations

import itertools
import json
import os
import runpy
import signal
from collections.abc import Callable, Collection, Iterable
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.evaluator import BaseMetric, Evaluator
from mmengine.hooks import Hook
from mmengine.logging import HistoryBuffer
from mmengine.model import BaseModel
from mmengine.runner import Runner
from PIL import Image

from mmssl_ext.engine.checkpoint.read import find_resumable, load_checkpoint_file
from mmssl_ext.engine.checkpoint.write import wait_for_checkpoints
from mmssl_ext.run.launch import build_runner, prepare
from mmssl_ext.run.tool import run_tool
from tests.distributed import Worker, wait_for, workers
from tests.models.common import model_config

REPO = Path(__file__).resolve().parents[1]
BATCH = 4  # of a toy run
SLOW = partial(pytest.param, marks=pytest.mark.slow)
# Keys of a log that are other in every run.
TIMES = {"time", "data_time", "img_per_s", "data_wait", "memory", "eta"}
_names = itertools.count()

# Runs of a tiny MoCo


def write_images(root: Path, classes: int = 2, per_class: int = 8) -> Path:
    """A folder per class of noisy 16 x 16 images, a colour per class."""
    rng = np.random.default_rng(0)
    for label in range(classes):
        folder = root / f"class{label}"
        folder.mkdir(parents=True)
        colour = rng.integers(0, 256, 3)
        for i in range(per_class):
            noise = rng.normal(0, 40, (16, 16, 3))
            pixels = np.clip(colour + noise, 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / f"{i}.png")
    return root


def loader(root: Path, labels: str = "subfolders", batch_size: int = 4) -> dict:
    """An evaluation loader."""
    return {
        "batch_size": batch_size,
        "num_workers": 0,
        "sampler": {"type": "DefaultSampler", "shuffle": False},
        "collate_fn": {"type": "default_collate"},
        "dataset": {
            "type": "ImageFolder",
            "root": str(root),
            "labels": labels,
            "pipeline": [{"type": "DecodeImage"}, {"type": "PackViews"}],
        },
    }


def knn(bank: Path, query: Path | None = None, **options: Any) -> dict:
    """A kNN hook of folders of images, for ``hooks`` of :func:`config`."""
    loaders = {
        "bank_dataloader": loader(bank),
        "query_dataloader": loader(query or bank),
    }
    return {"type": "KNNHook", "k": 3, **loaders, **options}


def config(root: Path, work_dir: Path, epochs: int = 1, **hooks: Any) -> Config:
    """A config of a tiny MoCo run: batch 4, no kNN unless given in ``hooks``."""
    view = [
        {"type": "RandomResizedCrop", "size": 16, "scale": [0.3, 1.0]},
        {"type": "RandomFlip", "prob": 0.5},
    ]
    train = loader(root)
    train["drop_last"] = True
    train["sampler"]["shuffle"] = True
    train["dataset"]["pipeline"] = [
        {"type": "DecodeImage"},
        {"type": "MakeViews", "views": [view, view]},
        {"type": "PackViews"},
    ]
    return Config(
        {
            "default_scope": "mmssl_ext",
            "model": model_config("MoCo"),
            "train_dataloader": train,
            "train_cfg": {"by_epoch": True, "max_epochs": epochs},
            "optim_wrapper": {
                "optimizer": {"type": "SGD", "lr": 0.05, "momentum": 0.9}
            },
            "param_scheduler": [{"type": "CosineAnnealingLR", "T_max": 10, "end": 10}],
            "default_hooks": {
                "checkpoint": {
                    "type": "PlainCheckpointHook",
                    "interval": 1,
                    "max_keep_ckpts": 1,
                },
                "augmentation_seed": {"type": "AugmentationSeedHook"},
                "logger": {"type": "LoggerHook", "interval": 2},
                **hooks,
            },
            "randomness": {"seed": 0},
            "env_cfg": {"mp_cfg": {"mp_start_method": "fork"}},
            "work_dir": str(work_dir),
        }
    )


def make_runner(cfg: Config, *extra: Hook, **options: Any) -> Runner:
    """The Runner of a config, with a message hub of its own, and further hooks."""
    cfg.experiment_name = f"test_{next(_names)}"
    runner = build_runner(prepare(cfg, **options))
    for hook in extra:
        runner.register_hook(hook)
    return runner


def log_text(runner: Runner) -> str:
    """What the run wrote to its log file."""
    return "".join(p.read_text() for p in Path(runner.log_dir).glob("*.log"))


def log_rows(runner: Runner) -> list[dict]:
    """The lines of the JSON log."""
    file = Path(runner.log_dir, "vis_data", "scalars.json")
    return [json.loads(line) for line in file.read_text().splitlines()]


# Toy runs


class ToyData(torch.utils.data.Dataset):
    root = "data/toys"

    def __len__(self) -> int:
        return 24

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"inputs": torch.tensor([float(index)]), "data_samples": index}


class ToyModel(BaseModel):
    def __init__(self) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(1, 1)

    def forward(self, inputs: Any, data_samples: Any, mode: str) -> dict:
        return {"loss_instance": self.linear(inputs).square().mean()}


def toy_runner(
    work_dir: Path,
    name: str,
    *hooks: Any,
    epochs: int = 2,
    resume: Any = None,
    **changes: Any,
) -> Runner:
    """Build a run of 6 iterations per epoch; ``name`` must be new in the process.

    ``changes`` are arguments of the Runner in place of those here.
    """
    options: dict[str, Any] = dict(
        model=ToyModel(),
        work_dir=str(work_dir),
        train_dataloader=torch.utils.data.DataLoader(ToyData(), batch_size=BATCH),
        train_cfg={"by_epoch": True, "max_epochs": epochs},
        optim_wrapper={"optimizer": {"type": "SGD", "lr": 1e-4}},
        default_hooks={
            "logger": {"type": "LoggerHook", "interval": 2},
            "checkpoint": None,
        },
        custom_hooks=list(hooks),
        randomness={"seed": 3},
        experiment_name=name,
        default_scope="mmengine",
        cfg=Config({"work_dir": str(work_dir)}),
        load_from=None if resume is None else str(resume),
        resume=resume is not None,
    )
    return Runner(**options | changes)


class GivenMetrics(BaseMetric):
    """The metrics of validations, given one after the other."""

    def __init__(self, found: Iterable[dict]) -> None:
        super().__init__()
        self.found = list(found)

    def process(self, data_batch: Any, data_samples: Any) -> None:
        self.results.append(0)

    def compute_metrics(self, results: list) -> dict:
        return self.found.pop(0)


def with_metrics(runner: Runner, *found: dict) -> Runner:
    """Let a toy run validate, and test, with these results."""
    data = torch.utils.data.DataLoader(ToyData(), batch_size=BATCH)
    runner.model.val_step = runner.model.test_step = lambda batch: [0]
    runner._val_dataloader = runner._test_dataloader = data
    runner._val_loop, runner._test_loop = {}, {}
    runner._val_evaluator = runner._test_evaluator = Evaluator([GivenMetrics(found)])
    return runner


# Tools


def call_tool(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: Any, *args: Any
) -> tuple[int, str, str]:
    """Exit code, output and errors of a file in tools/, run in this process."""
    file = REPO / "tools" / f"{name}.py"
    monkeypatch.setattr("sys.argv", [str(file), *map(str, args)])
    return runpy.run_path(str(file))["main"](), *capsys.readouterr()


class Scores(BaseMetric):
    """An evaluation that finds what it is told to."""

    def __init__(self, found: Iterable[float]) -> None:
        super().__init__()
        self.found = list(found)

    def process(self, data_batch: Any, data_samples: Any) -> None:
        self.results.append(0)

    def compute_metrics(self, results: list) -> dict:
        return {"acc": self.found.pop(0)}


def saving_runner(
    work_dir: Path,
    name: str,
    *hooks: Hook,
    scores: Iterable[float] = (),
    size: int = 0,
    iters: int | None = None,
    **options: Any,
) -> Runner:
    """A toy run, for checkpoints that also hold a buffer ``large`` of so many bytes.

    With ``scores``, one per validation, it has the metric ``acc``; with ``iters`` it
    counts by iterations.
    """
    torch.manual_seed(0)
    runner = toy_runner(work_dir, name, *hooks, **options)
    runner.model.register_buffer("large", torch.zeros(size // 4))
    if iters:
        runner._train_loop = {"type": "IterBasedTrainLoop", "max_iters": iters}
    if scores:
        runner.model.val_step = lambda batch: [0]
        runner._val_dataloader = torch.utils.data.DataLoader(ToyData(), BATCH)
        runner._val_loop = {}
        runner._val_evaluator = Evaluator([Scores(scores)])
    return runner


# Start, stop, resume, compare


class Stopped(Exception):
    """What :func:`stop_at` ends a run with."""


class Watch(Hook):
    """Call functions of the runner at events of the loop, by the events' names."""

    def __init__(self, priority: str = "LOWEST", **events: Callable) -> None:
        self.priority = priority
        for event, call in events.items():
            setattr(self, event, lambda runner, *_, call=call, **__: call(runner))


class On(Hook):
    """Call ``function(runner, **what)`` at events, with all that these bring."""

    def __init__(self, priority: str = "LOWEST", **events: Callable) -> None:
        self.priority = priority
        self.__dict__.update(events)


def stop_at(
    iteration: int, event: str = "before_train_iter", priority: str = "LOWEST"
) -> Watch:
    """Raise :class:`Stopped` at this event once so many iterations are done."""

    def stop(runner: Runner) -> None:
        if runner.iter >= iteration:
            raise Stopped

    return Watch(priority, **{event: stop})


class RunHarness:
    """Starts a run, stops it at a step, resumes it and compares the ends.

    Args:
        work_dir: Of the run.
        build: ``build(*hooks, launcher=..., resume=...)`` makes what has ``train()``;
            for processes of their own it must be picklable. None: only look at the run.
        hooks: Every start of the run has them.
    """

    def __init__(
        self, work_dir: Path, build: Callable[..., Any] | None = None, *hooks: Hook
    ) -> None:
        self.work_dir, self.build, self.hooks = Path(work_dir), build, hooks

    @classmethod
    def of(cls, cfg: Config, *hooks: Hook) -> RunHarness:
        """The run of a config."""
        return cls(Path(cfg.work_dir), partial(_built, cfg.to_dict()), *hooks)

    # In processes of its own

    def start(
        self,
        *hooks: Hook,
        resume: bool = False,
        ranks: int = 1,
        only: int | None = None,
    ) -> AbstractContextManager[list[Worker]]:
        """Start it, as tools/train.py does; rank ``only`` has ``hooks``, or all."""
        how = self.build, self.hooks, hooks, resume, only
        return workers(_train, ranks, self.work_dir / "output", *how)

    def run(
        self, *hooks: Hook, code: int | None = 0, seconds: float = 100.0, **how: Any
    ) -> str:
        """Run until it ends by itself; return what rank 0 printed.

        ``code`` is what every rank must end with; None where one was killed.
        """
        with self.start(*hooks, **how) as found:
            wait_for(found, seconds)
            codes, texts = [x.code for x in found], [x.text for x in found]
        if code is None:
            assert -signal.SIGKILL in codes, texts[0]
        else:
            assert codes == [code] * len(codes), "\n".join(texts)
        return texts[0]

    # In this process

    def train(
        self, *hooks: Hook, stops: bool = False, resume: bool | Path = False
    ) -> Runner:
        """Train, up to :class:`Stopped` where it ``stops``; return the runner."""
        runner = self.build(*self.hooks, *hooks, launcher="none", resume=resume)
        if stops:
            with pytest.raises(Stopped):
                runner.train()
        else:
            runner.train()
        return runner

    # Afterwards

    def saved(self) -> dict:
        """The content of the newest checkpoint; none may have been passed over."""
        wait_for_checkpoints()
        path, passed_over = find_resumable(self.work_dir)
        assert path is not None and not passed_over
        return load_checkpoint_file(path)

    def end(self, steps: int) -> dict:
        """What the last checkpoint says of the run, without paths and times."""
        found = self.saved()
        assert found["meta"]["iter"] == steps
        scalars = {
            key: value
            for key, value in found["message_hub"]["log_scalars"].items()
            if key.split("/")[-1] not in TIMES
        }
        state = {k: v for k, v in found["training_state"].items() if k != "config"}
        parts = ("state_dict", "optimizer", "param_schedulers")
        return {"scalars": scalars, "state": state} | {x: found[x] for x in parts}

    def curve(self) -> list[dict]:
        """All lines of the JSON logs, in the order of writing, without times."""
        files = sorted(self.work_dir.glob("*/vis_data/scalars.json"))
        rows = [json.loads(x) for file in files for x in file.read_text().splitlines()]
        return [{k: v for k, v in row.items() if k not in TIMES} for row in rows]


def _built(cfg: dict, *hooks: Hook, **options: Any) -> Runner:
    return make_runner(Config(cfg), *hooks, **options)


def _train(
    rank: int,
    build: Callable[..., Any],
    always: tuple[Hook, ...],
    hooks: tuple[Hook, ...],
    resume: bool,
    only: int | None,
) -> int:
    launcher = "pytorch" if int(os.environ["WORLD_SIZE"]) > 1 else "none"
    mine = hooks if only in (None, rank) else ()
    return run_tool(
        lambda: build(*always, *mine, launcher=launcher, resume=resume).train()
    )()


def assert_same(
    a: Any, b: Any, where: str = "", ignored: Collection[str] = (), order: bool = False
) -> None:
    """Nested data are equal: tensors to the last bit, and all types.

    Args:
        a: Data.
        b: What they are compared with.
        where: Path within the whole, for the message.
        ignored: Paths that may differ.
        order: Keys must come in the same order, too.
    """
    if where in ignored:
        return
    assert type(a) is type(b), where
    if isinstance(a, torch.Tensor):
        assert a.dtype == b.dtype and torch.equal(a, b), where
    elif isinstance(a, dict):
        assert a.keys() == b.keys(), (where, a.keys() ^ b.keys())
        assert not order or list(a) == list(b), where
        for key in a:
            assert_same(a[key], b[key], f"{where}.{key}".strip("."), ignored, order)
        assert getattr(a, "_metadata", 0) == getattr(b, "_metadata", 0), where
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b), where
        for i, pair in enumerate(zip(a, b, strict=True)):
            assert_same(*pair, f"{where}[{i}]", ignored, order)
    elif isinstance(a, HistoryBuffer):
        for x, y in zip(a.data, b.data, strict=True):
            assert x.tolist() == y.tolist(), where
    else:
        assert a == b or (a != a and b != b), (where, a, b)
