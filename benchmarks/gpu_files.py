"""From JPEG files to the step on a GPU: whole Runners, ours and mmpretrain's."""

import contextlib
import itertools
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import common
import peers
import torch
from gpu_ours import MOCO, made_up, our_config, our_step, slim
from gpu_peers import MMPRETRAIN
from gpu_timing import Ratio, Scale, Timing, table, time_steps
from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmengine.runner import Runner


def b8(scale: Scale, images: Path | None = None) -> list[dict]:
    """From files to the step, by the wall clock, Runner, hooks and loader included."""
    blocks = scale.blocks
    needed = 20 + scale.steps if scale.measures else 2
    batch, _ = made_up(scale)
    timings: dict[str, Timing] = {}
    with looped(images, scale, needed + 2) as folder:
        makers = {
            "ours": lambda: our_runner(folder, scale, "device"),
            "ours_worker": lambda: our_runner(folder, scale, "worker"),
            "mmpretrain": lambda: mmpretrain_runner(folder, scale, amp=False),
            "mmpretrain_amp": lambda: mmpretrain_runner(folder, scale, amp=True),
        }
        loops, missing = peers.available(makers)
        begin = time.monotonic()
        for block in range(blocks):
            if block > 1 and time.monotonic() - begin > scale.seconds:
                print(f"{block} blocks instead of {blocks}: the time is up.")
                break
            for name, runner in loops.items():
                timing = timings.setdefault(name, Timing())
                timing.seconds.append(end_to_end(runner, scale, needed))
    alone = time_steps({"compute": our_step(MOCO, scale, batch)}, scale)
    # One block of the step alone for each block from the files.
    count = len(timings["ours"].seconds)
    middle = statistics.median(alone["compute"].seconds)
    timings["compute"] = Timing([middle] * count)
    ratios: list[Ratio] = [
        ("end-to-end speed-up", "mmpretrain", "ours", 4.0, False, 1),
        ("end-to-end speed-up", "mmpretrain_amp", "ours", 0, False, 1),
        ("speed-up by augmenting on the device", "ours_worker", "ours", 0, False, 1),
        ("step alone / end to end", "compute", "ours", 0.9, False, 1),
    ]
    note = f"{scale.workers} workers"
    return table("b8", timings, ratios, missing, scale, note)


@contextlib.contextmanager
def looped(images: Path | None, scale: Scale, batches: int) -> Iterator[Path]:
    """A folder whose files are links to at most 45 MB of images, over and over.

    As many as an epoch of ``batches`` needs; the files stay in the page cache.
    """
    with common.photographs(images) as folder, tempfile.TemporaryDirectory() as made:
        source = folder
        if source is None:
            from scale import draw_files

            source = Path(made) / "drawn"
            source.mkdir()
            draw_files(source, 256 if scale.measures else 8)
            print("No photographs were given: drawn files take their place.")
        files, size = [], 0
        for file in sorted(source.rglob("*.[jJ][pP]*[gG]")):
            size += file.stat().st_size
            if size > 45e6:
                break
            files.append(file.resolve())
        target = Path(made) / "train"
        target.mkdir()
        for number, file in zip(
            range(batches * scale.batch), itertools.cycle(files), strict=False
        ):
            (target / f"{number:07d}.jpg").symlink_to(file)
        yield target


def our_runner(folder: Path, scale: Scale, augment_on: str) -> Runner:
    """A Runner of our config over the files of a folder."""
    cfg = our_config(MOCO, scale, augment_on=augment_on, num_workers=scale.workers)
    cfg.train_dataloader.dataset.root = str(folder)
    cfg.default_hooks = {
        k: v for k, v in cfg.default_hooks.items() if k not in ("knn", "checkpoint")
    }
    return _runner(cfg, scale, "mmssl_ext")


def mmpretrain_runner(folder: Path, scale: Scale, amp: bool) -> Runner:
    """A Runner of mmpretrain's stock config over the files of a folder."""
    from pipeline import mmpretrain_config

    cfg = mmpretrain_config(MMPRETRAIN)
    if amp and scale.measures:
        cfg.optim_wrapper.type = "AmpOptimWrapper"
        cfg.optim_wrapper.setdefault("loss_scale", "dynamic")
    slim(cfg.model, scale)
    pipeline = cfg.train_dataloader.dataset.pipeline
    cfg.train_dataloader.dataset = dict(
        type="CustomDataset",
        data_root=str(folder),
        with_label=False,
        pipeline=pipeline,
    )
    cfg.default_hooks.pop("checkpoint")
    cfg.env_cfg.cudnn_benchmark = True  # as ours
    return _runner(cfg, scale, "mmpretrain")


def _runner(cfg: Config, scale: Scale, scope: str) -> Runner:
    loader = cfg.train_dataloader
    loader.update(
        batch_size=scale.batch, num_workers=scale.workers, persistent_workers=False
    )
    cfg.work_dir = tempfile.mkdtemp(prefix="benchmark-")
    cfg.experiment_name = f"{scope}-{id(cfg)}"
    cfg.log_level = "ERROR"
    cfg.train_cfg = dict(by_epoch=True, max_epochs=1000)
    with DefaultScope.overwrite_default_scope(scope):
        runner = Runner.from_cfg(cfg)
        runner._train_loop = runner.build_train_loop(runner._train_loop)
        runner.optim_wrapper = runner.build_optim_wrapper(runner.optim_wrapper)
        runner.scale_lr(runner.optim_wrapper, None)
        runner.param_schedulers = runner.build_param_scheduler(runner.param_schedulers)
        runner._init_model_weights()
        runner.call_hook("before_run")
        runner.optim_wrapper.initialize_count_status(
            runner.model, 0, runner._train_loop.max_iters
        )
        runner.call_hook("before_train")
    return runner


def end_to_end(runner: Runner, scale: Scale, needed: int) -> float:
    """Wall-clock seconds per step of an epoch, once its loader runs steadily."""
    loop = runner.train_loop
    with DefaultScope.overwrite_default_scope(runner.default_scope.scope_name):
        runner.call_hook("before_train_epoch")
        runner.model.train()
        batches = iter(loop.dataloader)
        steps = scale.steps
        begin = 0.0
        for number in range(needed):
            if number == needed - steps:
                _synchronize(scale)
                begin = time.perf_counter()
            loop.run_iter(number, next(batches))
        _synchronize(scale)
        seconds = (time.perf_counter() - begin) / steps
        runner.call_hook("after_train_epoch")
        loop._epoch += 1
    del batches  # ends the workers
    return seconds


def _synchronize(scale: Scale) -> None:
    if scale.measures:
        torch.cuda.synchronize()
