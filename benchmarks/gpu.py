"""The benchmarks that need a GPU: B5 to B8 and B10, each of at most nine minutes.

    b5   MoCo v2, ResNet-50, 224 px, batch 256, made-up images on the device: the whole
         step against its parts, against supervised training, against the peers
    b6   the same at batch 32, the stock load of one GPU, with and without CUDA graphs
    b7   DenseCL: step against MoCo's, and its dense loss with peak memory
    b8   from JPEG files to the step, 16 workers, ours and mmpretrain's stock
    b10  steps of CO2, RegionCL, DetCo and InterCLR against MoCo's

Ours is what users run: model, optimizer and runtime come from configs/*_imagenet.py.
Peers run as installed: mmpretrain from its own config, in fp32 as it stands and with
its --amp; lightly's modules as its own ImageNet benchmark puts them together, in
16-mixed; solo-learn's MoCoV2Plus.training_step in fp16, per positive pair, of which it
has two per image. Lightning's loop, logging, the online classifier of lightly are
spared the peers. cudnn.benchmark is on for all, channels_last where the arm offers it.

CUDA events time blocks of steps; the arms take turns block by block, so that each finds
the memory free; the first steps of a turn are not timed. Ours and mmpretrain start from
the same weights and their losses are compared before anything is timed.

Without a GPU every arm runs at toy size to show that it can, and the table says "not
measured" wherever a figure belongs. Run: benchmarks/gpu.sh b5 OUT_DIR
"""

import argparse
import contextlib
import csv
import functools
import itertools
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import common
import peers
import torch
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.optim import build_optim_wrapper
from mmengine.registry import DefaultScope
from mmengine.runner import Runner
from mmpretrain.structures import DataSample
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize

from mmssl_ext.engine.hooks import PerformanceHook
from mmssl_ext.registry import MODELS
from mmssl_ext.run.launch import load_config, prepare

UNMEASURED = "not measured"
CONFIGS = common.REPOSITORY / "configs"
MOCO = "mocov2/mocov2_r50_imagenet.py"
MMPRETRAIN = "mocov2/mocov2_resnet50_8xb32-coslr-200e_in1k.py"
MMPRETRAIN_DENSECL = "densecl/densecl_resnet50_8xb32-coslr-200e_in1k.py"
IMAGES, CLUSTERS = 1_281_167, 10_000

Step = Callable[[], object]


@dataclass
class Scale:
    """How much is run: everything, or a toy for machines without a GPU."""

    device: torch.device
    batch: int = 256
    size: int = 224
    queue: int | None = None  # the config's
    images: int = IMAGES
    blocks: int = 5
    steps: int = 30
    warmups: int = 20  # steps of an arm before its first block
    settle: int = 4  # steps before each later one
    workers: int = 16
    seconds: float = 450  # no further block is begun after this

    @property
    def measures(self) -> bool:
        """Whether figures may be written."""
        return self.device.type == "cuda"

    def at(self, batch: int) -> "Scale":
        """The same with another batch; a toy stays what it is."""
        values = vars(self) | ({"batch": batch} if self.measures else {})
        return Scale(**values)


def full_or_toy() -> Scale:
    """The real thing where there is a GPU."""
    if torch.cuda.is_available():
        return Scale(torch.device("cuda"))
    return Scale(
        torch.device("cpu"),
        batch=2,
        size=32,
        queue=256,
        images=2000,
        blocks=1,
        steps=1,
        warmups=1,
        settle=0,
        workers=0,
    )


@dataclass
class Timing:
    """What an arm cost, block by block."""

    seconds: list[float] = field(default_factory=list)  # per step
    peak: int = 0  # bytes


class Clock:
    """CUDA events around a block, or nothing of the sort."""

    def __init__(self, device: torch.device) -> None:
        self.cuda = device.type == "cuda"
        if self.cuda:
            self.start, self.end = (
                torch.cuda.Event(enable_timing=True) for _ in range(2)
            )

    def block(self, step: Step, count: int) -> float:
        """Seconds per step."""
        if not self.cuda:
            begin = time.perf_counter()
            for _ in range(count):
                step()
            return (time.perf_counter() - begin) / count
        self.start.record()
        for _ in range(count):
            step()
        self.end.record()
        self.end.synchronize()
        return self.start.elapsed_time(self.end) / 1000 / count


