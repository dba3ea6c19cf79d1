"""Collated uint8 views in, normalised float views out."""

from __future__ import annotations

import re

import pytest
import torch
from mmengine.dataset import pseudo_collate
from mmpretrain.structures import DataSample

from mmssl_ext.preprocessing import MultiViewPreprocessor
from mmssl_ext.registry import MODELS

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
            torch.testing.assert_close(after[:, channel].double(), expected)
    assert [s.gt_label.item() for s in result["data_samples"]] == [0, 1, 2, 3]
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


def test_float_inputs_are_not_changed_in_place(preprocessor):
    image = view(0).float()
    before = image.clone()
    preprocessor({"inputs": image})
    assert torch.equal(image, before)


def test_data_follow_the_module_to_its_device():
    preprocessor = MultiViewPreprocessor().to("meta")
    samples = [DataSample().set_gt_label([i, 7]) for i in range(4)]
    result = preprocessor({"inputs": [view(0)], "data_samples": samples})
    assert result["inputs"][0].device.type == "meta"
    assert {s.gt_label.device.type for s in result["data_samples"]} == {"meta"}
    assert result["data_samples"][2].gt_label.shape == (2,)


def test_no_state_is_added_to_checkpoints(preprocessor):
    assert preprocessor.state_dict() == {}


def test_uncollated_batches_are_explained(preprocessor):
    two = [{"inputs": [torch.zeros(3, 4, 4)] * 2} for _ in range(3)]
    one = [{"inputs": torch.zeros(3, 4, 4)} for _ in range(3)]
    for items in (two, one):
        with pytest.raises(TypeError, match=r'one by one.*type="default_collate"'):
            preprocessor(pseudo_collate(items))
    mixed = {"inputs": [[torch.zeros(3, 4, 4), torch.zeros(3, 5, 4)]]}
    with pytest.raises(TypeError, match=r"differ in size.*\(3, 4, 4\), \(3, 5, 4\)"):
        preprocessor(mixed)
    patches = [{"inputs": [torch.zeros(9, 3, 4, 4)] * 2} for _ in range(3)]
    with pytest.raises(TypeError, match=r'one by one.*type="default_collate"'):
        preprocessor(pseudo_collate(patches))


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
