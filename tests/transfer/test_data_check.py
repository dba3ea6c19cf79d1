"""Broken data is named, with its file, before anything is built."""

import json
import logging
import shutil
import subprocess
import sys
import time

import numpy as np
import pytest
from mmengine.config import Config
from PIL import Image

from mmssl_ext.datasets.demo import make_demo
from mmssl_ext.errors import ConfigError
from mmssl_ext.run.launch import load_config, prepare
from mmssl_ext.transfer.data_check import voc as data_check_voc
from mmssl_ext.transfer.data_check.check import check_data
from tests.harness import REPO

VOC = "detection/faster_rcnn_r50_c4_voc0712.py"
COCO = "detection/mask_rcnn_r50_fpn_coco_1x.py"
SEG_VOC = "segmentation/fcn_r50_voc12aug.py"
SEG_CITY = "segmentation/upernet_r50_cityscapes_40k.py"


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    root = tmp_path_factory.mktemp("demo") / "demo"
    return make_demo(root, train=16, test=8, progress=False)


@pytest.fixture
def data(drawn, tmp_path):
    """A copy to damage, by relative paths inside the test's own folder."""
    return shutil.copytree(drawn, tmp_path / "data")


def options(config, data):
    classes = tuple(json.loads((data / "demo.json").read_text())["classes"])
    return {
        VOC: dict(
            data_root=str(data / "VOCdevkit"),
            train_splits=[("VOC2007", "trainval")],
            classes=classes,
        ),
        COCO: dict(data_root=str(data / "coco"), classes=classes),
        SEG_VOC: dict(
            data_root=str(data / "VOCdevkit"),
            release="VOC2007",
            train_splits=[("ImageSets/Segmentation/train.txt", "SegmentationClass")],
        ),
        SEG_CITY: dict(data_root=str(data / "cityscapes")),
    }[config]


def load(config, data, **changes):
    path = REPO / "configs/transfer" / config
    return load_config(path, options(config, data) | changes)


def refused(cfg, *parts):
    """The whole message; every part must stand in it."""
    with pytest.raises(ConfigError) as caught:
        check_data(cfg)
    message = str(caught.value)
    for part in parts:
        assert part in message
    return message


def edit(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def texts(notices, level=logging.WARNING):
    return [text for found, text in notices if found == level]


TRAIN_JSON = "coco/annotations/instances_train2017.json"
VAL_JSON = "coco/annotations/instances_val2017.json"


@pytest.mark.parametrize("config", [VOC, COCO, SEG_VOC, SEG_CITY])
def test_sound_data_passes_in_silence(config, drawn):
    own = {}
    if config in (SEG_VOC, SEG_CITY):  # the scenes show none of VOC's and Cityscapes'
        names = json.loads((drawn / "demo.json").read_text())["classes"]
        own = dict(classes=("background", *names))
    if config == SEG_CITY:
        own["seg_map_suffix"] = "_gtFine_demoIds.png"
    assert check_data(load(config, drawn, **own)) == []


@pytest.mark.parametrize("config", [VOC, COCO, SEG_VOC, SEG_CITY])
def test_missing_root_is_said_once(config, tmp_path, drawn):
    root = str(tmp_path / "elsewhere")
    message = refused(
        load(config, drawn, data_root=root),
        f"The data root {root}",
        "does not exist",
        "data_root=FOLDER",
        "train_dataloader.dataset",
        "val_dataloader.dataset",
    )
    assert message.count("\n") == 0


def test_preparation_of_a_run_checks_the_data(tmp_path, drawn):
    cfg = load(COCO, drawn, data_root=str(tmp_path / "no"))
    with pytest.raises(ConfigError, match="The data root"):
        prepare(cfg, work_dir=str(tmp_path / "run"))


def test_all_problems_come_in_one_error(data):
    (data / TRAIN_JSON).unlink()
    (data / VAL_JSON).write_text('{"images": [')
    message = refused(
        load(COCO, data),
        f"train_dataloader.dataset: The annotation file {data / TRAIN_JSON} does not",
        f"val_dataloader.dataset: {data / VAL_JSON} is not valid JSON",
    )
    # The test data are the validation data: read and reported once.
    assert message.count("\n") == 1


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ([], "it has no list of 'images' (found: no keys)"),
        ({"info": {}, "shapes": []}, "no list of 'images' (found: info, shapes)"),
        ({"images": [1], "annotations": [], "categories": []}, "no list of 'images'"),
        ({"images": [], "annotations": []}, "no list of 'categories'"),
        ({"images": [], "annotations": [], "categories": []}, "the split is empty"),
        ({"images": [{"id": 1}], "categories": []}, "nothing can be learnt"),
    ],
)
def test_json_that_is_not_coco(data, content, sentence):
    (data / TRAIN_JSON).write_text(json.dumps(content))
    refused(load(COCO, data), f"{data / TRAIN_JSON}", sentence)


