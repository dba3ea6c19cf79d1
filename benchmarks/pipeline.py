"""B1: processor time per sample from a JPEG file to the batch: two views, eight crops.

Views of 224 px from real photographs whose files lie in the page cache, batches of 16,
one thread. Nobody normalises: mmpretrain and we do it on the device, and the other
arms are spared it. Every arm reads, decodes, cuts both views, changes colours, blurs,
flips and collates; ``ours_device`` leaves what it can to the device, and so measures
the worker's share alone. Before anything is timed, shapes and pixels are compared.

    mmpretrain      its own config of MoCo v2, dataset and collation
    torchvision_v1  the transforms of the official MoCo v2 on PIL images
    torchvision_v2  the same on tensors; blur of 13 x 13, the least for sigma up to 2
    lightly         its MoCoV2Transform; yields float32, its ToTensor is part of it
    ours            backend="array", everything in the worker
    ours_pil        backend="pil": PIL decodes, arrays do the rest
    ours_device     backend="array", augment_on="device"
    limit           decoding and the two resized crops of ours, and nothing else

Arms of SwAV's eight crops of an image, two of 224 px and six of 96 px:

    mmpretrain_crops   its own config of SwAV
    ours_crops         the same recipe by ``local_crops=6``, everything in the worker
    ours_crops_device  and with augment_on="device"

Run: python benchmarks/pipeline.py [--images FOLDER] [--crops]
"""

import argparse
import itertools
import random
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path

import common
import cv2
import numpy as np
import peers
import plot
import torch
from mmengine.config import Config
from mmengine.dataset import default_collate
from mmengine.registry import DefaultScope
from mmpretrain.datasets import CustomDataset
from PIL import Image, ImageFilter
from torch import Tensor
from torch.utils.data import Dataset
from torchvision import io, transforms
from torchvision.transforms import v2

from mmssl_ext.datasets import ImageFolder
from mmssl_ext.datasets.seeds import SampleSeed
from mmssl_ext.registry import TRANSFORMS
from mmssl_ext.run.launch import load_config

BATCH, SIZE = 16, 224
CHECKED = 240  # photographs that go through every arm before it is timed
BLOCKS, STEPS = 9, 3

# (arm, peer, what we promise ourselves)
RATIOS = (
    ("ours", "mmpretrain", 3.5),
    ("ours", "torchvision_v1", 2.5),
    ("ours", "torchvision_v2", None),
    ("ours", "lightly", None),
    ("ours_device", "mmpretrain", 6.0),
    ("ours_device", "torchvision_v1", 4.5),
    ("ours_device", "lightly", None),
    ("ours_pil", "mmpretrain", None),
    ("limit", "mmpretrain", None),
    ("limit", "torchvision_v1", None),
    ("ours_crops", "mmpretrain_crops", 4.0),
    ("ours_crops_device", "mmpretrain_crops", None),
)
TWO, EIGHT = (SIZE,) * 2, (SIZE,) * 2 + (96,) * 6  # px of the views
SWAV_CONFIG = "swav/swav_resnet50_8xb32-mcrop-coslr-200e_in1k-224px-96px.py"
SWAV = {  # as the config of mmpretrain has it
    "local_crops": 6,
    "crop_scale": (0.14, 1.0),
    "local_scale": (0.05, 0.14),
    "jitter": (0.8, 0.8, 0.8, 0.2),
}

Loader = Callable[[list[int]], list[Tensor]]  # indices -> views of the batch


class Files(Dataset):
    """Two views of each file by a transform of PIL images or tensors."""

    def __init__(self, paths: list[str], read: Callable, transform: Callable) -> None:
        self.paths, self.read, self.transform = paths, read, transform

    def __getitem__(self, index: int) -> list[Tensor]:
        """Return both views."""
        image = self.read(self.paths[index])
        return [self.transform(image), self.transform(image)]


def read_pil(path: str) -> Image.Image:
    """As torchvision's ImageFolder reads a file."""
    with open(path, "rb") as file:
        return Image.open(file).convert("RGB")


class OfficialBlur:
    """The blur of the official MoCo v2: PIL's, with a random radius."""

    def __init__(self, sigma: tuple[float, float]) -> None:
        self.sigma = sigma

    def __call__(self, image: Image.Image) -> Image.Image:
        """Blur the image."""
        return image.filter(ImageFilter.GaussianBlur(random.uniform(*self.sigma)))


def mmpretrain_config(name: str) -> Config:
    """A config file that the installed mmpretrain brings along."""
    spec = find_spec("mmpretrain")
    assert spec is not None
    assert spec.origin is not None
    return Config.fromfile(Path(spec.origin).parent / ".mim" / "configs" / name)


