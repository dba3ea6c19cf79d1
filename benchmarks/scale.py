"""How time and memory grow: the loss, a step, InterCLR's bank, the loader.

* Loss, forward and backward, fp32, one thread: against the queue K, the batch N, the
  embedding D; and against both N and K at once (N = K / 256), which tells memory of
  O(N + K) (exponent 1) from O(N K) (exponent 2). The peer is mmpretrain's
  ContrastiveHead, at sizes whose logits take at most 0.3 GB, or 1.1 GB where only
  memory is measured. Memory is the peak of a process of its own beyond the inputs.
  Time is processor time with an allocator that keeps what it frees: with glibc's own
  the peer pays for page faults as well, and takes twice as long.
* A step of MoCo, ResNet-18, 32 images of 32 px, against K.
* InterCLR's bank and a step of its branch against the number of images.
* Our loader, two views of 224 px, against the number of workers, by the wall clock.

A fitted exponent is the slope of log(value) over log(size) between the sizes given.
Run: python benchmarks/scale.py
"""

import functools
import itertools
import multiprocessing as mp
import os
import tempfile
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import common
import cv2
import numpy as np
import torch
from inter_branch import margin_loss
from mmengine.optim import OptimWrapper
from mmengine.registry import FUNCTIONS, init_default_scope
from mmpretrain.models.heads import ContrastiveHead
from torch import Tensor
from torch.nn.functional import normalize
from torch.utils.data import DataLoader

from mmssl_ext.datasets import ImageFolder
from mmssl_ext.models.losses import info_nce
from mmssl_ext.models.memory import FeatureBank, OnlineLabels, SemiHardNegatives
from mmssl_ext.registry import MODELS
from mmssl_ext.run.launch import load_config

TEMPERATURE = 0.2
# Bytes of the largest N x K logits that the peer is asked for.
LOGITS, LOGITS_OF_MEMORY = 300_000_000, 1_100_000_000
BLOCKS = 3

# variable -> sizes (N, K, D)
LOSS_SIZES = {
    "K": [(256, 2**i, 128) for i in (12, 14, 16, 18, 20)],
    "N": [(2**i, 65536, 128) for i in (5, 7, 9, 11)],
    "D": [(256, 65536, d) for d in (64, 128, 256, 512)],
    "N and K": [(2**i, 2 ** (i + 8), 128) for i in (8, 9, 10, 11)],
}
STEP_QUEUES = [2**i for i in (12, 14, 16, 18, 20)]
BANKS = (10_000, 40_000, 160_000, 640_000, 1_281_167)
WORKERS = (0, 1, 2)


class Loss:
    """Loss and gradient of one size, ours and the peer's."""

    def __init__(self, rows: int, keys: int, dim: int) -> None:
        generator = torch.Generator().manual_seed(0)

        def unit(count: int) -> Tensor:
            return normalize(torch.randn(count, dim, generator=generator), dim=1)

        self.q, self.k = unit(rows).requires_grad_(), unit(rows)
        self.queue = unit(keys)
        self.head = ContrastiveHead(
            loss={"type": "CrossEntropyLoss", "loss_weight": 1.0},
            temperature=TEMPERATURE,
        )

    def ours(self) -> tuple[Tensor, ...]:
        """The queue softmax as attention."""
        return common.loss_and_gradient(
            lambda: info_nce(self.q, self.k, self.queue, TEMPERATURE).mean(), self.q
        )

    def mmpretrain(self) -> tuple[Tensor, ...]:
        """The peer: einsums, copy of the queue, ContrastiveHead."""

        def loss() -> Tensor:
            positive = torch.einsum("nc,nc->n", [self.q, self.k]).unsqueeze(-1)
            queue = self.queue.T.clone().detach()
            return self.head.loss(positive, torch.einsum("nc,ck->nk", [self.q, queue]))

        return common.loss_and_gradient(loss, self.q)


def row(what: str, variable: str, arm: str, size: int, value: float, unit: str) -> dict:
    """One measured point."""
    return {
        "what": what,
        "variable": variable,
        "arm": arm,
        "size": size,
        "value": float(f"{value:.5g}"),
        "unit": unit,
    }


def median_ms(arms: common.Arms) -> dict[str, float]:
    """Milliseconds of processor time of a call: median of a few."""
    seconds = common.time_arms(arms, BLOCKS, 1, 1, time.process_time)
    return {name: 1000 * float(np.median(values)) for name, values in seconds.items()}


def loss_arms(rows: int, keys: int, limit: int = LOGITS) -> list[str]:
    """The arms that are measured at a size."""
    return ["ours", "mmpretrain"] if 4 * rows * keys <= limit else ["ours"]


def varied(variable: str, size: tuple[int, int, int]) -> int:
    """The number on the axis of a size (N, K, D)."""
    return size[{"N": 0, "K": 1, "N and K": 1, "D": 2}[variable]]


