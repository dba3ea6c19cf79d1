"""The faults that users of other projects reported, R29 on, done to upstream.

Registered for ``upstream_faults.py``, which runs them. mmdet and mmseg take part where
annotations and label maps do; mmdet is imported with torchvision's ops in the place of
mmcv's compiled ones, which are not what is looked at.
"""

from __future__ import annotations

import functools
import hashlib
import http.server
import json
import math
import os
import shutil
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.hooks import Hook
from mmengine.registry import init_default_scope
from mmengine.runner import load_checkpoint
from PIL import Image
from upstream_runs import (
    EPOCHS,
    HANG,
    SCRATCH,
    STEPS,
    Run,
    Seen,
    check,
    copy,
    loads,
    read,
    stop_by,
    train,
    warnings_of,
    whole_run,
    write_images,
)


def _hash(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else ""


def _warned(run: Run) -> str:
    return f"warnings: {warnings_of(run)}"


# --- Runs


@check("R29")
def started_twice() -> Seen:
    """A finished run is started again with another seed."""
    folder = copy(whole_run(), "twice")
    before = {path.name: _hash(path) for path in folder.glob("*.pth")}
    run = Run("twice", train, randomness__seed=1).end()
    lost = [name for name, old in before.items() if _hash(folder / name) != old]
    if run.code:
        return "pass", f"refused: {run.short_error}"
    return ("fail" if lost else "pass"), (
        f"{len(lost)} of {len(before)} checkpoints overwritten, {_warned(run)}"
    )


@check("R30")
def one_out_dir() -> Seen:
    """Two work dirs of the same last name, one ``out_dir`` for checkpoints."""
    out = str(SCRATCH / "out")
    hashes = []
    for seed in (0, 1):
        write_images(SCRATCH / f"seed{seed}/images")
        run = Run(
            f"seed{seed}/run", train, randomness__seed=seed,
            default_hooks__checkpoint__out_dir=out,
        ).end()  # fmt: skip
        if not loads(run.checkpoint):
            raise RuntimeError(run.log)
        hashes.append(_hash(run.checkpoint))
        if seed == 0:
            first = run.checkpoint
    lost = _hash(first) != hashes[0]
    return ("fail" if lost else "pass"), (
        f"last_checkpoint of the first run names "
        f"{'weights of the second' if lost else 'its own weights'}, {_warned(run)}"
    )


@check("R31")
def other_images() -> Seen:
    """All images are replaced between two epochs."""
    folder = copy(whole_run(), "replaced", 2)
    write_images(folder / "images", 12)
    for i, path in enumerate(sorted((folder / "images").iterdir())):
        path.rename(path.with_name(f"other{i}.jpg"))
    run = Run("replaced", train, resume=True).end()
    if run.code:
        return "pass", f"refused: {run.short_error}"
    return "fail", f"24 images, then 12 others: resumed and ended, {_warned(run)}"


class Rates(Hook):
    """Writes the learning rate of each epoch down."""

    def after_train_epoch(self, runner: Any) -> None:
        rate = runner.optim_wrapper.get_lr()["lr"][0]
        with Path(runner.work_dir, "rates.jsonl").open("a") as file:
            file.write(json.dumps([runner.epoch, rate]) + "\n")


def note_rates(runner: Any) -> None:
    """Register it."""
    runner.register_hook(Rates())


def rates(run: Run) -> dict[int, float]:
    """Learning rate at the end of each epoch."""
    lines = (run.folder / "rates.jsonl").read_text().splitlines()
    return dict(map(json.loads, lines))


@check("R32")
def longer() -> Seen:
    """Three epochs by a cosine, then six."""
    cosine = [dict(type="CosineAnnealingLR", by_epoch=True)]
    options = dict(param_scheduler=cosine, optim_wrapper__optimizer__lr=0.03)
    long = options | dict(train_cfg__max_epochs=2 * EPOCHS)
    Run("longer", train, note_rates, **options).end()
    run = Run("longer", train, note_rates, resume=True, **long).end()
    fresh = Run("longer_fresh", train, note_rates, **long).end()
    if run.code:
        return "pass", f"refused: {run.short_error}"
    found, wanted = rates(run), rates(fresh)
    right = all(math.isclose(found[e], wanted[e]) for e in range(EPOCHS, 2 * EPOCHS))
    last = 2 * EPOCHS - 1
    return ("pass" if right else "fail"), (
        f"cosine from 0.03, 3 epochs, resumed to 6: rate in epoch {last + 1} "
        f"{found[last]:.1e}, of a run of 6 epochs {wanted[last]:.1e}"
    )


@check("R33")
def hang_up() -> Seen:
    """SIGINT and SIGHUP in the second epoch."""
    phrases, saved = [], 0
    for signum in (signal.SIGINT, signal.SIGHUP):
        run, whole, phrase = stop_by(signum)
        saved += whole
        lines = run.log.count("\n  File ")
        phrases.append(f"{phrase}, {lines} lines of traceback")
    return ("fail", "partial", "pass")[saved], "; ".join(phrases)


@check("R34")
def accumulation() -> Seen:
    """Gradients of three batches per step of the optimizer."""
    updates = []
    for count in (1, 3):
        run = Run(
            f"accumulate{count}", train, optim_wrapper__accumulative_counts=count
        ).end()
        state = read(run.checkpoint)["state_dict"]
        updates.append(int(state["encoder_k.steps"]) * count / (EPOCHS * STEPS))
    return ("pass" if updates[0] == updates[1] else "fail"), (
        "momentum updates per step of the optimizer: "
        f"{updates[0]:g} without, {updates[1]:g} with accumulative_counts=3"
    )


def fill_up(runner: Any) -> None:
    """Let no file grow beyond what the log has after a few lines."""

    class Full(Hook):
        def after_train_iter(self, runner: Any, *args: Any, **kwargs: Any) -> None:
            if runner.iter == STEPS + 1:
                import resource

                size = (runner.work_dir + "/" + runner.timestamp,)
                logs = list(Path(*size).glob("*.log"))
                limit = logs[0].stat().st_size + 50
                resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    runner.register_hook(Full(), priority="VERY_LOW")


@check("R35")
def full_log() -> Seen:
    """No room for a further line of the log."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    run = Run("full_log", train, fill_up).end()
    said = "space" in run.error or "too large" in run.error
    lines = run.log.count("\n  File ")
    if run.code:
        outcome = "pass" if said and not lines else "fail"
        return outcome, f"{run.short_error or f'exit {run.code}'}, a traceback"
    return "partial", (
        f"trained on without a log; {run.log.count('Logging error')} tracebacks of "
        "logging on the terminal"
    )


# --- Images


@check("R36")
def special() -> Seen:
    """A pipe among the images; is it read, and does SIGTERM end that?"""
    folder = SCRATCH / "special/images"
    write_images(folder)
    os.mkfifo(folder / "00.pipe.jpg")
    run = Run("special", train, train_dataloader__num_workers=0).end(HANG)
    steps = len(run.steps)
    if run.hangs:
        return "fail", f"a pipe named .jpg: hangs after {steps} steps, without a word"
    return "pass", f"a pipe named .jpg: {run.short_error or 'left out'}"


@check("R37")
def odd_names() -> Seen:
    """A readable file of a Latin-1 name, a broken one with an escape in its name."""
    good, bad = SCRATCH / "latin/images", SCRATCH / "escape/images"
    for folder in (good, bad):
        write_images(folder)
    latin = os.fsencode(good) + b"/fa\xe7ade.jpg"
    shutil.copy(good / "00.jpg", os.fsdecode(latin))
    (bad / "\x1b[2J\x1b]0;owned\x07.jpg").write_bytes(b"no image")
    one = Run("latin", train, train_cfg__max_epochs=1).end()
    other = Run("escape", train, train_cfg__max_epochs=1).end()
    raw = "\x1b]0;owned" in other.log
    works = not one.code
    phrases = [
        f"Latin-1 name: {'trained on it' if works else one.short_error}",
        f"escape sequences of a name {'reach' if raw else 'do not reach'} the terminal",
    ]
    return ("fail", "partial", "pass")[works + (not raw)], "; ".join(phrases)


def upright(folder: Path) -> None:
    """Read one photograph in eight orientations by the stock transform."""
    from mmpretrain.registry import TRANSFORMS

    init_default_scope("mmpretrain")
    load = TRANSFORMS.build(dict(type="LoadImageFromFile"))
    pixels = np.zeros((20, 30, 3), np.uint8)
    pixels[:10] = 255
    shapes = set()
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        Image.fromarray(pixels).save(folder / "a.jpg", exif=exif, quality=95)
        shapes.add((orientation > 4, load({"img_path": folder / "a.jpg"})["img"].shape))
    (folder / "found.json").write_text(json.dumps(sorted(shapes)))


@check("R38")
def turned() -> Seen:
    """Are photographs read upright?"""
    run = Run("turned", upright).end()
    found = json.loads((run.folder / "found.json").read_text())
    right = found == [[False, [20, 30, 3]], [True, [30, 20, 3]]]
    return ("pass" if right else "fail"), (
        "all eight orientations read upright" if right else f"read as {found}"
    )


def list_folder(folder: Path, *options: str) -> None:
    """What mmpretrain's folder dataset finds."""
    from mmpretrain.datasets import CustomDataset

    init_default_scope("mmpretrain")
    dataset = CustomDataset(data_root=str(folder / "images"), with_label=False)
    (folder / "found.txt").write_text(str(len(dataset)))


@check("R39")
def left_out() -> Seen:
    """Readable images of eight suffixes."""
    folder = SCRATCH / "suffixes/images"
    folder.mkdir(parents=True)
    kinds = dict(
        jpg="JPEG", JPEG="JPEG", jfif="JPEG", png="PNG", bmp="BMP", webp="WEBP",
        tif="TIFF", gif="GIF",
    )  # fmt: skip
    for suffix, kind in kinds.items():
        Image.new("RGB", (40, 40), (9, 99, 200)).save(folder / f"a.{suffix}", kind)
    run = Run("suffixes", list_folder).end()
    count = int((run.folder / "found.txt").read_text())
    said = "left out" in run.log or "skipped" in run.log
    fine = count == len(kinds) or said
    return ("pass" if fine else "fail"), (
        f"{count} of {len(kinds)} readable images found, the others "
        f"{'said' if said else 'not mentioned'}"
    )


def class_numbers(folder: Path) -> None:
    """Which numbers 'cat' and 'dog' get in two folders."""
    from mmpretrain.datasets import CustomDataset

    init_default_scope("mmpretrain")
    found = {}
    for split, names in (("train", ("bird", "cat", "dog")), ("test", ("cat", "dog"))):
        for name in names:
            write_images(folder / split / name, 2)
        dataset = CustomDataset(data_root=str(folder / split))
        for i in range(len(dataset)):
            info = dataset.get_data_info(i)
            found[f"{split} {Path(info['img_path']).parent.name}"] = info["gt_label"]
    (folder / "found.json").write_text(
        json.dumps({k: int(v) for k, v in found.items()})
    )


@check("R40")
def missing_class() -> Seen:
    """Test images that lack the first class of the training images."""
    run = Run("class_numbers", class_numbers).end()
    if run.code:
        raise RuntimeError(run.log)
    found = json.loads((run.folder / "found.json").read_text())
    same = found["train cat"] == found["test cat"]
    return ("pass" if same else "fail"), (
        f"'cat' is class {found['train cat']} in training, {found['test cat']} in the "
        f"test, {'warned' if 'WARN' in run.log else 'no warning'}"
    )


# --- Weights


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args: Any) -> None:
        """Say nothing."""