def mmpretrain(
    folder: Path, name: str = "_base_/datasets/imagenet_bs32_mocov2.py"
) -> Loader:
    """Its stock pipeline from its stock config."""
    config = mmpretrain_config(name)
    assert config.train_dataloader.collate_fn.type == "default_collate"
    with DefaultScope.overwrite_default_scope("mmpretrain"):
        data = CustomDataset(
            str(folder), with_label=False, pipeline=config.train_pipeline
        )
        data.full_init()

    def load(indices: list[int]) -> list[Tensor]:
        return default_collate([data[i] for i in indices])["inputs"]

    return load


def of_files(paths: list[str], read: Callable, transform: Callable) -> Loader:
    """A loader of a plain data set."""
    data = Files(paths, read, transform)
    collate = torch.utils.data.default_collate
    return lambda indices: collate([data[i] for i in indices])


def torchvision_v1(paths: list[str]) -> Loader:
    """The transforms of the official code, in its order, on PIL images."""
    jitter = transforms.ColorJitter(0.4, 0.4, 0.4, 0.1)
    chain = [
        transforms.RandomResizedCrop(SIZE, scale=(0.2, 1.0)),
        transforms.RandomApply([jitter], p=0.8),
        transforms.RandomGrayscale(p=0.2),
        transforms.RandomApply([OfficialBlur((0.1, 2.0))], p=0.5),
        transforms.RandomHorizontalFlip(),
        transforms.PILToTensor(),
    ]
    return of_files(paths, read_pil, transforms.Compose(chain))


def torchvision_v2(paths: list[str]) -> Loader:
    """The same on uint8 tensors."""
    chain = [
        v2.RandomResizedCrop(SIZE, scale=(0.2, 1.0), antialias=True),
        v2.RandomApply([v2.ColorJitter(0.4, 0.4, 0.4, 0.1)], p=0.8),
        v2.RandomGrayscale(p=0.2),
        v2.RandomApply([v2.GaussianBlur(13, (0.1, 2.0))], p=0.5),
        v2.RandomHorizontalFlip(),
    ]

    def read(path: str) -> Tensor:
        return io.decode_image(path, mode=io.ImageReadMode.RGB)

    return of_files(paths, read, v2.Compose(chain))


def lightly(paths: list[str]) -> Loader:
    """Its transform of MoCo v2, without normalisation."""
    module = peers.load("lightly.transforms.moco_transform")
    transform = module.MoCoV2Transform(input_size=SIZE, normalize=None)
    collate = torch.utils.data.default_collate
    return lambda indices: collate([transform(read_pil(paths[i])) for i in indices])


def our_views(**options: object) -> list[list[dict]]:
    """The views of the paper's config."""
    path = common.REPOSITORY / "configs" / "mocov2" / "mocov2_r50_imagenet.py"
    return load_config(path, options).train_dataloader.dataset.pipeline[1].views


def our_view() -> list[dict]:
    """One of the two."""
    return our_views()[0]


def ours(
    folder: Path, backend: str, augment_on: str = "worker", **options: object
) -> Loader:
    """Our data set, pipeline and collation."""
    views = our_views(**options)
    pipeline = [
        dict(type="DecodeImage", backend=backend),
        dict(type="MakeViews", views=views, augment_on=augment_on),
        dict(type="PackViews"),
    ]
    data = ImageFolder(str(folder), pipeline)
    epochs = itertools.count()

    def load(indices: list[int]) -> list[Tensor]:
        data.set_augmentation_seed(0, next(epochs))
        return default_collate([data[i] for i in indices])["inputs"]

    return load


def stages(paths: list[str], backend: str) -> Callable[[list[int]], Counter]:
    """Seconds per stage of ours, stage by stage in the order of the pipeline."""
    decode = TRANSFORMS.build(dict(type="DecodeImage", backend=backend))
    chain = [(t["type"], TRANSFORMS.build(t)) for t in our_view()]
    pack = TRANSFORMS.build(dict(type="PackViews"))
    epochs = itertools.count()

    def run(indices: list[int]) -> Counter:
        seconds: Counter = Counter()
        epoch, items = next(epochs), []

        def timed(name: str, call: Callable, argument: object):
            start = time.process_time()
            result = call(argument)
            seconds[name] += time.process_time() - start
            return result

        for index in indices:
            path = paths[index]
            results = {"img_path": path, "sample_idx": index, "skipped": ()}
            results = timed("DecodeImage", decode, results)
            views, draws = [], SampleSeed((0, epoch), index)
            for number in range(2):
                view = {**results, "rng": draws.view(number)}
                for name, transform in chain:
                    view = timed(name, transform, view)
                views.append(view["img"])
            items.append(timed("PackViews", pack, {**results, "views": views}))
        timed("default_collate", default_collate, items)
        return seconds

    return run