def loss_time(sizes: dict[str, list[tuple[int, int, int]]]) -> list[dict]:
    """Time of forward and backward; the two arms are compared on the way."""
    found = []
    for variable, points in sizes.items():
        if variable == "N and K":  # for the memory
            continue
        for size in points:
            loss = Loss(*size)
            arms = {name: getattr(loss, name) for name in loss_arms(*size[:2])}
            if "mmpretrain" in arms and size[0] <= 256:
                common.compare(loss.ours(), loss.mmpretrain())
            for name, ms in median_ms(arms).items():
                at = varied(variable, size)
                found.append(row("time of the loss", variable, name, at, ms, "ms"))
    return found


def peaks_of(arm: str, sizes: Iterable[tuple[int, int, int]]) -> list[int]:
    """Peak extra bytes of an arm at each size; runs in a process of its own."""
    torch.set_num_threads(1)
    getattr(Loss(8, 4096, 128), arm)()  # one-time allocations of libraries
    return [common.peak_memory(getattr(Loss(*size), arm)) for size in sizes]


def loss_memory(sizes: dict[str, list[tuple[int, int, int]]]) -> list[dict]:
    """Peak memory of forward and backward beyond the inputs."""
    every = [(v, size) for v in ("K", "N", "N and K") for size in sizes[v]]
    found = []
    with ProcessPoolExecutor(1, mp.get_context("spawn"), max_tasks_per_child=1) as pool:
        for arm in ("ours", "mmpretrain"):
            asked = [
                (variable, size)
                for variable, size in every
                if arm in loss_arms(*size[:2], LOGITS_OF_MEMORY)
            ]
            peaks = pool.submit(peaks_of, arm, [s for _, s in asked]).result()
            for (variable, size), peak in zip(asked, peaks, strict=True):
                at, mb = varied(variable, size), max(peak, 1) / 1e6
                what = "peak memory of the loss"
                found.append(row(what, variable, arm, at, mb, "MB"))
    return found


def moco(scope: str, queue_len: int) -> Callable[[], object]:
    """A training step of MoCo on a small network."""
    init_default_scope(scope)
    peer = scope == "mmpretrain"
    head = dict(type="InstanceHead", temperature=TEMPERATURE)
    normalisation = dict(mean=(123.675, 116.28, 103.53), std=(58.395, 57.12, 57.375))
    if peer:
        loss = dict(type="CrossEntropyLoss", loss_weight=1.0)
        head = dict(type="ContrastiveHead", temperature=TEMPERATURE, loss=loss)
        more = dict(
            momentum=0.001,
            data_preprocessor=dict(type="SelfSupDataPreprocessor", **normalisation),
        )
    else:
        more = dict(momentum=0.999, bn_splits=1)
    model = MODELS.build(
        dict(
            type=f"{scope}.MoCo",
            backbone=dict(type="ResNet", depth=18),
            neck=dict(
                type="MoCoV2Neck", in_channels=512, hid_channels=512, out_channels=128
            ),
            head=head,
            queue_len=queue_len,
            **more,
        )
    ).train()
    trained = [p for p in model.parameters() if p.requires_grad]
    wrapper = OptimWrapper(torch.optim.SGD(trained, lr=0.03, momentum=0.9))
    views = list(torch.randint(256, (2, 32, 3, 32, 32), dtype=torch.uint8))
    return lambda: model.train_step({"inputs": views, "data_samples": None}, wrapper)


def step_time(queues: Iterable[int]) -> list[dict]:
    """Time of a whole step against the length of the queue."""
    found = []
    for queue_len in queues:
        arms = {"ours": moco("mmssl_ext", queue_len)}
        if 2 * 512 * queue_len <= LOGITS:  # the queue and its copy
            arms["mmpretrain"] = moco("mmpretrain", queue_len)
        for name, ms in median_ms(arms).items():
            what = "time of a step of MoCo"
            found.append(row(what, "K", name, queue_len, ms, "ms"))
    return found