def test_unknown_class_of_coco(data):
    first, *others = json.loads((data / "demo.json").read_text())["classes"]
    classes = (first + "x", *others)
    refused(
        load(COCO, data, classes=classes),
        f"{first}x: named in metainfo.classes, but not in {data / TRAIN_JSON}",
        f"Did you mean {first}",
    )
    # The 80 names of COCO itself, by which mmdet would train on nothing in silence.
    refused(load(COCO, data, classes=None), "and 72 more: named in", "classes")


def test_categories_left_out_and_in_another_order_are_notices(data):
    names = json.loads((data / "demo.json").read_text())["classes"]
    found = texts(check_data(load(COCO, data, classes=names[:6])))
    assert len(found) == 2 and f"left out: {names[6]}, {names[7]}." in found[0]
    # Our data set goes by the names, mmdet's by the order of the file.
    assert check_data(load(COCO, data, classes=names[::-1])) == []
    cfg = load(COCO, data, classes=names[::-1])
    for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
        loader.dataset.type = "CocoDataset"
    for evaluator in (cfg.val_evaluator, cfg.test_evaluator):
        evaluator.type = "CocoMetric"
    found = texts(check_data(cfg))
    assert len(found) == 2  # one per file
    assert f"Write {', '.join(names)}, or use mmssl_ext" in found[0]


def test_images_of_coco_that_are_not_on_disk(data):
    folder = data / "coco/train2017"
    first = sorted(folder.iterdir())[0]
    first.unlink()
    refused(load(COCO, data), "1 of 16 images of", f"the first is {first}")
    shutil.rmtree(folder)
    refused(load(COCO, data), f"The image folder {folder} does not exist")


def test_boxes_of_coco(data):
    def spoil(content):
        content["annotations"][0]["bbox"] = [90, 90, 20, 20]  # leaves the 96 pixels
        content["annotations"][1]["bbox"] = [5, 5, 0, 9]
        last = content["images"][-1]["id"]
        content["annotations"] = [
            a for a in content["annotations"] if a["image_id"] != last
        ]
        content["annotations"][2]["image_id"] = 999

    edit(data / TRAIN_JSON, spoil)
    notices = check_data(load(COCO, data))
    (empty,) = texts(notices, logging.INFO)
    assert "of 16 images in" in empty and "have no box." in empty
    boxes, strays = texts(notices)
    assert f"2 boxes in {data / TRAIN_JSON}" in boxes
    assert "000000000001.jpg, box [90, 90, 20, 20]" in boxes
    assert "1 annotations" in strays and "does not list" in strays

    edit(data / TRAIN_JSON, lambda content: content.update(annotations=[]))
    refused(load(COCO, data), f"No image in {data / TRAIN_JSON} has a box")


def test_validation_without_boxes_is_a_notice_only(data):
    edit(data / VAL_JSON, lambda content: content.update(annotations=[]))
    (empty,) = texts(check_data(load(COCO, data)))
    assert f"No image in {data / VAL_JSON} has a box of any class" in empty
    assert "nothing to score" in empty


