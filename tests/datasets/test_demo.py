"""Demo scenes: deterministic, complete or absent, and consistent in all layouts."""

from __future__ import annotations

import hashlib
import json
from xml.etree import ElementTree as ET

import numpy as np
import pytest
from PIL import Image

from mmssl_ext.datasets import ImageFolder
from mmssl_ext.datasets.demo import CLASSES, build, draw_scene, make_demo
from mmssl_ext.datasets.demo.__main__ import main
from mmssl_ext.datasets.demo.layouts import CITYSCAPES_IDS, CITYSCAPES_TRAIN_IDS

SMALL = {"train": 24, "test": 9, "size": 64, "progress": False}
SPLITS = {"train": range(1, 25), "val": range(25, 34)}


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    return make_demo(tmp_path_factory.mktemp("demo") / "new" / "scenes", **SMALL)


def digest(root):
    files = sorted(p for p in root.rglob("*") if p.is_file())
    return {
        str(p.relative_to(root)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in files
    }


def load(path):
    return np.asarray(Image.open(path))


def box_of(mask):
    ys, xs = np.nonzero(mask)
    return [int(v) for v in (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1)]


def coverage(outline, size, samples=16):
    """Fraction of each pixel within a polygon, by the even-odd rule and samples."""
    axis = (np.arange(size * samples) + 0.5) / samples
    x, y = axis[None], axis[:, None]
    inside = np.zeros((len(axis),) * 2, bool)
    for (x0, y0), (x1, y1) in zip(outline, np.roll(outline, -1, 0), strict=True):
        if y0 != y1:
            inside ^= ((y0 <= y) != (y1 <= y)) & (
                x < x0 + (y - y0) * (x1 - x0) / (y1 - y0)
            )
    return inside.reshape(size, samples, size, samples).mean((1, 3))


def test_the_seed_decides_over_all_bytes(demo, tmp_path):
    again = digest(make_demo(tmp_path / "again", **SMALL))
    assert again == digest(demo)
    other = digest(make_demo(tmp_path / "other", **{**SMALL, "seed": 1}))
    images = [name for name in again if name.endswith(".jpg")]
    assert len(images) == 3 * 33
    assert not any(other.get(name) == again[name] for name in images)


def test_layouts_share_their_image_files(demo):
    for number in (1, 33):
        voc = demo / f"VOCdevkit/VOC2007/JPEGImages/{number:06d}.jpg"
        assert voc.stat().st_nlink == 3


@pytest.mark.parametrize("split", SPLITS)
def test_annotations_of_all_layouts_agree(demo, split):
    voc, city = demo / "VOCdevkit/VOC2007", demo / "cityscapes"
    coco = json.loads(
        (demo / f"coco/annotations/instances_{split}2017.json").read_text()
    )
    city_json = json.loads(
        (city / f"annotations/instancesonly_filtered_gtFine_{split}.json").read_text()
    )
    names = {c["id"]: c["name"] for c in coco["categories"]}
    city_names = {c["id"]: c["name"] for c in city_json["categories"]}
    assert [i["id"] for i in coco["images"]] == list(SPLITS[split])
    several = 0
    for number in SPLITS[split]:
        instances = load(voc / f"SegmentationObject/{number:06d}.png")
        semantic = load(voc / f"SegmentationClass/{number:06d}.png")
        nodes = ET.parse(voc / f"Annotations/{number:06d}.xml").findall("object")
        annotations = [a for a in coco["annotations"] if a["image_id"] == number]
        city_annotations = [
            a for a in city_json["annotations"] if a["image_id"] == number
        ]
        assert (
            instances.max() == len(nodes) == len(annotations) == len(city_annotations)
        )
        several += len(nodes) > 1
        for k, (node, a, b) in enumerate(
            zip(nodes, annotations, city_annotations, strict=True), start=1
        ):
            mask = instances == k
            left, upper, right, lower = box_of(mask)
            corners = [int(node.find("bndbox")[i].text) for i in range(4)]
            assert corners == [left + 1, upper + 1, right, lower]
            assert a["bbox"] == b["bbox"] == [left, upper, right - left, lower - upper]
            assert a["area"] == mask.sum()
            label = CLASSES.index(node.find("name").text)
            assert names[a["category_id"]] == city_names[b["category_id"]]
            assert names[a["category_id"]] == CLASSES[label]
            assert (semantic[mask] == label + 1).all()
            cover = coverage(np.reshape(a["segmentation"][0], (-1, 2)), len(mask))
            clear = np.abs(cover - 0.5) > 0.1
            assert ((cover > 0.5) == mask)[clear].all()
        assert (semantic[instances == 0] == 0).all()
        stem = city / f"gtFine/{split}/demo/demo_{number:06d}_000019_gtFine_"
        ids = load(f"{stem}instanceIds.png")
        assert (load(f"{stem}labelIds.png") == np.take(CITYSCAPES_IDS, semantic)).all()
        train_ids = load(f"{stem}labelTrainIds.png")
        assert (train_ids == np.take(CITYSCAPES_TRAIN_IDS, semantic)).all()
        inside = instances > 0
        assert (ids[inside] // 1000 == np.take(CITYSCAPES_IDS, semantic)[inside]).all()
        assert (ids[inside] % 1000 == instances[inside] - 1).all()
        assert (ids[~inside] == CITYSCAPES_IDS[0]).all()
    assert several


@pytest.mark.parametrize("split", SPLITS)
def test_pictures_agree_with_each_other_and_their_files_exist(demo, split):
    city = f"instancesonly_filtered_gtFine_{split}"
    for folder, path in (
        (f"coco/{split}2017", f"coco/annotations/instances_{split}2017.json"),
        (f"cityscapes/leftImg8bit/{split}", f"cityscapes/annotations/{city}.json"),
    ):
        for image in json.loads((demo / path).read_text())["images"]:
            picture = load(demo / folder / image["file_name"]).astype(int)
            assert picture.shape == (image["height"], image["width"], 3)
            name = f"JPEGImages/{image['id']:06d}.jpg"
            jpeg = load(demo / "VOCdevkit/VOC2007" / name)
            assert np.abs(picture - jpeg).mean() < 8  # JPEG against PNG


def test_masks_lie_where_the_picture_has_edges():
    """Colours change across the contour of a mask, not across a shifted one."""

    def step(image, mask):
        across = mask[:, 1:] != mask[:, :-1]
        return np.abs(np.diff(image, axis=1)).mean(axis=-1)[across].mean()

    right, wrong = [], []
    for seed in range(40):
        scene = draw_scene(seed % 8, 96, (9, seed))
        image = scene.image.astype(float)
        mask = scene.instances > 0
        right.append(step(image, mask))
        wrong += [step(image, np.roll(mask, d, (0, 1))) for d in (-3, 3)]
    assert np.mean(right) > 1.8 * np.mean(wrong)


def test_the_folder_names_the_dominant_object(demo):
    dataset = ImageFolder(str(demo / "imagenet/train"), labels="subfolders")
    assert dataset.metainfo["classes"] == tuple(sorted(CLASSES))
    assert np.bincount(dataset.labels).tolist() == [3] * 8
    for index in range(len(dataset)):
        info = dataset.get_data_info(index)
        number = int(info["img_path"][-10:-4])
        voc = demo / "VOCdevkit/VOC2007"
        semantic = load(voc / f"SegmentationClass/{number:06d}.png")
        largest = np.bincount(semantic[semantic > 0]).argmax() - 1
        assert CLASSES[largest] == dataset.metainfo["classes"][info["gt_label"]]


def test_voc_image_sets(demo):
    voc = demo / "VOCdevkit/VOC2007"
    trainval = (voc / "ImageSets/Main/trainval.txt").read_text().split()
    test = (voc / "ImageSets/Segmentation/val.txt").read_text().split()
    assert trainval == [f"{i:06d}" for i in range(1, 25)]
    assert test == [f"{i:06d}" for i in range(25, 34)]
    for line in (voc / "ImageSets/Main/dotted_star_test.txt").read_text().splitlines():
        number, sign = line.split()
        xml = (voc / f"Annotations/{number}.xml").read_text()
        assert (sign == "1") == ("dotted_star" in xml)


def test_scenes_are_drawn_only_once(demo, monkeypatch):
    def fail(*args):
        raise AssertionError("drawn again")

    monkeypatch.setattr(build, "draw_scene", fail)
    assert make_demo(demo, **SMALL) == demo


def test_other_arguments_need_another_folder(tmp_path, capsys):
    small = {"train": 2, "test": 1, "size": 32, "progress": False}
    out = make_demo(tmp_path / "d", **small)
    before = digest(out)
    with pytest.raises(FileExistsError, match=r"seed=0 instead of 3.*another folder"):
        make_demo(out, **{**small, "seed": 3})
    assert digest(out) == before
    args = ["--out", str(out), "--train", "2", "--test", "1", "--size", "32"]
    assert main([*args, "--seed", "3"]) == 2
    assert "or delete it" in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == ["d"]


def test_foreign_folders_are_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(FileExistsError, match="not demo scenes"):
        make_demo(tmp_path, **SMALL)
    assert (tmp_path / "thesis.tex").read_text() == "precious"


def test_an_interrupted_run_leaves_nothing(tmp_path, monkeypatch):
    def interrupted(label, size, key):
        if key[-1] == 3:
            raise KeyboardInterrupt
        return draw_scene(label, size, key)

    monkeypatch.setattr(build, "draw_scene", interrupted)
    with pytest.raises(KeyboardInterrupt):
        make_demo(tmp_path / "d", **SMALL)
    assert not list(tmp_path.iterdir())
    with pytest.raises(ValueError, match="size must be at least 32"):
        make_demo(tmp_path / "d", size=8)