def load_addresses(folder: Path) -> None:
    """Load two files of the same name from one server."""
    os.environ["TORCH_HOME"] = str(folder / "home")
    serve = functools.partial(_Quiet, directory=str(folder / "http"))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), serve)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    values = []
    for number, name in enumerate(("one", "two")):
        (folder / "http" / name).mkdir(parents=True)
        state = {"weight": torch.full((1, 1), float(number)), "bias": torch.zeros(1)}
        torch.save({"state_dict": state}, folder / "http" / name / "epoch_200.pth")
        address = f"http://127.0.0.1:{server.server_port}/{name}/epoch_200.pth"
        model = torch.nn.Linear(1, 1)
        load_checkpoint(model, address, map_location="cpu")
        values.append(model.weight.item())
    (folder / "found.json").write_text(json.dumps(values))


@check("R41")
def addresses() -> Seen:
    """Two addresses that end in epoch_200.pth."""
    run = Run("addresses", load_addresses).end()
    if run.code:
        return "fail", run.short_error
    right = json.loads((run.folder / "found.json").read_text()) == [0.0, 1.0]
    return ("pass" if right else "fail"), (
        "each its own weights" if right else "the second gets the first one's weights"
    )


def _negative(name: str, value: torch.Tensor) -> torch.Tensor:
    return -value - 1 if "running_var" in name else value