def time_steps(arms: dict[str, Step], scale: Scale) -> dict[str, Timing]:
    """Blocks of steps in turn: A, B, ..., A, B, ... until the time is up.

    An arm that fails is left out, with its reason on the screen: a missing compiler
    must not cost the others their figures.
    """
    timings = {name: Timing() for name in arms}
    clock, begin = Clock(scale.device), time.monotonic()
    for block in range(scale.blocks):
        if block > 1 and time.monotonic() - begin > scale.seconds:
            print(f"{block} blocks instead of {scale.blocks}: the time is up.")
            break
        for name in list(timings):
            if scale.measures:
                torch.cuda.empty_cache()
            try:
                for _ in range(scale.settle if block else scale.warmups):
                    arms[name]()
                if scale.measures:
                    torch.cuda.synchronize()
                    torch.cuda.reset_peak_memory_stats()
                timings[name].seconds.append(clock.block(arms[name], scale.steps))
            except RuntimeError as error:  # torch's, out of memory among them
                print(f"Left out: {name}: {str(error).splitlines()[0]}")
                del timings[name]
                continue
            if scale.measures:
                peak = torch.cuda.max_memory_allocated()
                timings[name].peak = max(timings[name].peak, peak)
    return timings


def slim(model: Any, scale: Scale) -> None:
    """Give a toy ResNet-18 and a short queue, in the config of a model."""
    if scale.measures:
        return
    model.backbone.depth = 18
    if isinstance(model.neck.in_channels, int):
        model.neck.in_channels = model.neck.hid_channels = 512
    else:
        model.neck.in_channels = (64, 128, 256, 512)
    model.queue_len = scale.queue


def resnet(scale: Scale) -> nn.Module:
    """Torchvision's ResNet-50 without its classifier; a toy gets ResNet-18."""
    from torchvision import models

    model = models.resnet50() if scale.measures else models.resnet18()
    model.fc = nn.Identity()
    return model


# --- ours --------------------------------------------------------------------------


def our_config(path: str, scale: Scale, **options: Any) -> Config:
    """A config as `tools/train.py` prepares it, at the scale of this run."""
    cfg = load_config(CONFIGS / path, options)
    cfg.work_dir = tempfile.gettempdir()
    slim(cfg.model, scale)
    if not scale.measures:
        cfg.model.bn_splits = 1
    prepare(cfg)
    return cfg


class Ours:
    """Model, optimizer and runtime of one of our configs, without the Runner's loop.

    Args:
        path: The config below configs/.
        scale: Of this run.
        compile: For ``PerformanceHook``.
        precise: In fp32, contiguous, with plain BatchNorm, to be compared with peers.
        options: Variables of the config.
    """

    def __init__(
        self,
        path: str,
        scale: Scale,
        compile: dict | None = None,
        precise: bool = False,
        **options: Any,
    ) -> None:
        cfg = our_config(path, scale, **options)
        runtime = dict(cfg.default_hooks.performance) | {"compile": compile}
        runtime.pop("type")
        if precise:
            cfg.model.bn_splits = 1
            cfg.optim_wrapper.type = "OptimWrapper"
            for name in ("dtype", "loss_scale"):
                cfg.optim_wrapper.pop(name, None)
            runtime = {"tf32": "none"}
        torch.manual_seed(0)
        with DefaultScope.overwrite_default_scope("mmssl_ext"):
            self.model: Any = MODELS.build(cfg.model)
            self.model.init_weights()
            self.model.to(scale.device).train()
            self.wrapper = build_optim_wrapper(self.model, cfg.optim_wrapper)
        silent = SimpleNamespace(info=print)
        self.runner = SimpleNamespace(
            model=self.model,
            optim_wrapper=self.wrapper,
            _train_loop=None,
            logger=silent,
        )
        self.hook = PerformanceHook(**runtime)
        self.hook.before_run(self.runner)
        self.hook.before_train(self.runner)
        if self.hook.compile is not None:
            self.wrapper.zero_grad()

    def step(self, batch: dict) -> object:
        """What the Runner does in an iteration."""
        self.hook.before_train_iter(self.runner, 0, batch)
        return self.model.train_step(dict(batch), self.wrapper)

    def parts(self, batch: dict) -> object:
        """Query forward and backward, key forward, optimizer; no more than that."""
        model = self.model
        with self.wrapper.optim_context(model):
            views = model.data_preprocessor(dict(batch), True)["inputs"]
            q = model.neck(model.backbone(model.prepare(views[0])))[0]
            with torch.no_grad():
                key = model.target.backbone(model.prepare(views[1]))
                k = model.target.neck(key)[0]
            loss = (normalize(q.float(), dim=1) * normalize(k.float(), dim=1)).sum()
        return self.wrapper.update_params(loss)