def limit(paths: list[str]) -> Callable[[list[int]], None]:
    """What is left of the work when only decoding and the resized crops remain."""
    decode = TRANSFORMS.build(dict(type="DecodeImage"))
    crop = TRANSFORMS.build(our_view()[0])
    epochs = itertools.count()

    def run(indices: list[int]) -> None:
        epoch = next(epochs)
        for index in indices:
            results = decode({"img_path": paths[index]})
            draws = SampleSeed((0, epoch), index)
            for number in range(2):
                crop({**results, "rng": draws.view(number)})

    return run


def build(
    folder: Path, paths: list[str], only: str
) -> tuple[dict[str, Loader], dict[str, str]]:
    """All arms that can be built, and why the others cannot."""
    makers = {
        "mmpretrain": lambda: mmpretrain(folder),
        "torchvision_v1": lambda: torchvision_v1(paths),
        "torchvision_v2": lambda: torchvision_v2(paths),
        "lightly": lambda: lightly(paths),
        "ours": lambda: ours(folder, "array"),
        "ours_pil": lambda: ours(folder, "pil"),
        "ours_device": lambda: ours(folder, "array", "device"),
        "mmpretrain_crops": lambda: mmpretrain(folder, SWAV_CONFIG),
        "ours_crops": lambda: ours(folder, "array", **SWAV),
        "ours_crops_device": lambda: ours(folder, "array", "device", **SWAV),
    }
    return peers.available({k: make for k, make in makers.items() if only in k})


def look(
    name: str, load: Loader, count: int, batch: int = BATCH, sides: Sequence = TWO
) -> dict[str, Tensor]:
    """Per view of ``count`` photographs: mean, spread and detail of the pixels.

    Detail is the mean difference of neighbours, which blur and resampling change.
    """
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002, the generator that peers draw from
    torch.manual_seed(0)
    found: dict[str, list[Tensor]] = {"mean": [], "std": [], "detail": []}
    for start in range(0, count, batch):
        views = load(list(range(start, min(start + batch, count))))
        assert len(views) == len(sides), f"{name} yields {len(views)} views"
        for view, side in zip(views, sides, strict=True):
            number = min(batch, count - start)
            assert view.shape == (number, 3, side, side), f"{name}: {view.shape}"
            expected = torch.float32 if name == "lightly" else torch.uint8
            assert view.dtype == expected, f"{name} yields {view.dtype}"
            pixels = view.float() * (255 if name == "lightly" else 1)
            found["mean"].append(pixels.mean((1, 2, 3)))
            found["std"].append(pixels.std((1, 2, 3)))
            found["detail"].append(pixels.diff(dim=3).abs().mean((1, 2, 3)))
    return {key: torch.cat(values) for key, values in found.items()}


def agree(name: str, views: dict[str, Tensor], reference: dict[str, Tensor]) -> dict:
    """Fail unless the pixels of an arm are distributed as those of another.

    A mean may differ by chance, four standard errors, and by 2 % of its size, 8 % for
    the detail, since blurs and resampling are not the same in every library.
    """
    row: dict[str, float | str] = {"arm": name}
    for key, values in views.items():
        other = reference[key]
        gap = float(values.mean() - other.mean())
        error = float((values.var() / len(values) + other.var() / len(other)).sqrt())
        allowed = 4 * error + (0.08 if key == "detail" else 0.02) * float(other.mean())
        row[key] = round(float(values.mean()), 2)
        assert abs(gap) < allowed, (
            f"The pixels of {name} are not those of the reference: their {key} is "
            f"{values.mean():.2f}, not {other.mean():.2f}, and {allowed:.2f} off is "
            "allowed. Such arms do not do the same job."
        )
    return row


def sides_of(arm: str) -> tuple[int, ...]:
    """Pixels of the views of an arm."""
    return EIGHT if "_crops" in arm else TWO


def batches(count: int, size: int) -> Iterator[list[int]]:
    """Indices of batches, the same for every arm, round and round."""
    numbers = itertools.cycle(range(count))
    while True:
        yield list(itertools.islice(numbers, size))


