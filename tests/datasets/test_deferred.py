"""Parameters shipped to the device: drawn as ever, and all that is needed there."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.dataset import default_collate
from PIL import Image

from mmssl_ext.datasets import (
    ColorJitter,
    CutPatches,
    GaussianBlur,
    ImageFolder,
    MakeViews,
    RandomFlip,
    RandomGrayscale,
    RandomSolarize,
)
from mmssl_ext.datasets.transforms.color import JitterParams
from mmssl_ext.registry import TRANSFORMS

from .helpers import VIEW, loader, natural

CONFIGS = Path(__file__).parents[2] / "configs"
SOLARIZE = {"type": "RandomSolarize", "threshold": 77, "prob": 0.5}
CROP = {"type": "RandomResizedCrop", "size": [48, 40]}
VIEWS = [
    [{"type": "RandomResizedCrop", "size": 24}, {"type": "RandomFlip"}],
    [CROP, *VIEW[1:4], SOLARIZE, VIEW[4]],
    [CROP, *VIEW[1:], {"type": "CutPatches", "size": 9, "grid": 3}],
]
NAMES = [
    ["RandomFlip"],
    ["ColorJitter", "RandomGrayscale", "GaussianBlur", "RandomSolarize", "RandomFlip"],
    ["ColorJitter", "RandomGrayscale", "GaussianBlur", "RandomFlip", "CutPatches"],
]
LENGTHS = {"ColorJitter": 8, "CutPatches": 19}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("photographs")
    for seed in range(30):
        Image.fromarray(natural(seed)).save(root / f"{seed:02d}.jpg", quality=95)
    return str(root)


def dataset(folder, augment_on, views=VIEWS):
    pipeline = [
        {"type": "DecodeImage"},
        {"type": "MakeViews", "views": views, "augment_on": augment_on},
        {"type": "PackViews"},
    ]
    made = ImageFolder(folder, pipeline=pipeline)
    made.set_augmentation_seed(5, 2)
    return made


JITTER = JitterParams((2, 0, 3, 1), (0.75, 1.25, 1.5, -0.0625))
CORNERS = ((3, 4), (20, 0), (1, 2), (0, 9))


@pytest.mark.parametrize(
    ("transform", "params", "expected"),
    [
        (ColorJitter(), JITTER, [*JITTER.order, *JITTER.factors]),
        (ColorJitter(), None, [0, 1, 2, 3, 1, 1, 1, 0]),
        *((RandomGrayscale(), True, [1]), (RandomGrayscale(), None, [0])),
        *((GaussianBlur(), 1.75, [1.75]), (GaussianBlur(), None, [0])),
        *((RandomSolarize(99), True, [99]), (RandomSolarize(99), None, [256])),
        *((RandomFlip(), True, [1]), (RandomFlip(), None, [0])),
        (CutPatches(5, 2), CORNERS, [5, 3, 4, 20, 0, 1, 2, 0, 9]),
    ],
)
def test_encoding(transform, params, expected):
    values = transform.encode(params)
    assert values.dtype == np.float32
    assert values.tolist() == expected


def test_operations_without_strength_are_neutral():
    jitter = ColorJitter(0.4, 0, 0.4, 0, prob=1)
    values = jitter.encode(jitter.draw(np.random.default_rng(0), (8, 8)))
    assert values[[5, 7]].tolist() == [1, 0]
    assert (values[[4, 6]] != 1).all()


def test_batches_hold_crops_and_all_parameters_in_the_order_of_application(folder):
    (batch,) = loader(dataset(folder, "device"), batch_size=30, num_workers=2)
    assert set(batch) == {"inputs", "data_samples", "augment", "boxes", "index"}
    assert [list(view) for view in batch["augment"]] == NAMES
    sizes = [(24, 24), (48, 40), (48, 40)]
    for view, augment, size in zip(
        batch["inputs"], batch["augment"], sizes, strict=True
    ):
        assert view.shape == (30, 3, *size) and view.dtype == torch.uint8
        for name, values in augment.items():
            assert values.shape == (30, LENGTHS.get(name, 1))
            assert values.dtype == torch.float32 and values.device.type == "cpu"


def mine(results):
    results["img"] = 255 - results["img"]
    return results


def test_all_up_to_a_transform_of_the_users_stays_in_the_worker(folder):
    jitter = {"type": "ColorJitter", "prob": 1.0}
    views = [[CROP, VIEW[4], jitter, mine, VIEW[3], VIEW[2]], [CROP, VIEW[4]]]
    ours = dataset(folder, "device", views=views)
    here = dataset(folder, "worker", views=[views[0][:4], [CROP]])
    for index in range(3):
        item, reference = ours[index], here[index]
        assert list(item["augment"][0]) == ["GaussianBlur", "RandomGrayscale"]
        assert list(item["augment"][1]) == ["RandomFlip"]
        assert all(map(torch.equal, item["inputs"], reference["inputs"]))


@pytest.mark.parametrize(
    ("views", "message"),
    [
        ([[CROP, VIEW[4]], [CROP]], r"in view 1, since it ends with RandomResizedCrop"),
        ([[CROP, VIEW[4], mine]], r"in view 0, since it ends with mine"),
        ([[]], r"in view 0, since it is empty"),
        ([[CROP, VIEW[4], VIEW[1], VIEW[4]]], r"view 0 has RandomFlip more than once"),
    ],
)
def test_views_without_work_for_the_device_are_refused(views, message):
    MakeViews(views, augment_on="worker")
    with pytest.raises(ValueError, match=message + r'.*augment_on="worker"'):
        MakeViews(views, augment_on="device")


def test_a_name_that_stays_in_the_worker_may_occur_again_on_the_device(folder):
    item = dataset(folder, "device", views=[[VIEW[4], CROP, VIEW[4]]])[0]
    assert list(item["augment"][0]) == ["RandomFlip"]


def test_collated_crops_keep_their_pixels_in_any_memory_format(folder):
    data = dataset(folder, "device")
    items = [data[i] for i in range(4)]
    for view in range(3):
        tensor = items[0]["inputs"][view]
        assert tensor.stride() == (1, 3 * tensor.shape[2], 3)  # no copy was made
    batch = default_collate(items)
    for view in range(3):
        for i in range(4):
            assert torch.equal(batch["inputs"][view][i], items[i]["inputs"][view])


@pytest.mark.parametrize("name", ["cifar10", "demo", "imagenet"])
def test_configs_have_one_switch(name):
    cfg = Config.fromfile(CONFIGS / f"_base_/datasets/{name}.py")
    assert cfg.augment_on == ("worker" if name == "demo" else "device")
    (make,) = [
        t for t in cfg.train_dataloader.dataset.pipeline if t["type"] == "MakeViews"
    ]
    assert make["augment_on"] == cfg.augment_on
    TRANSFORMS.build({**make, "augment_on": "device"})