def our_step(path: str, scale: Scale, batch: dict, **options: Any) -> Step:
    """A step of one of our configs."""
    return functools.partial(Ours(path, scale, **options).step, batch)


# --- peers -------------------------------------------------------------------------


class MMPretrain:
    """mmpretrain's model and optimizer from its own config.

    Args:
        name: The config that it brings along.
        scale: Of this run.
        amp: As its tools/train.py does with --amp.
    """

    def __init__(self, name: str, scale: Scale, amp: bool) -> None:
        from pipeline import mmpretrain_config

        cfg = mmpretrain_config(name)
        slim(cfg.model, scale)
        cfg.model.data_preprocessor = cfg.data_preprocessor
        if amp and scale.measures:
            cfg.optim_wrapper.type = "AmpOptimWrapper"
            cfg.optim_wrapper.setdefault("loss_scale", "dynamic")
        torch.manual_seed(0)
        with DefaultScope.overwrite_default_scope("mmpretrain"):
            self.model: Any = MODELS.build(cfg.model)
            self.model.init_weights()
            self.model.to(scale.device).train()
            self.wrapper = build_optim_wrapper(self.model, cfg.optim_wrapper)

    def step(self, batch: dict) -> object:
        """What the Runner does in an iteration, without its hooks."""
        return self.model.train_step(dict(batch), self.wrapper)


def mmpretrain_step(name: str, scale: Scale, batch: dict, amp: bool) -> Step:
    """A step of mmpretrain's."""
    return functools.partial(MMPretrain(name, scale, amp).step, batch)


def mixed_step(
    loss: Callable[[], Tensor], optimizer: torch.optim.Optimizer, scale: Scale
) -> Step:
    """Lightning's precision 16-mixed: autocast to fp16 with a gradient scaler."""
    enabled = scale.measures
    scaler = torch.amp.GradScaler(scale.device.type, enabled=enabled)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(scale.device.type, torch.float16, enabled=enabled):
            value = loss()
        scaler.scale(value).backward()
        scaler.step(optimizer)
        scaler.update()

    return step


def lightly_step(scale: Scale, views: list[Tensor]) -> Step:
    """Lightly's modules as in its own ImageNet benchmark, without the classifier.

    (There the optimizer is given the key encoder; here it is the one with gradients.)
    """
    losses = peers.load("lightly.loss")
    heads = peers.load("lightly.models.modules.heads")
    utils = peers.load("lightly.models.utils")
    torch.manual_seed(0)
    query, key = resnet(scale), resnet(scale)
    width = 2048 if scale.measures else 512
    query_head, key_head = (
        heads.MoCoProjectionHead(width, width, 128) for _ in range(2)
    )
    for source, copy in ((query, key), (query_head, key_head)):
        copy.load_state_dict(source.state_dict())
        utils.deactivate_requires_grad(copy)
    size = (scale.queue or 65536, 128)
    criterion = losses.NTXentLoss(temperature=0.2, memory_bank_size=size)
    modules = [m.to(scale.device) for m in (query, key, query_head, key_head)]
    criterion.to(scale.device)
    trained = [p for m in modules for p in m.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=0.03, momentum=0.9, weight_decay=1e-4)

    def loss() -> Tensor:
        q = query_head(query(views[1]).flatten(start_dim=1))
        utils.update_momentum(query, key, m=0.999)
        utils.update_momentum(query_head, key_head, m=0.999)
        with torch.no_grad():
            shuffled, order = utils.batch_shuffle(views[0])
            k = key_head(key(shuffled).flatten(start_dim=1))
            k = utils.batch_unshuffle(k, order)
        return criterion(q, k)

    return mixed_step(loss, optimizer, scale)


