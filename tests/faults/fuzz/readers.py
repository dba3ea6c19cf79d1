"""The readers under test: what they read, valid files, and which errors they document.

Each reads a file from a folder as the package does, not by a part of it alone.
"""

from __future__ import annotations

import functools
import io
import json
import pickle
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.logging import HistoryBuffer
from PIL import Image

import mmssl_ext.models
from mmssl_ext.chain.results import read_records, write_csv
from mmssl_ext.datasets import CIFAR10, ImageFolder, ImageList, ImageShards
from mmssl_ext.datasets.labelled import LabelledFolder, VOCLabels
from mmssl_ext.datasets.shard_writer import make_shards
from mmssl_ext.datasets.transforms.decode import UnreadableImageError
from mmssl_ext.engine.checkpoint.manifest import write_manifest
from mmssl_ext.engine.checkpoint.read import find_resumable, load_checkpoint_file
from mmssl_ext.engine.config.strict import check_strict
from mmssl_ext.errors import CheckpointFileError, ConfigError, UserError
from mmssl_ext.files import sha256
from mmssl_ext.transfer.data_check.check import check_data
from mmssl_ext.transfer.handover import read_backbone
from tests.datasets.helpers import TWO_VIEWS, picture, write_cifar

from .mutate import BYTES, JSON, PICKLE, TEXT, XML, ZIP, Mutator

assert mmssl_ext.models  # registers what the pipelines name


@dataclass(frozen=True)
class Reader:
    """One way of reading one kind of file.

    Attributes:
        name: On the command line and in the table.
        file: Path of the damaged file below the folder.
        mutators: What is done to it.
        errors: What the reader may raise; the message must name the file.
        seeds: Returns valid contents of the file.
        read: Reads it; its argument is the folder.
        prepare: Makes what stands beside the file, once.
        share: How often it is taken, relative to the others.
        named: Other files by which a message may name the place.
    """

    name: str
    file: str
    mutators: Sequence[Mutator]
    errors: tuple[type[Exception], ...]
    seeds: Callable[[], list[bytes]]
    read: Callable[[Path], Any]
    prepare: Callable[[Path], None] = lambda folder: None
    share: int = 1
    named: Sequence[str] = ()

    def input(self, seed: int, number: int) -> tuple[bytes, str]:
        """Damaged content and what was done; the same for the same numbers."""
        rng = random.Random(f"{seed} {self.name} {number}")
        data = rng.choice(_seeds(self.name))
        done = []
        for _ in range(rng.choice([1, 1, 1, 2, 3])):
            mutate = rng.choice(self.mutators)
            try:
                data = mutate(rng, data)
            except Exception:  # damaged too much already for its structure
                continue
            done.append(mutate.__name__)
        return data, "+".join(done)


@functools.cache
def _seeds(name: str) -> list[bytes]:
    return READERS[name].seeds()


# Images