@pytest.mark.parametrize(
    ("key", "value", "sentence"),
    [
        ("bbox", None, "1 annotations in {} have no 'bbox', the first has the id 1."),
        ("bbox", [1, 2, 3], "that is not a list of four numbers"),
        ("bbox", [1, 2, 3, "4"], "that is not a list of four numbers"),
        ("area", None, "have no 'area'"),
        ("id", 2, "ids of annotations are not unique, 2 occurs 2 times"),
        ("segmentation", None, "1 annotations in {} have no 'segmentation'"),
    ],
)
def test_malformed_annotations_of_coco(data, key, value, sentence):
    def spoil(content):
        content["annotations"][0][key] = value
        if value is None:
            del content["annotations"][0][key]

    edit(data / TRAIN_JSON, spoil)
    refused(load(COCO, data), sentence.format(data / TRAIN_JSON))


def test_lists_and_folders_of_voc(data):
    voc = data / "VOCdevkit/VOC2007"
    names = voc / "ImageSets/Main/trainval.txt"
    refused(
        load(VOC, data, train_splits=[("VOC2007", "trainvall")]),
        "The list of images",
        "trainvall.txt does not exist",
        "Did you mean trainval.txt",
    )
    message = refused(load(VOC, data, train_splits=[("VOC2012", "trainval")]))
    assert "The folder " in message and "Did you mean VOC2007" in message
    assert message.count("\n") == 0
    content = names.read_text()
    names.write_text("\n")
    refused(load(VOC, data), f"{names} is empty: the split has no images")
    names.write_text(content + "\n\n")
    refused(load(VOC, data), f"{names} has a blank line (17)")
    names.write_text(content)
    (voc / "JPEGImages/000003.jpg").unlink()
    (voc / "Annotations/000005.xml").unlink()
    refused(
        load(VOC, data),
        f"1 of 16 images looked for have no file, the first is {voc}/JPEGImages/000003",
        f"1 of 16 images looked at have no XML file, the first is {voc}/Annotations/"
        "000005.xml",
    )
    shutil.rmtree(voc / "Annotations")
    refused(load(VOC, data), f"The annotation folder {voc}/Annotations does not exist")


def test_classes_of_voc(data):
    names = json.loads((data / "demo.json").read_text())["classes"]
    refused(
        load(VOC, data, classes=[*names[:-1], names[-1] + "z"]),
        f"{names[-1]}z: named in metainfo.classes, but not in the objects of",
        f"Did you mean {names[-1]}",
    )
    refused(
        load(VOC, data, classes=None),
        "has a box of any class in `classes`",
        "aeroplane, bicycle",
        f"which has {', '.join(sorted(names))}.",
    )
    found = texts(check_data(load(VOC, data, classes=names[:5])))
    assert all("are left out: " in text and names[7] in text for text in found)
    # What only the validation split lacks does not stop a run.
    for file in (data / "VOCdevkit/VOC2007/Annotations").glob("*.xml"):
        if int(file.stem) > 16:
            file.write_text(file.read_text().replace(f">{names[0]}<", ">other<"))
    (notice,) = texts(check_data(load(VOC, data)))
    assert notice.startswith("val_dataloader.dataset: ")
    assert f"{names[0]}: named in metainfo.classes" in notice


def test_a_class_may_stand_in_one_of_several_training_sets(data):
    voc = data / "VOCdevkit/VOC2007"
    names = json.loads((data / "demo.json").read_text())["classes"]
    lines = (voc / "ImageSets/Main/trainval.txt").read_text().split()
    lists = {"a": lines[:2], "b": lines[2:]}
    for name, part in lists.items():
        (voc / f"ImageSets/Main/{name}.txt").write_text("\n".join(part) + "\n")
    present = "".join(
        (voc / f"Annotations/{name}.xml").read_text() for name in lists["a"]
    )
    assert not all(f">{name}<" in present for name in names)
    both = [("VOC2007", "a"), ("VOC2007", "b")]
    assert check_data(load(VOC, data, train_splits=both)) == []
    refused(load(VOC, data, train_splits=both[:1]), "named in metainfo.classes")


def test_voc_images_of_another_format(data):
    """PNG images are found by an option, and named where the option is missing."""
    for image in (data / "VOCdevkit/VOC2007/JPEGImages").glob("*.jpg"):
        image.rename(image.with_suffix(".png"))
    refused(load(VOC, data), "have no file", ".jpg")
    assert check_data(load(VOC, data, img_suffix=".png")) == []