def solo_step(scale: Scale, views: list[Tensor]) -> Step:
    """solo-learn's MoCoV2Plus; its loss is symmetric: two positive pairs per image."""
    module = peers.load_solo("solo.methods.mocov2plus")
    torch.manual_seed(0)
    model = module.MoCoV2Plus(
        proj_output_dim=128,
        proj_hidden_dim=2048,
        temperature=0.2,
        queue_size=scale.queue or 65536,
        base_tau_momentum=0.999,
        final_tau_momentum=0.999,
        momentum_classifier=False,
        encoder="resnet50" if scale.measures else "resnet18",
        num_classes=1000,
        backbone_args={"zero_init_residual": False},
        max_epochs=1,
        batch_size=scale.batch,
        optimizer="sgd",
        lars=False,
        lr=0.03,
        weight_decay=1e-4,
        classifier_lr=0.1,
        exclude_bias_n_norm=False,
        accumulate_grad_batches=1,
        extra_optimizer_args={"momentum": 0.9},
        scheduler="none",
        min_lr=0.0,
        warmup_start_lr=0.0,
        warmup_epochs=0,
        num_large_crops=2,
        num_small_crops=0,
    ).to(scale.device)
    model.log = model.log_dict = lambda *_, **__: None  # there is no trainer to log to
    targets = torch.zeros(len(views[0]), dtype=torch.long, device=scale.device)
    batch = [None, views, targets]
    step = mixed_step(
        lambda: model.training_step(batch, 0), model.configure_optimizers(), scale
    )

    def run() -> None:
        step()
        for pair in model.momentum_pairs:  # as its on_train_batch_end
            model.momentum_updater.update(*pair)

    return run


def supervised_step(scale: Scale, view: Tensor) -> Step:
    """ResNet-50 with labels, as fast as torch alone makes it: the step to aim at."""
    torch.manual_seed(0)
    model = resnet(scale)
    model.fc = nn.Linear(2048 if scale.measures else 512, 1000)
    model.to(scale.device, memory_format=torch.channels_last)
    images = view.to(memory_format=torch.channels_last)
    labels = torch.arange(len(view), device=scale.device) % 1000
    fused = {"fused": True} if scale.measures else {}
    optimizer = torch.optim.SGD(
        model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4, **fused
    )

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(scale.device.type, torch.bfloat16, enabled=scale.measures):
            loss = cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()

    return step


def same_loss(ours: str, theirs: str, scale: Scale) -> float:
    """Fail unless our loss and mmpretrain's are equal for equal weights and images.

    Both in fp32, with plain BatchNorm, in the first step, whose momentum update leaves
    both key encoders at the query's weights. Returns the relative difference.
    """
    # Batch statistics of a toy's few values would magnify rounding errors.
    scale = Scale(**(vars(scale) | {"batch": 32 if scale.measures else 8}))
    batch, _ = made_up(scale)
    mine = Ours(ours, scale, precise=True).model
    peer = MMPretrain(theirs, scale, amp=False).model
    copy = peer.encoder_k.module
    for module, key, source in zip(
        (peer.backbone, peer.neck), copy, (mine.backbone, mine.neck), strict=True
    ):
        module.load_state_dict(source.state_dict())
        key.load_state_dict(source.state_dict())
    queues = {"queue": mine.compare, "queue2": getattr(mine.terms, "dense", None)}
    for name, part in queues.items():
        if hasattr(peer, name):
            getattr(peer, name).copy_(part.queue.keys.T)
    values = []
    swapped = [view.flip(1) for view in batch["inputs"]]  # its images are BGR
    for model, views in ((mine, batch["inputs"]), (peer, swapped)):
        prepared = model.data_preprocessor(batch | {"inputs": views}, True)
        losses = model.loss(prepared["inputs"], prepared["data_samples"])
        values.append(sum(v.detach() for v in losses.values() if v.requires_grad))
    difference = float((values[0] - values[1]).abs() / values[1].abs())
    assert difference < 1e-3, (
        f"Our loss is {float(values[0])}, mmpretrain's {float(values[1])} for equal "
        "weights and images: these arms do not do the same."
    )
    return difference


# --- data --------------------------------------------------------------------------