CORRUPT: dict[str, Callable[[str, torch.Tensor], torch.Tensor]] = {
    "NaN": lambda name, value: value * math.nan,
    "zeros": lambda name, value: value * 0,
    "infinite": lambda name, value: (value * 1e6).half(),
    "negative variances": _negative,
    "int8": lambda name, value: value.to(torch.int8),
}


def take_corrupt(folder: Path) -> None:
    """Initialise a ResNet-18 by mmengine's ``Pretrained`` from each kind of file."""
    from mmpretrain.models import ResNet

    init_default_scope("mmpretrain")
    small = dict(depth=18, stem_channels=8, base_channels=8)
    good = ResNet(**small).state_dict()
    taken = []
    for kind, spoil in CORRUPT.items():
        state = {
            f"backbone.{name}": spoil(name, value)
            if value.is_floating_point()
            else value
            for name, value in good.items()
        }
        torch.save({"state_dict": state}, folder / "file.pth")
        init = dict(
            type="Pretrained", checkpoint=str(folder / "file.pth"), prefix="backbone."
        )
        try:
            ResNet(**small, init_cfg=init).init_weights()
            taken.append(kind)
        except Exception as error:
            print(type(error).__name__, error)
    (folder / "found.json").write_text(json.dumps(taken))


@check("R42")
def corrupt() -> Seen:
    """Which of five kinds of values are taken."""
    run = Run("corrupt", take_corrupt).end()
    taken = json.loads((run.folder / "found.json").read_text())
    outcome = (
        "pass" if not taken else "partial" if len(taken) < len(CORRUPT) else "fail"
    )
    return outcome, f"taken without a word: {', '.join(taken) or 'none'}"


