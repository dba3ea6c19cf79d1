"""Collated uint8 views in, normalised float views out."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from mmengine.dataset import default_collate, pseudo_collate
from mmpretrain.structures import DataSample
from PIL import Image

from mmssl_ext.datasets import ImageFolder
from mmssl_ext.preprocessing import MultiViewPreprocessor
from mmssl_ext.registry import MODELS

from .reference import by_pil, photographs, to_view

MEAN, STD = (120.0, 110.0, 100.0), (60.0, 50.0, 40.0)


@pytest.fixture
def preprocessor():
    config = {"type": "MultiViewPreprocessor", "mean": MEAN, "std": STD}
    return MODELS.build(config)


def view(seed, size=6):
    generator = torch.Generator().manual_seed(seed)
    shape = (4, 3, size, size)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)


def test_views_are_normalised_and_the_structure_is_kept(preprocessor):
    views = [view(0), view(1, size=9)]
    samples = [DataSample().set_gt_label(i) for i in range(4)]
    result = preprocessor({"inputs": views, "data_samples": samples}, training=True)
    assert isinstance(result["inputs"], list)
    for before, after in zip(views, result["inputs"], strict=True):
        assert after.dtype == torch.float32
        for channel in range(3):
            expected = (before[:, channel].double() - MEAN[channel]) / STD[channel]
            assert (after[:, channel] - expected).abs().max() < 1e-6
    assert [s.gt_label.item() for s in result["data_samples"]] == [0, 1, 2, 3]
    assert preprocessor.state_dict() == {}  # nothing is added to checkpoints
    single = preprocessor({"inputs": views[0]})
    assert torch.equal(single["inputs"], result["inputs"][0])
    assert single["data_samples"] is None


def test_patches_are_normalised_as_images_are(preprocessor):
    image, patches = view(0), torch.stack([view(1), view(2)], dim=1)
    result = preprocessor({"inputs": [image, patches]})["inputs"]
    assert result[1].shape == (4, 2, 3, 6, 6)
    for number in range(2):
        alone = preprocessor({"inputs": view(number + 1)})["inputs"]
        assert torch.equal(result[1][:, number], alone)


def test_data_follow_the_module_to_its_device():
    preprocessor = MultiViewPreprocessor().to("meta")
    samples = [DataSample().set_gt_label([i, 7]) for i in range(4)]
    result = preprocessor({"inputs": [view(0)], "data_samples": samples})
    assert result["inputs"][0].device.type == "meta"
    assert {s.gt_label.device.type for s in result["data_samples"]} == {"meta"}
    assert result["data_samples"][2].gt_label.shape == (2,)


def test_uncollated_batches_are_explained(preprocessor):
    image, patches = torch.zeros(3, 4, 4), torch.zeros(9, 3, 4, 4)
    for inputs in ([image] * 2, image, [patches] * 2):
        items = [{"inputs": inputs}] * 3
        with pytest.raises(TypeError, match=r'one by one.*type="default_collate"'):
            preprocessor(pseudo_collate(items))
    mixed = {"inputs": [[torch.zeros(3, 4, 4), torch.zeros(3, 5, 4)]]}
    with pytest.raises(TypeError, match=r"differ in size.*\(3, 4, 4\), \(3, 5, 4\)"):
        preprocessor(mixed)


@pytest.mark.parametrize("shape", [(2, 1, 8, 8), (2, 3, 1, 8, 8), (1, 2, 9, 3, 8, 8)])
def test_other_shapes_are_explained(preprocessor, shape):
    with pytest.raises(
        TypeError, match=re.escape(f"patches, but got the shape {shape}")
    ):
        preprocessor({"inputs": torch.zeros(shape)})


def test_wrong_statistics_are_explained():
    with pytest.raises(ValueError, match="three values"):
        MultiViewPreprocessor(mean=(1.0,), std=(1.0,))
    with pytest.raises(ValueError, match="positive"):
        MultiViewPreprocessor(std=(1.0, 0.0, 1.0))


# ---------------------------------------------------------------- augmentation


def plain(**options):
    """A preprocessor that only converts."""
    return MultiViewPreprocessor(mean=(0,) * 3, std=(1,) * 3, **options)


GRAY = torch.tensor([[1.0], [0], [1], [0]])
DARK = torch.tensor([[0, 1, 2, 3, 0.5, 1, 1, 0]] * 4)
WHOLE = torch.tensor([[6.0, 0, 0], [6, 1, 2], [6, 3, 3], [6, 2, 0]])


@pytest.mark.parametrize("batched", [None, True, False])
def test_each_view_is_augmented_by_its_own_operations(batched):
    images = [photographs(4, (9, 9), seed) for seed in range(3)]
    augmentation = [
        {"ColorJitter": DARK, "RandomGrayscale": GRAY},
        {},
        {"RandomFlip": GRAY, "CutPatches": WHOLE},
    ]
    batch = {"inputs": [to_view(i) for i in images], "augment": augmentation}
    first, second, third = plain(batched=batched)(batch)["inputs"]
    assert [view.dtype for view in (first, second, third)] == [torch.float32] * 3
    expected = to_view(by_pil(images[0], augmentation[0]))
    assert (first - expected).abs().max() <= 1
    assert torch.equal(second, batch["inputs"][1].float())
    assert third.shape == (4, 1, 3, 6, 6)
    assert torch.equal(third[3, 0], batch["inputs"][2][3, :, :6, 2:8].float())
    flipped = batch["inputs"][2][2].flip(2)
    assert torch.equal(third[2, 0], flipped[:, 3:, 3:].float())


def test_whole_batches_are_augmented_except_on_the_cpu():
    blur = [{"GaussianBlur": torch.full((4, 1), 1.5)}]
    batch = {"inputs": [view(0, size=20)], "augment": blur}
    default, single, batched = (
        plain(batched=form)(batch)["inputs"][0] for form in (None, False, True)
    )
    assert torch.equal(default, single) and not torch.equal(default, batched)
    batch["inputs"] = [view(0, size=20).to("meta")]  # has no values to bring back
    elsewhere = plain().to("meta")(batch)["inputs"][0]
    assert elsewhere.shape == default.shape and elsewhere.device.type == "meta"


def test_a_method_gets_uint8_in_training_and_normalises_later():
    preprocessor = MultiViewPreprocessor(MEAN, STD, for_method=True)
    augmentation = [{"RandomFlip": GRAY}, {"RandomFlip": 1 - GRAY}]
    batch = {"inputs": [view(0), view(1)], "augment": augmentation}
    expected = MultiViewPreprocessor(MEAN, STD)(batch, training=True)["inputs"]
    raw = preprocessor(batch, training=True)["inputs"]
    assert [v.dtype for v in raw] == [torch.uint8] * 2
    assert torch.equal(raw[1][1], view(1)[1].flip(2))
    before = raw[1].clone()
    for number in range(2):
        assert torch.equal(preprocessor.normalise(raw[number]), expected[number])
    assert torch.equal(raw[1], before)
    evaluated = preprocessor(batch)["inputs"]  # training=False
    assert torch.equal(evaluated[1], expected[1])
    assert preprocessor.normalise(evaluated[1]) is evaluated[1]


def test_views_of_floats_are_normalised_once():
    preprocessor = MultiViewPreprocessor(MEAN, STD, for_method=True)
    batch = {"inputs": [view(0).float(), view(1)]}
    first, second = preprocessor(batch, training=True)["inputs"]
    assert torch.equal(batch["inputs"][0], view(0).float())  # not changed in place
    assert second.dtype == torch.uint8
    expected = MultiViewPreprocessor(MEAN, STD)({"inputs": view(0)})["inputs"]
    assert torch.equal(preprocessor.normalise(first), expected)


def test_boxes_and_index_are_for_methods_only():
    boxes = torch.rand(4, 1, 4, dtype=torch.float64)
    batch = {"inputs": [view(0)], "boxes": boxes, "index": torch.tensor([3, 1, 4, 1])}
    for training in (False, True):
        plain_result = MultiViewPreprocessor()(batch, training)
        assert set(plain_result) == {"inputs", "data_samples"}
    method = MultiViewPreprocessor(for_method=True)
    result = method(batch, training=True)
    assert torch.equal(result["boxes"], boxes.float())
    assert result["index"].dtype == torch.int64
    assert result["index"].tolist() == [3, 1, 4, 1]
    moved = method.to("meta")(batch)
    assert moved["boxes"].device.type == moved["index"].device.type == "meta"
    without = {"inputs": [view(0)], "boxes": None}
    assert set(method(without)) == {"inputs", "data_samples"}


@pytest.mark.parametrize("strided", [False, True])
def test_memory_has_the_wanted_layout(strided):
    images, patches = view(0), torch.stack([view(1), view(2)], dim=1)
    if strided:  # as cut from arrays H x W x 3
        images = images.contiguous(memory_format=torch.channels_last)
        patches = patches.movedim(2, -1).contiguous().movedim(-1, 2)
    plain_views = plain()({"inputs": [images, patches]})["inputs"]
    last_views = plain(channels_last=True)({"inputs": [images, patches]})["inputs"]
    for before, contiguous, last in zip(
        (images, patches), plain_views, last_views, strict=True
    ):
        assert torch.equal(contiguous, before.float())
        assert torch.equal(last, before.float())
        assert contiguous.is_contiguous()
        inner = last.flatten(0, -4)  # as the encoder sees patches
        assert inner.is_contiguous(memory_format=torch.channels_last)
        assert inner.data_ptr() == last.data_ptr()


def test_parameters_that_do_not_suit_the_views_are_explained():
    batch = {"inputs": [view(0), view(1)], "augment": [{"RandomFlip": GRAY}]}
    with pytest.raises(ValueError, match="got 2 views per image, but parameters of"):
        plain()(batch)


# ---------------------------------------------------------------- with the workers


def pipeline(augment_on):
    names = ("RandomGrayscale", "GaussianBlur", "RandomSolarize", "RandomFlip")
    tail = [{"type": "ColorJitter", "hue": 0.2}, *({"type": name} for name in names)]
    cut = {"type": "CutPatches", "size": 8, "grid": 3}
    crops = [{"type": "RandomResizedCrop", "size": size} for size in (36, 27, 30)]
    views = [[crops[0], *tail], [crops[1], *tail[::-1]], [crops[2], *tail, cut]]
    return [
        {"type": "DecodeImage"},
        {"type": "MakeViews", "views": views, "augment_on": augment_on},
        {"type": "PackViews"},
    ]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("images")
    for number, image in enumerate(photographs(24, (60, 50))):
        Image.fromarray(image).save(root / f"{number:02d}.png")
    return root


def batch_of(folder, augment_on):
    dataset = ImageFolder(str(folder), pipeline(augment_on))
    dataset.set_augmentation_seed(3, 1)
    return default_collate([dataset[i] for i in range(len(dataset))])


def test_device_and_workers_make_the_same_views(folder):
    """From equal parameters: the workers' pixels image by image, close ones batched."""
    worker, deferred = batch_of(folder, "worker"), batch_of(folder, "device")
    assert "augment" not in worker
    assert [len(a) for a in deferred["augment"]] == [5, 5, 6]
    single = plain(batched=False)(deferred)["inputs"]
    for wanted, found in zip(worker["inputs"], single, strict=True):
        assert torch.equal(found, wanted.float())
    batched = plain(batched=True)(deferred)["inputs"]
    changed = 0
    for number, found in enumerate(batched):
        wanted, crop = worker["inputs"][number], deferred["inputs"][number]
        assert found.shape == wanted.shape
        difference = (found - wanted).numpy()
        # Most of it is PIL's rounding between its box blurs, but a value next to the
        # threshold of RandomSolarize may fall on either side.
        assert np.abs(difference).mean() < 0.15 and abs(difference.mean()) < 0.02
        assert np.quantile(np.abs(difference), 0.999) <= 4
        same = [torch.equal(*pair) for pair in zip(found, crop.float(), strict=True)]
        changed += len(same) - sum(same)
    assert changed > 60  # of 72