def made_up(scale: Scale, patches: int = 0) -> tuple[dict, list[Tensor]]:
    """A batch of noise on the device: as uint8 for ours and mmpretrain, and normalised.

    Args:
        scale: Of this run.
        patches: Side of DetCo's patches, which become two further views.
    """
    generator = torch.Generator().manual_seed(0)
    shapes = [(scale.batch, 3, scale.size, scale.size)] * 2
    shapes += [(scale.batch, 9, 3, patches, patches)] * 2 if patches else []
    views = [
        torch.randint(256, shape, dtype=torch.uint8, generator=generator)
        for shape in shapes
    ]
    views = [view.to(scale.device) for view in views]
    numbers = torch.randperm(scale.images, generator=generator)[: scale.batch]
    samples = [DataSample(metainfo={"sample_idx": int(i)}) for i in numbers]
    floats = [view.float().sub_(120).div_(58) for view in views[:2]]
    return {"inputs": views, "data_samples": samples}, floats


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


# --- the benchmarks ----------------------------------------------------------------


Ratio = tuple[str, str, str, float, bool, float]
# (what, arm above, arm below, goal, whether less is better, factor)


def b5(scale: Scale) -> list[dict]:
    """MoCo v2 at full batch."""
    difference = same_loss(MOCO, MMPRETRAIN, scale)
    batch, views = made_up(scale)
    built: dict[str, Ours] = {}

    def ours() -> Step:
        built["ours"] = Ours(MOCO, scale)
        return functools.partial(built["ours"].step, batch)

    arms, missing = peers.available(
        {
            "ours": ours,
            "parts": lambda: functools.partial(built["ours"].parts, batch),
            "supervised": lambda: supervised_step(scale, views[0]),
            "mmpretrain": lambda: mmpretrain_step(MMPRETRAIN, scale, batch, False),
            "mmpretrain_amp": lambda: mmpretrain_step(MMPRETRAIN, scale, batch, True),
            "lightly_amp": lambda: lightly_step(scale, views),
            "solo_amp": lambda: solo_step(scale, views),
        }
    )
    ratios: list[Ratio] = [
        ("parts / step", "parts", "ours", 0.95, False, 1),
        ("throughput / supervised", "supervised", "ours", 0.69, False, 1),
        ("speed-up", "mmpretrain", "ours", 2.0, False, 1),
        ("speed-up", "mmpretrain_amp", "ours", 1.25, False, 1),
        ("speed-up", "lightly_amp", "ours", 1.2, False, 1),
        ("speed-up per positive pair", "solo_amp", "ours", 1.1, False, 0.5),
    ]
    note = f"loss equals mmpretrain's to {difference:.0e}"
    return table("b5", time_steps(arms, scale), ratios, missing, scale, note)


def b6(scale: Scale) -> list[dict]:
    """MoCo v2 at the stock load of one GPU, where launches count."""
    scale = scale.at(32)
    batch, views = made_up(scale)
    graphs = {"mode": "reduce-overhead"} if scale.measures else None
    arms, missing = peers.available(
        {
            "ours": lambda: our_step(MOCO, scale, batch),
            "ours_graphs": lambda: our_step(MOCO, scale, batch, compile=graphs),
            "mmpretrain": lambda: mmpretrain_step(MMPRETRAIN, scale, batch, False),
            "mmpretrain_amp": lambda: mmpretrain_step(MMPRETRAIN, scale, batch, True),
            "lightly_amp": lambda: lightly_step(scale, views),
        }
    )
    ratios: list[Ratio] = [
        ("speed-up", "mmpretrain_amp", "ours_graphs", 1.6, False, 1),
        ("speed-up", "ours", "ours_graphs", 1.3, False, 1),
        ("speed-up", "mmpretrain_amp", "ours", 0, False, 1),
        ("speed-up", "mmpretrain", "ours", 0, False, 1),
        ("speed-up", "lightly_amp", "ours", 0, False, 1),
    ]
    return table("b6", time_steps(arms, scale), ratios, missing, scale)