@check("R43")
def nothing_fits() -> Seen:
    """``load_from`` weights in torchvision's layout."""
    import torchvision

    path = SCRATCH / "resnet18.pth"
    torch.save(torchvision.models.resnet18().state_dict(), path)
    run = Run("nothing_fits", train, load_from=str(path), train_cfg__max_epochs=1).end()
    same = whole_run().losses[0] == run.losses.get(0)
    if run.code:
        return "pass", f"refused: {run.short_error}"
    said = "Load checkpoint from" in run.log
    return "fail", (
        f"trained from {'the same random weights as without' if same else 'others'}, "
        f"log: {'Load checkpoint from' if said else 'nothing'}, {_warned(run)}"
    )


# --- Annotations


def perfect(folder: Path) -> None:
    """COCO AP of a perfect detector where val.json lists its classes the other way."""
    from mmdet.datasets import CocoDataset
    from mmdet.evaluation import CocoMetric

    init_default_scope("mmdet")
    write_images(folder / "images", 4)
    boxes = [[2, 3, 10, 12], [15, 14, 12, 11]]
    found = {}
    for order in (1, -1):
        categories = [{"id": 1, "name": "disk"}, {"id": 2, "name": "square"}][::order]
        annotations = [
            {
                "id": 2 * image + number + 1, "image_id": image, "iscrowd": 0,
                "category_id": number + 1, "bbox": box, "area": box[2] * box[3],
            }
            for image in range(4) for number, box in enumerate(boxes)
        ]  # fmt: skip
        images = [
            {"id": i, "file_name": f"{i:02}.jpg", "width": 32, "height": 32}
            for i in range(4)
        ]
        text = dict(images=images, annotations=annotations, categories=categories)
        for crowd, name in ((0, "val"), (1, "crowd")):
            for annotation in annotations:
                annotation["iscrowd"] = crowd
            (folder / f"{name}.json").write_text(json.dumps(text))
        metric = CocoMetric(ann_file=str(folder / "val.json"), metric="bbox")
        metric.dataset_meta = {"classes": ("disk", "square")}
        for image in range(4):
            b = torch.tensor(boxes, dtype=torch.float32)
            b[:, 2:] += b[:, :2]
            said = dict(bboxes=b, scores=torch.ones(2), labels=torch.tensor([0, 1]))
            sample = dict(img_id=image, ori_shape=(32, 32), pred_instances=said)
            metric.process({}, [sample])
        found[f"AP{order}"] = metric.evaluate(4)["coco/bbox_mAP"]
    crowd = CocoDataset(
        data_root=str(folder), ann_file="crowd.json", data_prefix=dict(img="images"),
        metainfo=dict(classes=("disk", "square")), pipeline=[],
    )  # fmt: skip
    found["images"] = len(crowd)
    found["objects"] = sum(
        not o["ignore_flag"]
        for i in range(len(crowd))
        for o in crowd.get_data_info(i)["instances"]
    )
    (folder / "found.json").write_text(json.dumps(found))