def measure(
    folder: Path,
    blocks: int = BLOCKS,
    steps: int = STEPS,
    batch: int = BATCH,
    checked: int = CHECKED,
    only: str = "",
) -> tuple[list[dict], list[dict]]:
    """Compare, then time: rows of the ratios and rows of our stages.

    ``only`` leaves the arms out whose name has it not, and the stages.
    """
    endings = (".jpg", ".jpeg")
    found = sorted(p for p in folder.rglob("*") if p.suffix.lower() in endings)
    paths = [str(path) for path in found]
    arms, missing = build(folder, paths, only)
    seen = {
        name: look(name, load, min(checked, len(paths)), sides=sides_of(name))
        for name, load in arms.items()
        if not name.endswith("_device")  # whose views are not finished
    }
    for name, views in seen.items():
        eight = sides_of(name) == EIGHT
        reference = "mmpretrain_crops" if eight else "torchvision_v1"
        print(agree(name, views, seen[reference]))
    for name in arms.keys() & {"ours_device", "ours_crops_device"}:
        shapes = [tuple(v.shape) for v in arms[name](list(range(batch)))]
        assert shapes == [(batch, 3, s, s) for s in sides_of(name)], shapes

    def call(run: Callable) -> Callable[[], object]:
        indices = batches(len(paths), batch)
        return lambda: run(next(indices))

    calls = {name: call(load) for name, load in arms.items()}
    if "ours" in arms:
        calls["limit"] = call(limit(paths))
    seconds = common.time_arms(calls, blocks, steps, 1, time.process_time)
    per_sample = {k: [s / batch for s in values] for k, values in seconds.items()}
    chosen = [ratio for ratio in RATIOS if only in ratio[0]]
    rows = [_ratio(arm, peer, goal, per_sample, missing) for arm, peer, goal in chosen]
    return rows, [] if only else _stage_rows(paths, blocks * steps, batch)


def _ratio(
    arm: str, peer: str, goal: float | None, seconds: dict, missing: dict[str, str]
) -> dict:
    size = "+".join(f"{n}x{s}" for s, n in Counter(sides_of(arm)).items())
    size = str(SIZE) if sides_of(arm) == TWO else size
    row = {"threads": 1, "batch": BATCH, "size": size, "arm": arm, "peer": peer}
    values: dict = dict.fromkeys(
        ("arm_cpu_ms", "peer_cpu_ms", "speedup", "speedup_low", "speedup_high"), ""
    )
    if not missing.get(peer):
        speedup, low, high = common.ratio(seconds[peer], seconds[arm])
        values = {
            "arm_cpu_ms": common.median_ms(seconds[arm]),
            "peer_cpu_ms": common.median_ms(seconds[peer]),
            "speedup": round(speedup, 2),
            "speedup_low": round(low, 2),
            "speedup_high": round(high, 2),
        }
    versions = {name: peers.installed(name) for name in ("torchvision", "lightly")}
    goals = {"goal": goal or "", "left_out": missing.get(peer, "")}
    return row | values | goals | versions


def _stage_rows(paths: list[str], rounds: int, batch: int) -> list[dict]:
    rows = []
    indices = batches(len(paths), batch)
    runs = {backend: stages(paths, backend) for backend in ("array", "pil")}
    sums = {backend: Counter[str]() for backend in runs}
    for number in range(-1, rounds):  # the first round warms up
        chosen = next(indices)
        for backend, run in runs.items():
            seconds = run(chosen)
            if number >= 0:
                sums[backend].update(seconds)
    for backend, seconds in sums.items():
        for stage, value in seconds.items():
            rows.append(
                {
                    "backend": backend,
                    "stage": stage,
                    "cpu_ms_per_sample": round(1000 * value / rounds / batch, 3),
                    "share": round(value / seconds.total(), 3),
                }
            )
    return rows


def main() -> None:
    """Check, time, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=Path, help="a folder of photographs (JPEG)")
    parser.add_argument(
        "--crops", action="store_true", help="time the eight crops alone"
    )
    args = parser.parse_args()
    images = args.images
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    warnings.filterwarnings("ignore")  # mmcv warns at every change of saturation
    with common.photographs(images) as folder:
        if folder is None:
            print(
                "The input pipeline is not measured: there are no photographs. Name a "
                "folder of JPEG files of 500 to 640 pixels by --images FOLDER, or that "
                "of bccd_voc.tar.xz by MMSSL_BCCD."
            )
            return
        rows, stage_rows = measure(folder, only="_crops" if args.crops else "")
    if args.crops:  # the others stay as they were measured
        before = plot.read("pipeline_cpu")
        rows = [row for row in before if "_crops" not in row["arm"]] + rows
    else:
        common.write_rows("pipeline_stages_cpu", stage_rows)
    common.write_rows("pipeline_cpu", rows)


if __name__ == "__main__":
    main()