def b7(scale: Scale) -> list[dict]:
    """DenseCL, whole and its dense loss alone."""
    ours = "densecl/densecl_r50_imagenet.py"
    difference = same_loss(ours, MMPRETRAIN_DENSECL, scale)
    batch, _ = made_up(scale)
    arms, missing = peers.available(
        {
            "densecl": lambda: our_step(ours, scale, batch),
            "moco": lambda: our_step(MOCO, scale, batch),
            "mmpretrain_densecl_amp": lambda: mmpretrain_step(
                MMPRETRAIN_DENSECL, scale, batch, True
            ),
            "mmpretrain_moco_amp": lambda: mmpretrain_step(
                MMPRETRAIN, scale, batch, True
            ),
        }
    )
    timings = time_steps(arms, scale)
    arms.clear()
    half = torch.bfloat16 if scale.measures else torch.float32
    timings |= time_steps(dense_losses(scale, half), scale)
    ratios: list[Ratio] = [
        ("step / MoCo's", "densecl", "moco", 1.05, True, 1),
        ("step / MoCo's", "mmpretrain_densecl_amp", "mmpretrain_moco_amp", 0, True, 1),
        ("speed-up", "mmpretrain_densecl_amp", "densecl", 0, False, 1),
        ("speed-up", "mmpretrain_dense_loss", "dense_loss", 6, False, 1),
    ]
    note = f"loss equals mmpretrain's to {difference:.0e}"
    rows = table("b7", timings, ratios, missing, scale, note)
    saved = UNMEASURED
    if scale.measures and {"mmpretrain_dense_loss", "dense_loss"} <= set(timings):
        gap = timings["mmpretrain_dense_loss"].peak - timings["dense_loss"].peak
        saved = f"{gap / 1e9:.2f}"
    last = rows[-1] | dict.fromkeys(("low", "high"), "")
    return [*rows, last | {"what": "peak memory saved, GB", "value": saved, "goal": 8}]


def dense_losses(scale: Scale, dtype: torch.dtype) -> dict[str, Step]:
    """The dense loss, forward and backward, in the precision of each one's training."""
    import dense_loss

    sizes = (dense_loss.QUEUE_LEN, dense_loss.CHANNELS)
    if scale.queue is not None:
        dense_loss.QUEUE_LEN, dense_loss.CHANNELS = scale.queue, 64
    try:
        losses = dense_loss.Losses(scale.batch)
    finally:
        dense_loss.QUEUE_LEN, dense_loss.CHANNELS = sizes
    for name, value in vars(losses).items():
        if isinstance(value, Tensor):
            setattr(losses, name, value.detach().to(scale.device))
    losses.query.requires_grad_()
    ours, peer = losses.ours(), losses.mmpretrain()
    torch.testing.assert_close(ours[0], peer[0], rtol=1e-3, atol=1e-4)

    def autocast(loss: Step, kind: torch.dtype) -> Step:
        def step() -> None:
            with torch.autocast(scale.device.type, kind, enabled=scale.measures):
                loss()

        return step

    return {
        "dense_loss": autocast(losses.ours, dtype),
        "mmpretrain_dense_loss": autocast(losses.mmpretrain, torch.float16),
    }


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


def b10(scale: Scale) -> list[dict]:
    """The methods against MoCo, each as its config has it."""
    if not scale.measures:  # regions are cut from 7 x 7 cells
        scale = Scale(**(vars(scale) | {"size": 224}))
    batch, _ = made_up(scale)
    paths = {
        "co2": "co2/co2_r50_imagenet.py",
        "regionclm": "regioncl/regionclm_r50_imagenet.py",
        "detco": "detco/detco_r50_imagenet.py",
    }
    makers: dict[str, Callable[[], Step]] = {
        "moco": lambda: our_step(MOCO, scale, batch)
    }
    for name, path in paths.items():
        given = made_up(scale, 64)[0] if name == "detco" else batch
        makers[name] = functools.partial(our_step, path, scale, given)
    makers["interclr"] = lambda: interclr_step(scale, batch)
    arms, missing = peers.available(makers)
    goals = {"co2": 1.02, "regionclm": 1.85, "detco": 1.95, "interclr": 1.15}
    ratios: list[Ratio] = [
        ("step / MoCo's", name, "moco", goal, True, 1) for name, goal in goals.items()
    ]
    return table("b10", time_steps(arms, scale), ratios, missing, scale)