@check("R44")
def annotations() -> Seen:
    """Classes in another order; nothing but crowds."""
    run = Run("annotations", with_ops, "perfect").end()
    if run.code:
        raise RuntimeError(run.log)
    found = json.loads((run.folder / "found.json").read_text())
    right = found["AP-1"] > 0.99
    return ("partial" if right else "fail"), (
        f"mmdet: a perfect detector has AP {found['AP1']:.2f}, with the categories of "
        f"val.json in another order {found['AP-1']:.2f}; a training set of crowds "
        f"only: {found['images']} images, {found['objects']} objects, no word"
    )


def with_ops(folder: Path, name: str) -> None:
    """Run a function of this file where mmdet can be imported."""
    import sys

    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    import mmssl_ext.transfer.detection  # noqa: F401 - torchvision's ops for mmcv's

    globals()[name](folder)


def black_and_white(folder: Path) -> None:
    """MIoU of a network that never says 'object', on masks of 0 and 255."""
    import mmseg.datasets  # noqa: F401
    from mmengine.structures import PixelData
    from mmseg.evaluation import IoUMetric
    from mmseg.structures import SegDataSample

    mask = torch.zeros(1, 32, 32, dtype=torch.long)
    mask[:, 8:16] = 255
    metric = IoUMetric(ignore_index=255)
    metric.dataset_meta = {"classes": ("background", "object")}
    nothing = PixelData(data=torch.zeros_like(mask))
    sample = SegDataSample(gt_sem_seg=PixelData(data=mask), pred_sem_seg=nothing)
    metric.process({}, [sample.to_dict()])
    (folder / "found.json").write_text(json.dumps(float(metric.evaluate(1)["mIoU"])))


@check("R45")
def masks() -> Seen:
    """Masks as painting programs save them."""
    run = Run("masks", with_ops, "black_and_white").end()
    if run.code:
        raise RuntimeError(run.log)
    value = json.loads((run.folder / "found.json").read_text())
    return ("fail" if value > 99 else "pass"), (
        f"mmseg: masks of 0 and 255, a network that finds nothing: mIoU {value:.0f}"
    )