def test_boxes_of_voc(data):
    folder = data / "VOCdevkit/VOC2007/Annotations"
    good = (folder / "000001.xml").read_text()
    head = good[: good.index("<object>")]

    def write(body):
        (folder / "000001.xml").write_text(head + body + "</annotation>")

    name = good[good.index("<name>") :].split("</name>")[0] + "</name>"
    corners = "<bndbox><xmin>{}</xmin><ymin>{}</ymin><xmax>{}</xmax><ymax>{}</ymax>"
    box = f"<object>{name}{corners}</bndbox></object>"
    write(box.format(1, 1, 96, 96))
    assert check_data(load(VOC, data)) == []
    write("")
    (notice,) = texts(check_data(load(VOC, data)), logging.INFO)
    assert "1 of 16 images in" in notice
    write(box.format(5, 5, 120, 50) + box.format(5, 5, 5, 9))
    (notice,) = texts(check_data(load(VOC, data)))
    assert (
        "2 boxes in" in notice and "000001.xml, box [5.0, 5.0, 120.0, 50.0]" in notice
    )
    write(f"<object>{name}<bndbox><xmin>1</xmin></bndbox></object>")
    refused(load(VOC, data), "000001.xml is not a VOC annotation", "complete bndbox")
    (folder / "000001.xml").write_text(good[:50])
    refused(load(VOC, data), "000001.xml is not a VOC annotation")
    for file in folder.glob("*.xml"):
        file.write_text("<annotation></annotation>")
    refused(load(VOC, data), "No image in", "trainval.txt has a box of any class")


def test_label_maps_that_are_missing(data):
    city = data / "cityscapes"
    label = sorted((city / "gtFine/train/demo").glob("*labelTrainIds.png"))[0]
    label.unlink()
    refused(
        load(SEG_CITY, data),
        f"1 of 16 images looked at have no label map, the first is {label}",
        "createTrainIdLabelImgs",
    )
    refused(load(SEG_CITY, data, img_suffix=".jpg"), "ends in '.jpg'", "img_suffix")
    shutil.rmtree(city / "gtFine/val")
    refused(load(SEG_CITY, data), f"folder of label maps {city}/gtFine/val does not")
    refused(
        load(SEG_CITY, data, train_images="leftImg8bit/trian"), "Did you mean train?"
    )


def test_a_sample_of_voc_accuses_no_class_before_all_files_are_read(data, monkeypatch):
    names = json.loads((data / "demo.json").read_text())["classes"]
    monkeypatch.setattr(data_check_voc, "NUM_XMLS", 2)
    found = texts(check_data(load(VOC, data)))
    assert not any(
        "train_dataloader" in text and "but not in" in text for text in found
    )
    refused(
        load(VOC, data, classes=[*names[:-1], names[-1] + "z"]),
        f"train_dataloader.dataset.datasets[0]: {names[-1]}z: named in metainfo",
    )


def test_lists_of_segmentation(data):
    voc = data / "VOCdevkit/VOC2007"
    (voc / "ImageSets/Segmentation/val.txt").write_text("")
    (voc / "JPEGImages/000002.jpg").unlink()
    refused(
        load(SEG_VOC, data),
        "val_dataloader.dataset: The list of images",
        "val.txt is empty",
        "train_dataloader.dataset.datasets[0]: 1 of 16 images looked for",
    )
    stock = load(SEG_VOC, data)
    aug = dict(stock.train_dataloader.dataset.datasets[0])
    aug["ann_file"] = "ImageSets/Segmentation/aug.txt"
    stock.train_dataloader.dataset.datasets.append(aug)
    refused(stock, "train_dataloader.dataset.datasets[1]: The list", "aug.txt does not")