def interclr_step(scale: Scale, batch: dict) -> Step:
    """InterCLR with a full bank; time does not depend on what is in it."""
    # A toy bank has not so many images to draw from.
    toy = {} if scale.measures else dict(num_clusters=20, negatives=50, pool=200)
    clusters = toy.get("num_clusters", CLUSTERS)
    ours = Ours("interclr/interclr_r50_imagenet.py", scale, **toy)
    inter, device = ours.model.terms.inter, scale.device
    inter.bank.fill(torch.randn(scale.images, 128, device=device))
    labels = torch.arange(scale.images, device=device) % clusters
    inter.labels.set_labels(labels, inter.bank)
    return functools.partial(ours.step, batch)


# --- the table ---------------------------------------------------------------------


def describe(scale: Scale) -> dict[str, str]:
    """Versions, hardware and flags."""
    facts = common.describe_machine()
    facts |= {name: peers.installed(name) for name in ("lightly", "solo-learn")}
    facts["cudnn_benchmark"] = str(torch.backends.cudnn.benchmark)
    gpu = scale.device
    if scale.measures:
        facts["gpu"] = torch.cuda.get_device_name(gpu)
        facts["cuda"] = str(torch.version.cuda)
        facts["cudnn"] = str(torch.backends.cudnn.version())
    else:
        facts |= {"gpu": "none", "cuda": "none", "cudnn": "none"}
    return facts


def table(
    bench: str,
    timings: dict[str, Timing],
    ratios: list[Ratio],
    missing: dict[str, str],
    scale: Scale,
    note: str = "",
) -> list[dict]:
    """Rows of the table; without a GPU all values are ``not measured``."""
    facts = describe(scale)
    rows = []
    for what, above, below, goal, less, factor in ratios:
        lost = [f"{n}: {missing.get(n, 'failed')}" for n in (above, below)
                if n not in timings]  # fmt: skip
        row = {"bench": bench, "what": what, "above": above, "below": below}
        row |= dict.fromkeys(("value", "low", "high"), UNMEASURED)
        row["goal"] = f"{'<=' if less else '>='} {goal}" if goal else ""
        units = ("above_ms", "below_ms", "above_peak_mb", "below_peak_mb")
        row |= dict.fromkeys(units, UNMEASURED)
        blocks = 0 if lost else len(timings[below].seconds)
        if scale.measures and not lost:
            a, b = timings[above], timings[below]
            count = min(len(a.seconds), len(b.seconds))
            values = common.ratio(a.seconds[:count], b.seconds[:count])
            row |= {
                key: f"{factor * value:.3f}"
                for key, value in zip(("value", "low", "high"), values, strict=True)
            }
            row |= {
                "above_ms": f"{1000 * statistics.median(a.seconds):.3f}",
                "below_ms": f"{1000 * statistics.median(b.seconds):.3f}",
                "above_peak_mb": f"{a.peak / 1e6:.0f}",
                "below_peak_mb": f"{b.peak / 1e6:.0f}",
            }
        row |= {"batch": scale.batch, "size": scale.size}
        row |= {"blocks": blocks, "steps": scale.steps}
        row["note"] = "; ".join(filter(None, [note, *lost]))
        rows.append(row | facts)
    return rows


def write(name: str, rows: list[dict], folder: Path) -> Path:
    """Write the table and print what matters of it."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"gpu_{name}.csv"
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys(), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    for row in rows:
        print(
            f"{row['what']}: {row['above']} / {row['below']} = {row['value']} "
            f"[{row['low']}, {row['high']}] {row['goal']} {row['note']}"
        )
    return path


BENCHES: dict[str, Callable[..., list[dict]]] = {
    "b5": b5,
    "b6": b6,
    "b7": b7,
    "b8": b8,
    "b10": b10,
}


def main() -> None:
    """Run one benchmark and write its table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bench", choices=BENCHES)
    parser.add_argument("out", type=Path, help="folder of the table")
    parser.add_argument("--images", type=Path, help="photographs for b8")
    args = parser.parse_args()
    MMLogger.get_instance("benchmark", log_level="ERROR")
    scale = full_or_toy()
    torch.backends.cudnn.benchmark = True
    if not scale.measures:
        print("No GPU: every arm runs at toy size, and nothing is measured.")
    more = {"images": args.images} if args.bench == "b8" else {}
    write(args.bench, BENCHES[args.bench](scale, **more), args.out)


if __name__ == "__main__":
    main()