def branch(images: int) -> tuple[common.Arms, int]:
    """Steps of InterCLR's branch for 32 queries, and the bytes of bank and labels."""
    generator = torch.Generator().manual_seed(0)
    clusters = max(images // 128, 10)
    bank = FeatureBank(128)
    bank.fill(torch.randn(images, 128, generator=generator))
    labels = OnlineLabels(clusters)
    labels.set_labels(torch.arange(images) % clusters, bank)
    numbers = torch.randint(images, (32,), generator=generator)
    q = bank.read(numbers).clone().requires_grad_()

    def step(sampler: SemiHardNegatives) -> None:
        positives = labels.draw_members(numbers, generator)
        own = labels.labels[numbers]
        negatives = sampler.draw(q.detach(), own, bank, labels, generator)
        loss = margin_loss(q, bank.read(positives), negatives)
        common.loss_and_gradient(lambda: loss, q)
        labels.update(bank.update(numbers, q.detach()), bank)

    buffers = [*bank.state_dict().values(), *labels.state_dict().values()]
    tensors = [x for x in buffers if isinstance(x, Tensor)]
    arms: common.Arms = {}
    for name in ("exact", "fast"):
        sampler = SemiHardNegatives(images // 80, images // 10, name == "exact")
        arms[name] = functools.partial(step, sampler)
    return arms, sum(x.numel() * x.element_size() for x in tensors)


def bank_cost(sizes: Iterable[int]) -> list[dict]:
    """Memory of the bank and time of the branch against the number of images."""
    found = []
    for images in sizes:
        arms, size = branch(images)
        times = median_ms(arms)
        what = "time of InterCLR's branch"
        found += [row(what, "images", k, images, ms, "ms") for k, ms in times.items()]
        what = "memory of InterCLR's bank"
        found.append(row(what, "images", "ours", images, size / 1e6, "MB"))
    return found


def draw_files(folder: Path, count: int) -> None:
    """JPEG files of 500 x 375 pixels with detail at every scale, for lack of others."""
    rng = np.random.default_rng(0)
    for number in range(count):
        image = np.zeros((375, 500, 3), np.float32)
        for octave in range(2, 8):
            noise = rng.normal(0, 2.0 ** (8 - octave), (2**octave, 2**octave, 3))
            image += cv2.resize(noise.astype(np.float32), (500, 375))
        pixels = np.clip(128 + image, 0, 255).astype(np.uint8)
        cv2.imwrite(str(folder / f"{number:03d}.jpg"), pixels)


def loader_rate(workers: Iterable[int], seconds: float) -> list[dict]:
    """Samples per second of our loader, with the augmentation in either place."""
    path = common.REPOSITORY / "configs" / "mocov2" / "mocov2_r50_imagenet.py"
    config = load_config(path)
    found = []
    with tempfile.TemporaryDirectory() as drawn, common.photographs() as photographs:
        folder = photographs or Path(drawn)
        if photographs is None:
            draw_files(folder, 64)
        for place, count in itertools.product(("worker", "device"), workers):
            view = config.view
            make = dict(type="MakeViews", views=[view, view], augment_on=place)
            steps = [dict(type="DecodeImage"), make, dict(type="PackViews")]
            data = ImageFolder(str(folder), steps)
            rate = _rate(data, config.train_dataloader.collate_fn, count, seconds)
            what = "throughput of the loader"
            found.append(row(what, "workers", place, count, rate, "samples/s"))
    return found


def _rate(data: ImageFolder, collate: dict, workers: int, seconds: float) -> float:
    loader: DataLoader = DataLoader(
        data,
        batch_size=16,
        sampler=itertools.cycle(range(len(data))),  # for ever
        num_workers=workers,
        collate_fn=FUNCTIONS.get(collate["type"]),
    )
    batches = iter(loader)
    for _ in range(2 + 2 * workers):  # until the workers run
        next(batches)
    start, samples = time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        samples += len(next(batches)["data_samples"])
    return samples / (time.perf_counter() - start)


def fits(rows: list[dict]) -> list[dict]:
    """The exponent of every curve of at least three sizes."""
    found = []
    keys = ("what", "variable", "arm")
    for key in dict.fromkeys(tuple(r[k] for k in keys) for r in rows):
        points = [r for r in rows if tuple(r[k] for k in keys) == key and r["size"]]
        if len(points) < 3:
            continue
        sizes = [r["size"] for r in points]
        found.append(
            dict(zip(keys, key, strict=True))
            | {
                "from": min(sizes),
                "to": max(sizes),
                "exponent": round(
                    common.exponent(sizes, [r["value"] for r in points]), 2
                ),
            }
        )
    return found


def check_memory(rows: list[dict]) -> None:
    """Fail if the memory of our loss grows as N K."""
    both = [r for r in fits(rows) if r["variable"] == "N and K" and r["arm"] == "ours"]
    assert len(both) == 1
    assert both[0]["exponent"] < 1.5, (
        f"The peak memory of the loss grows as the {both[0]['exponent']}th power of a "
        "factor on both N and K; 1 is O(N + K), 2 is O(N K)."
    )


def main() -> None:
    """Measure, fit, write."""
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    rows = loss_memory(LOSS_SIZES)
    check_memory(rows)
    common.keep_freed_memory()
    rows += loss_time(LOSS_SIZES)
    rows += step_time(STEP_QUEUES)
    rows += bank_cost(BANKS)
    workers = [n for n in WORKERS if n <= (os.cpu_count() or 1)]
    rows += loader_rate(workers, seconds=1.5)
    common.write_rows("scale_cpu", rows)
    common.write_rows("scale_fit_cpu", fits(rows))


if __name__ == "__main__":
    main()