def test_labels_beyond_the_classes(data):
    file = sorted((data / "cityscapes/gtFine/train/demo").glob("*TrainIds.png"))[0]
    labels = np.array(Image.open(file))
    labels[0, :3] = 19, 200, 255  # 255 is ignored
    Image.fromarray(labels).save(file)
    message = refused(load(SEG_CITY, data), f"{file} holds the labels 19, 200, but 19")
    assert "255, but" not in message
    refused(load(SEG_CITY, data, classes=list("abcde")), "5 classes have the numbers")
    labels[0, :3] = 0, 1, 2
    Image.fromarray(labels).save(file)

    def passes(**options):
        found = texts(check_data(load(SEG_CITY, data, **options)))
        return all("Not one pixel of" in sentence for sentence in found)

    assert passes()
    # Label 18 becomes 17, label 0 is ignored: 18 classes are enough then, 17 are not.
    names = [str(i) for i in range(18)]
    assert passes(classes=names, reduce_zero_label=True)
    refused(
        load(SEG_CITY, data, classes=names[:17], reduce_zero_label=True),
        "holds the labels 17 after reduce_zero_label",
    )


@pytest.mark.parametrize(
    ("image", "sentence"),
    [
        (Image.new("RGB", (96, 96)), "is a colour image (RGB)"),
        (Image.new("L", (96, 48)), "is 96 x 48 pixels large, but its image"),
    ],
)
def test_label_maps_that_are_none(data, image, sentence):
    file = sorted((data / "cityscapes/gtFine/val/demo").glob("*TrainIds.png"))[0]
    image.save(file)
    refused(load(SEG_CITY, data), f"val_dataloader.dataset: {file}", sentence)


def test_unreadable_and_wholly_ignored_label_maps(data):
    folder = data / "cityscapes/gtFine/train/demo"
    for file in folder.glob("*TrainIds.png"):
        Image.new("L", (96, 96), 255).save(file)
    refused(load(SEG_CITY, data), "All pixels of 16 label maps looked at are ignored")
    sorted(folder.glob("*TrainIds.png"))[0].write_bytes(b"no image")
    refused(load(SEG_CITY, data), "cannot be read", "TrainIds.png")


def test_number_of_classes_of_the_head(drawn):
    cfg = load(SEG_CITY, drawn)
    cfg.model.decode_head.num_classes = 21
    refused(cfg, "`classes` has 19 names, but model.decode_head.num_classes is 21")


def folders(root, num_classes=8, **dataset):
    """A classification config of mmpretrain's own types."""
    dataset = dict(type="CustomDataset", data_root=str(root), **dataset)
    return Config(
        dict(
            default_scope="mmpretrain",
            model=dict(head=dict(num_classes=num_classes)),
            train_dataloader=dict(
                dataset=dict(type="RepeatDataset", times=2, dataset=dataset)
            ),
        )
    )


def test_folders_of_classification(data, tmp_path):
    root = data / "imagenet"
    place = "train_dataloader.dataset.dataset: "
    assert check_data(folders(root, data_prefix="train")) == []
    refused(
        folders(root, data_prefix="trian"), place, f"{root}/trian", "Did you mean train"
    )
    refused(folders(root, 7, data_prefix="train"), "8 subfolders", "num_classes is 7")
    refused(
        folders(root, data_prefix="train", metainfo=dict(classes=["a"])),
        "`classes` has 1 names",
    )
    first = sorted((root / "train").iterdir())[0]
    for file in first.iterdir():
        file.unlink()
    (notice,) = texts(check_data(folders(root, data_prefix="train")))
    assert first.name in notice
    (tmp_path / "bare/a").mkdir(parents=True)
    refused(folders(tmp_path, data_prefix="bare"), "the split is empty")
    refused(folders(tmp_path / "bare", data_prefix="a"), "has no subfolders")
    refused(folders(tmp_path / "bare", with_label=False), "holds no images")


