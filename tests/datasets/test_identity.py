"""Which files a dataset has: moved or packed the same, any other set another."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path

import pytest
import torch
from mmengine.dataset import BaseDataset, ConcatDataset, RepeatDataset

from mmssl_ext.datasets import ImageFolder, ImageList, ImageShards, identity
from mmssl_ext.datasets.identity import differences, identify
from mmssl_ext.datasets.labelled import LabelledFolder
from mmssl_ext.datasets.shard_writer import make_shards

COUNT = 150


@pytest.fixture
def root(tmp_path) -> Path:
    """Files of ten sizes in two folders; nobody decodes them."""
    folder = tmp_path / "images"
    for i in range(COUNT):
        path = folder / f"class{i % 2}" / f"{i:03d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes([i]) * (100 + i % 10))
    return folder


def said(before: dict, now: dict) -> str:
    text, _ = differences(before, now)
    return text


def test_moved_copied_and_packed_data_are_the_same(root, tmp_path):
    before = identify(ImageFolder(str(root)))
    assert before["files"] == COUNT and len(before["content"]) == 50
    os.utime(root / "class0" / "000.jpg", (1, 1))
    moved = tmp_path / "elsewhere" / "deeper"
    shutil.copytree(root, moved)
    names = [f"class{i % 2}/{i:03d}.jpg" for i in range(COUNT)]
    lists = {}
    for folder in (root, moved):
        lists[folder] = tmp_path / f"{folder.name}.txt"
        lists[folder].write_text("".join(f"{folder / name}\n" for name in names))
    make_shards(str(root), str(tmp_path / "shards"))
    for dataset in (
        ImageFolder(f"{moved}/"),
        ImageFolder(os.path.relpath(moved)),
        ImageShards(str(tmp_path / "shards")),
    ):
        now = identify(dataset)
        assert differences(before, now) == ("", False)
        assert torch.equal(before["listing"], now["listing"])
    lists = [identify(ImageList(str(path))) for path in lists.values()]
    assert said(*lists) == ""  # absolute paths
    assert said(before, lists[0]).endswith(
        "now; in another order, or more or less often"
    )


def test_what_differs_is_counted_and_named(root):
    before = identify(ImageFolder(str(root)))
    for i in range(0, 10, 2):
        (root / "class0" / f"{i:03d}.jpg").unlink()
    (root / "class0" / "new\x1b[2J.jpg").write_bytes(b"new")
    (root / "class1" / "001.jpg").write_bytes(b"of another size")
    assert said(before, identify(ImageFolder(str(root)))) == (
        "150 then, 146 now; 1 added (class0/new\\x1b[2J.jpg); 5 removed "
        "(class0/000.jpg, class0/002.jpg, class0/004.jpg, ...); 1 of another size "
        "(class1/001.jpg)"
    )
    before = identify(ImageFolder(str(root)))
    for path in root.rglob("*.jpg"):  # of the same size
        path.write_bytes(path.read_bytes().replace(path.read_bytes()[:1], b"x"))
    text = said(before, identify(ImageFolder(str(root))))
    assert re.match(r"146 then, 146 now; \d\d with other bytes of \d\d looked ", text)


def test_missing_files_are_told_from_others(root, tmp_path):
    ann_file = tmp_path / "list.txt"
    ann_file.write_text("".join(f"class0/{i:03d}.jpg\n" for i in range(0, COUNT, 2)))
    dataset = ImageList(str(ann_file), str(root))
    before = identify(dataset)
    (root / "class0" / "004.jpg").unlink()
    os.mkfifo(root / "class0" / "004.jpg")  # to open it would wait for ever
    now = identify(dataset)
    text = "75 then, 75 now; 1 missing on one side (class0/004.jpg)"
    assert differences(before, now) == (text, True) == differences(now, before)
    (root / "class0" / "006.jpg").write_bytes(b"")
    text, only_missing = differences(before, identify(dataset))
    assert "1 of another size (class0/006.jpg)" in text and not only_missing


def test_labels_count_where_they_are_trained_on(root):
    labelled = LabelledFolder(str(root))
    swapped = LabelledFolder(str(root), classes=["class1", "class0"])
    assert (
        said(identify(labelled), identify(swapped)) == "150 then, 150 now; other labels"
    )
    assert said(*(identify(x, labelled=False) for x in (labelled, swapped))) == ""
    part = said(identify(labelled), identify(LabelledFolder(str(root), fraction=0.1)))
    assert part.startswith("150 then, 16 now; 134 removed (") and "other labels" in part


class Annotated(BaseDataset):
    """As the datasets of mmdet and mmseg are."""


def annotated(root: Path, value: int = 0) -> Annotated:
    names = sorted(str(path.relative_to(root)) for path in root.rglob("*.jpg"))
    listed = [{"img_path": name, "gt_label": value} for name in names]
    content = {"metainfo": {"classes": ["a"]}, "data_list": listed}
    (root / "train.json").write_text(json.dumps(content))
    return Annotated("train.json", data_root=str(root), data_prefix={"img_path": ""})


def test_files_that_the_pipeline_reads_count(root, tmp_path):
    proposals, masks = tmp_path / "p.json", tmp_path / "masks"
    masks.mkdir()
    image = dict(id=1, file_name="class0/000.jpg", width=9, height=9)
    box = dict(image_id=1, bbox=[0, 0, 5, 5])
    coco = dict(images=[image], annotations=[box])
    proposals.write_text(json.dumps(coco))
    (masks / "a.png").write_bytes(b"1")
    lines = [dict(type="LoadProposals", ann_file=str(proposals))]
    lines.append(dict(type="LoadMask", masks=str(masks), missing="keep"))

    def now() -> dict:
        return identify(ImageFolder(str(root), pipeline=lines))

    before = now()
    assert said(before, now()) == ""
    (masks / "b.png").write_bytes(b"1")
    assert said(before, now()).endswith("; other masks (masks)")
    (masks / "b.png").unlink()
    proposals.write_text(json.dumps(coco | dict(annotations=[box | dict(id=3)])))
    assert said(before, now()).endswith("; other proposals (p.json)")


def test_datasets_of_mmengine_and_their_annotations(root, tmp_path):
    first = identify(annotated(root))
    assert first["files"] == COUNT and list(first["others"]) == [
        "annotations (train.json)"
    ]
    moved = tmp_path / "moved"
    shutil.copytree(root, moved)
    assert said(first, identify(annotated(moved))) == ""
    other = identify(annotated(root, value=1))
    assert said(first, other) == ("150 then, 150 now; other annotations (train.json)")
    (moved / "class1" / "003.jpg").write_bytes(b"of another size")
    both = [ConcatDataset([annotated(root), annotated(x)]) for x in (root, moved)]
    assert said(*map(identify, both)) == (
        "300 then, 300 now; 1 of another size (1/class1/003.jpg)"
    )
    assert said(first, identify(RepeatDataset(annotated(root), 3))) == ""


def test_what_an_annotation_per_image_says_counts(root):
    class Boxes(Annotated):
        box = 1

        def get_data_info(self, index):
            path = super().get_data_info(index)["img_path"]
            box = Boxes.box if index == 77 else 0
            return {"img_path": path, "xml_path": path, "instances": [{"bbox": box}]}

    annotated(root)
    options = {"data_root": str(root), "data_prefix": {"img_path": ""}}
    first = identify(Boxes("train.json", **options))
    Boxes.box = 2
    second = identify(Boxes("train.json", **options))
    assert said(first, second) == "150 then, 150 now; other objects"


def test_others_tell_nothing():
    class Numbers(torch.utils.data.Dataset):
        def __len__(self):
            return 3

    assert identify(Numbers()) is None
    assert identify(torch.utils.data.ConcatDataset([Numbers(), Numbers()])) is None
    assert identify(torch.utils.data.Subset(Numbers(), [1])) is None


def test_many_files_are_looked_at_in_their_order():
    found = identity.look_at_each(lambda row: row % 7, list(range(1000)))
    assert found == [row % 7 for row in range(1000)]