def _saved(img: Image.Image, kind: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    img.save(stream, kind, **options)
    return stream.getvalue()


def jpegs() -> list[bytes]:
    rgb = picture(1, (60, 44))
    exif = Image.Exif()
    exif[0x0112] = 6
    return [
        _saved(rgb, "JPEG"),
        _saved(rgb, "JPEG", progressive=True, quality=95, subsampling=0),
        _saved(rgb.convert("L"), "JPEG"),
        _saved(rgb.convert("CMYK"), "JPEG"),
        _saved(rgb, "JPEG", exif=exif, restart_marker_rows=1),
    ]


def pngs() -> list[bytes]:
    rgb = picture(2, (60, 44))
    gray = np.asarray(rgb)[..., 0].astype(np.uint16) * 257
    return [
        _saved(rgb, "PNG"),
        _saved(rgb.convert("RGBA"), "PNG"),
        _saved(rgb.quantize(16), "PNG", transparency=bytes([0, 99, 255])),
        _saved(Image.fromarray(gray), "PNG"),
        _saved(rgb.convert("LA"), "PNG"),
        _saved(rgb.convert("1"), "PNG"),
    ]


def other_images() -> list[bytes]:
    rgb = picture(3, (60, 44))
    gray = np.asarray(rgb)[..., 0].astype(np.uint16) * 257
    frames = [picture(i, (60, 44)).quantize(16) for i in range(3)]
    return [
        _saved(rgb, "BMP"),
        _saved(rgb.quantize(8), "BMP"),
        _saved(frames[0], "GIF", save_all=True, append_images=frames[1:]),
        _saved(rgb, "WEBP"),
        _saved(rgb.convert("RGBA"), "WEBP", lossless=True),
        _saved(rgb, "TIFF"),
        _saved(rgb, "TIFF", compression="tiff_lzw"),
        _saved(rgb.convert("CMYK"), "TIFF", compression="tiff_deflate"),
        _saved(Image.fromarray(gray), "TIFF"),
        _saved(rgb, "PPM"),
        _saved(rgb.convert("L"), "PPM"),
    ]


def read_image(backend: str) -> Callable[[Path], Any]:
    decode = {"type": "DecodeImage", "backend": backend}

    def read(folder: Path) -> None:
        item = ImageFolder(str(folder), [decode, *TWO_VIEWS[1:]])[0]
        assert [v.shape for v in item["inputs"]] == [(3, 24, 24)] * 2

    return read


# Checkpoints


def _state() -> dict[str, Any]:
    generator = torch.Generator().manual_seed(0)
    return {
        "state_dict": {
            "backbone.conv1.weight": torch.rand(4, 3, generator=generator),
            "backbone.bn1.weight": torch.ones(4, dtype=torch.float16),
            "backbone.layer1.0.conv1.weight": torch.arange(4.0),
            "queue.keys": torch.rand(8, 2, generator=generator).t(),
        },
        "optimizer": {"state": {0: {"step": 3}}, "param_groups": [{"lr": 0.1}]},
        "meta": {"epoch": 1, "iter": 4, "cfg": "x = 1", "seed": 2**63},
        "message_hub": {"log_scalars": {"loss": HistoryBuffer([1.0, 2.0], [1, 1])}},
    }


def checkpoints() -> list[bytes]:
    found = []
    plain = {k: v for k, v in _state().items() if k != "message_hub"}
    for content in (_state(), plain, plain["state_dict"]):
        for zipped in (True, False):
            stream = io.BytesIO()
            torch.save(content, stream, _use_new_zipfile_serialization=zipped)
            found.append(stream.getvalue())
    return found


def read_checkpoint(folder: Path) -> None:
    content = load_checkpoint_file(folder / "epoch_1.pth")
    assert isinstance(content, dict)


def read_backbone_of(folder: Path) -> None:
    read_backbone(folder / "epoch_1.pth", prefix="backbone.")


def write_run(folder: Path) -> None:
    """A work_dir with two checkpoints, the newer one with a manifest."""
    for name in ("epoch_1.pth", "epoch_2.pth"):
        (folder / name).write_bytes(checkpoints()[2])
        write_manifest(folder / name, sha256(folder / name), {"kind": "regular"})
    (folder / "last_checkpoint").write_text(str(folder / "epoch_2.pth"))


def read_run(folder: Path) -> None:
    found, _ = find_resumable(folder)
    assert found is not None


def run_manifests() -> list[bytes]:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        write_run(Path(folder))
        return [Path(folder, "epoch_2.pth.json").read_bytes()]


def pointers() -> list[bytes]:
    return [b"epoch_2.pth", b"/gone/epoch_1.pth"]


# Lists, shards, CIFAR


def lists() -> list[bytes]:
    return [
        b"a/000.png\na/001.png\nb/002.png\n",
        b"a/000.png 0\na/001.png 0\nb/002.png 1\n",
        "# comment\n\na/with space.png 1\na/\u00e4.png 2\n".encode(),
    ]


def write_images(folder: Path) -> None:
    names = "a/with space.png", "a/\u00e4.png"
    for name in ("a/000.png", "a/001.png", "b/002.png", *names):
        (folder / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        picture(0).save(folder / "images" / name)


def read_image_list(folder: Path) -> None:
    dataset = ImageList(str(folder / "list.txt"), root=str(folder / "images"))
    for index in (0, len(dataset) - 1):
        dataset.get_data_info(index)
    dataset.fingerprint()


def read_labelled_list(folder: Path) -> None:
    LabelledFolder(str(folder / "images"), list_file=str(folder / "list.txt"))


def _shard_files() -> dict[str, bytes]:
    import tempfile

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_images(folder)
        make_shards(str(folder / "images"), str(folder / "out"), shard_size=3000)
        return {p.name: p.read_bytes() for p in (folder / "out").iterdir()}


def write_shards(folder: Path) -> None:
    for name, content in _shard_files().items():
        (folder / name).write_bytes(content)


def read_shards(folder: Path) -> None:
    dataset = ImageShards(str(folder), TWO_VIEWS, labels="subfolders")
    for index in range(min(len(dataset), 5)):
        dataset[index]


def cifar_batches() -> list[bytes]:
    found = []
    rng = np.random.default_rng(0)
    for protocol in (2, 4, 5):
        data = rng.integers(0, 256, (3, 3072), dtype=np.uint8)
        batch = {"data": data, "labels": [0, 9, 3], "batch_label": "test", "f": [b"x"]}
        found.append(pickle.dumps(batch, protocol))
    return found


def cifar_metas() -> list[bytes]:
    meta = {"label_names": [f"class{i}" for i in range(10)], "num_vis": 3072}
    return [pickle.dumps(meta, protocol) for protocol in (0, 2, 4)]


def write_cifar_10(folder: Path) -> None:
    write_cifar(folder, 3)


def read_cifar(folder: Path) -> None:
    dataset = CIFAR10(str(folder), TWO_VIEWS, "test", verify_md5=False)
    dataset[0]
    assert {str(name) for name in dataset.metainfo["classes"]}


# Annotations


def coco_files() -> list[bytes]:
    boxes = [[1, 2, 10, 20], [0.5, 0.5, 30, 9], [5, 5, 20, 20]]
    polygons = [
        [[1, 2, 11, 2, 11, 22]],
        {"counts": [600, 600], "size": [30, 40]},
        [[5, 5, 9, 9, 5, 9]],
    ]
    content = {
        "info": {"year": 2026},
        "images": [
            {"id": i, "file_name": f"{i}.png", "width": 40, "height": 30}
            for i in range(3)
        ],
        "annotations": [
            {"id": i, "image_id": i, "category_id": 1 + i % 2, "bbox": box}
            | {"area": box[2] * box[3], "iscrowd": 0, "segmentation": polygon}
            for i, (box, polygon) in enumerate(zip(boxes, polygons, strict=True))
        ],
        "categories": [{"id": 1, "name": "circle"}, {"id": 2, "name": "dog"}],
    }
    return [json.dumps(content).encode()]


def write_coco(folder: Path) -> None:
    (folder / "images").mkdir()
    for i in range(3):
        Image.new("RGB", (40, 30)).save(folder / "images" / f"{i}.png")


def _checked(folder: Path, dataset: dict[str, Any]) -> None:
    check_data(
        {
            "default_scope": "mmdet",
            "train_dataloader": {
                "dataset": {
                    "data_root": str(folder),
                    "metainfo": {"classes": ("circle", "dog")},
                    "pipeline": [{"type": "LoadAnnotations", "with_mask": True}],
                    **dataset,
                }
            },
        }
    )


def read_coco(folder: Path) -> None:
    prefix = {"img": "images/"}
    _checked(folder, dict(type="CocoDataset", ann_file="a.json", data_prefix=prefix))


def voc_files() -> list[bytes]:
    objects = "".join(
        f"<object><name>{name}</name><difficult>{i}</difficult><bndbox><xmin>1</xmin>"
        f"<ymin>2</ymin><xmax>{9 + i}</xmax><ymax>20</ymax></bndbox></object>"
        for i, name in enumerate(("circle", "dog"))
    )
    size = "<size><width>40</width><height>30</height><depth>3</depth></size>"
    text = f"<annotation><filename>0.jpg</filename>{size}{objects}</annotation>"
    return [text.encode(), b'<?xml version="1.0" encoding="utf-8"?>\n' + text.encode()]


def write_voc(folder: Path) -> None:
    for name in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (folder / name).mkdir(parents=True)
    Image.new("RGB", (40, 30)).save(folder / "JPEGImages" / "0.jpg")
    (folder / "ImageSets/Main/train.txt").write_text("0\n")


def read_voc(folder: Path) -> None:
    _checked(folder, dict(type="XMLDataset", ann_file="ImageSets/Main/train.txt"))


def read_voc_labels(folder: Path) -> None:
    VOCLabels(str(folder), "train", ("circle", "dog"))


def read_voc_list(folder: Path) -> None:
    (folder / "Annotations/0.xml").write_bytes(voc_files()[0])
    try:
        read_voc(folder)
    finally:
        read_voc_labels(folder)


# Configs and the state of a chain


def configs() -> list[bytes]:
    return [
        b'_base_ = ["base.py"]\nwidth = 64\nmodel = dict(type="ResNet", depth=50)\n'
        b'names = [f"s{i}" for i in range(3)]\ndata_root = "{{$DATA:data/x}}"\n',
        b"from mmengine.config import read_base\nwith read_base():\n"
        b"    from .base import *\nmodel = dict(a=x)\n",
    ]


def config_words(rng: random.Random, data: bytes) -> bytes:
    """Put what a strict config may not hold in some place of it."""
    word = rng.choice(
        [
            *(b"open('CANARY', 'w')", b"eval", b"__import__('os')", b"import os\n"),
            *(b"lambda: 0", b"x.__class__", b"exec('')", b"{{$X:eval}}", b"_base_"),
            *(b"custom_imports", b"(y := 1)", b"*" * 200, b"(" * 300, b"'''", b"#"),
            *(
                b"dict",
                b"\n",
                b"{{ fileBasename }}",
                b"for i in range(3): ",
                b"-" * 9999,
            ),
        ]
    )
    at = rng.randrange(len(data) + 1)
    return data[:at] + word + data[at:]


def read_config(folder: Path) -> None:
    """What passes the check is run, and then nothing may happen."""
    from mmengine.config import Config

    check_strict(folder / "config.py")
    if not any(word in (folder / "config.py").read_text() for word in ("**", "'''")):
        try:
            Config.fromfile(str(folder / "config.py"))
        except Exception:  # strict says that it is harmless, not that it is right
            return


def chain_files() -> list[bytes]:
    entry = dict(name="a", transfer="voc", title="VOC", source="x", scratch=False)
    return [json.dumps({"stages": [{**entry, "seed": 0}]}).encode()]


def stage_files() -> list[bytes]:
    state = dict(status="finished", config="c.py", checkpoint="x.pth", output="y")
    return [json.dumps(state).encode()]


def result_files() -> list[bytes]:
    result = dict(metrics={"mAP": 0.5}, headline="mAP", seconds=3.0, versions={"a": 1})
    return [json.dumps({**result, "seed": 0, "device": "cpu"}).encode()]


def write_chain(folder: Path) -> None:
    (folder / "a").mkdir()
    (folder / "chain.json").write_bytes(chain_files()[0])
    (folder / "a/stage.json").write_bytes(stage_files()[0])
    (folder / "a/result.json").write_bytes(result_files()[0])


def read_chain_state(folder: Path) -> None:
    read_records(folder)
    write_csv(folder)


_IMAGE = (UnreadableImageError,)
_CHECKPOINT = (CheckpointFileError,)
_DATASET = (ValueError, FileNotFoundError)  # ShardError is a ValueError
_CONFIG = (ConfigError,)
_R = Reader

READERS: dict[str, Reader] = {
    reader.name: reader
    for reader in [
        *(
            _R(f"{kind}-{backend}", f"x.{kind}", BYTES, _IMAGE, seeds,
               read_image(backend), share=share)
            for backend in ("array", "pil")
            for kind, seeds, share in (
                ("jpg", jpegs, 4), ("png", pngs, 4), ("tif", other_images, 6)
            )
        ),
        _R("checkpoint", "epoch_1.pth", [*ZIP, *PICKLE], _CHECKPOINT, checkpoints,
           read_checkpoint, share=6),
        _R("backbone", "epoch_1.pth", [*ZIP, *PICKLE], (UserError,), checkpoints,
           read_backbone_of),
        _R("manifest", "epoch_2.pth.json", JSON, _CHECKPOINT, run_manifests, read_run,
           write_run, 2),
        _R("resume", "epoch_2.pth", [*ZIP, *PICKLE], _CHECKPOINT, checkpoints, read_run,
           write_run, 2),
        _R("pointer", "last_checkpoint", TEXT, _CHECKPOINT, pointers, read_run,
           write_run),
        _R("list", "list.txt", TEXT, _DATASET, lists, read_image_list, write_images, 3),
        _R("labelled", "list.txt", TEXT, _DATASET, lists, read_labelled_list,
           write_images),
        _R("index", "index.npz", ZIP, _DATASET,
           lambda: [_shard_files()["index.npz"]], read_shards, write_shards, 4,
           ["The shard '"]),
        _R("shard", "shard-00000.tar", BYTES, (*_DATASET, *_IMAGE),
           lambda: [_shard_files()["shard-00000.tar"]], read_shards, write_shards),
        _R("cifar", "cifar-10-batches-py/test_batch", PICKLE, _DATASET, cifar_batches,
           read_cifar, write_cifar_10, 3),
        _R("cifar-meta", "cifar-10-batches-py/batches.meta", PICKLE, _DATASET,
           cifar_metas, read_cifar, write_cifar_10),
        _R("coco", "a.json", JSON, _CONFIG, coco_files, read_coco, write_coco, 6),
        _R("voc", "Annotations/0.xml", XML, _CONFIG, voc_files, read_voc, write_voc, 4,
           ["train.txt"]),
        _R("voc-labels", "Annotations/0.xml", XML, _DATASET, voc_files, read_voc_labels,
           write_voc, 2, ["split 'train'"]),
        _R("voc-list", "ImageSets/Main/train.txt", TEXT, (*_DATASET, *_CONFIG),
           lambda: [b"0\n"], read_voc_list, write_voc),
        _R("config", "config.py", [*TEXT, *[config_words] * 8], _CONFIG, configs,
           read_config, lambda f: (f / "base.py").write_text("x = 1") and None, 3),
        _R("chain", "chain.json", JSON, _DATASET, chain_files, read_chain_state,
           write_chain),
        _R("stage", "a/stage.json", JSON, _DATASET, stage_files, read_chain_state,
           write_chain),
        _R("result", "a/result.json", JSON, _DATASET, result_files, read_chain_state,
           write_chain),
    ]
}  # fmt: skip