def test_class_folders_that_differ_between_the_sets(data):
    root = data / "imagenet"
    cfg = folders(root, data_prefix="train")
    cfg.val_dataloader = dict(
        dataset=dict(type="CustomDataset", data_root=str(root), data_prefix="val")
    )
    shutil.copytree(root / "train", root / "val")
    (copies,) = texts(check_data(cfg))
    assert "8 of 8 images looked at are training images too" in copies
    first = sorted((root / "val").iterdir())[0]
    shutil.rmtree(first)  # mmpretrain numbers the folders that there are
    refused(cfg, "val_dataloader.dataset: The labels 0, 1, ... stand for")
    (root / "bare/one/two").mkdir(parents=True)
    refused(
        folders(root, data_prefix="bare"),
        f"{root}/bare has one subfolder, one: there is nothing to tell apart",
        f"or is {root}/bare/one the one to name?",
    )


def test_lists_of_classification(data):
    root = data / "imagenet"
    image = next((root / "train").rglob("*.jpg")).relative_to(root / "train")
    cfg = folders(root, data_prefix="train", ann_file="list.txt")
    refused(cfg, f"The list of images {root}/list.txt does not exist")
    for text, sentence in (
        (f"{image}\n", "Line 1 of"),
        (f"{image} 8\n", "has the label 8, but 8 classes"),
        ("missing.jpg 0\n", "All 1 images of"),
    ):
        (root / "list.txt").write_text(text)
        refused(cfg, sentence)
    (root / "list.txt").write_text(f"{image} 7\n")
    assert check_data(cfg) == []


def test_what_is_unknown_or_remote_is_passed_over():
    cfg = folders("/nowhere")
    inner = cfg.train_dataloader.dataset.dataset
    inner.type = "MyDataset"
    assert check_data(cfg) == []
    inner.type = "mmdet.CocoPanopticDataset"  # has a reader of its own
    assert check_data(cfg) == []
    inner.update(type="CustomDataset", data_root="s3://bucket/images")
    assert check_data(cfg) == []
    inner.update(data_root="/nowhere", backend_args=dict(backend="petrel"))
    assert check_data(cfg) == []
    inner.pop("backend_args")
    refused(cfg, "/nowhere")
    cfg.default_scope = "mmssl_ext"
    assert check_data(cfg) == []
    assert check_data(Config(dict(default_scope="mmdet"))) == []


def test_nothing_of_the_toolboxes_is_imported(drawn):
    """Also without them the types that their configs use are known by name."""
    code = f"""
import sys
from mmengine.config import Config
from mmssl_ext.transfer.data_check import voc
from mmssl_ext.transfer.data_check.check import check_data
data = dict(type="CocoDataset", data_root={str(drawn / "coco")!r}, ann_file="no.json")
for scope, name in (("mmdet", "CocoDataset"), ("mmdet", "CityscapesDataset"),
                    ("mmdet", "VOCDataset"), ("mmseg", "PascalVOCDataset")):
    loader = dict(dataset=dict(data, type=name))
    try:
        check_data(Config(dict(default_scope=scope, train_dataloader=loader)))
    except Exception as error:
        assert type(error).__name__ == "ConfigError" and "no.json" in str(error), error
    else:
        raise AssertionError(name)
assert not {{"mmdet", "mmseg"}} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=REPO)


@pytest.mark.alone
def test_a_large_json_is_read_once_and_fast(data, monkeypatch):
    """20,000 images and 140,000 boxes, a sixth of COCO's train2017."""

    def enlarge(content):
        image, box = content["images"][0], content["annotations"][0]
        box = box | {"segmentation": [[0, 0, 9, 0, 9, 9]]}
        content["images"] = [image | {"id": i} for i in range(20_000)]
        content["annotations"] = [
            box | {"id": i, "image_id": i % 20_000} for i in range(140_000)
        ]

    edit(data / TRAIN_JSON, enlarge)
    cfg = load(COCO, data)
    source = cfg.train_dataloader.dataset
    again = dict(source, data_prefix=dict(img="val2017"), filter_cfg=None)
    cfg.train_dataloader.dataset = dict(type="ConcatDataset", datasets=[source, again])
    read = []
    loads = json.loads
    monkeypatch.setattr(json, "loads", lambda text: read.append(1) or loads(text))
    start = time.perf_counter()
    message = refused(cfg, "datasets[1]: All 20000 images of")
    assert time.perf_counter() - start < 10
    assert len(read) == 2 and "datasets[0]" not in message
