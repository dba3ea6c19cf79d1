"""Order, trimming and side effects of feature extraction."""

import random

import numpy as np
import pytest
import torch
from mmengine.dataset import DefaultSampler, default_collate
from mmpretrain.structures import DataSample
from torch import nn
from torch.utils.data import DataLoader, Dataset

from mmssl_ext.evaluation import Features, evaluating, extract_features, preserved_rng
from tests.distributed import run_ranks


class Numbers(Dataset):
    """Item i is an image whose pixels are i, of class i % 3."""

    def __init__(self, size, labelled=True):
        self.size, self.labelled = size, labelled

    def __len__(self):
        return self.size

    def __getitem__(self, i):
        sample = DataSample(metainfo={"sample_idx": i, "img_path": f"image{i}"})
        if self.labelled:
            sample.set_gt_label(i % 3)
        return {"inputs": torch.full((3, 2, 2), i), "data_samples": sample}


class Model(nn.Module):
    """Returns the pixel value, from the key encoder its negative."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(1)
        self.frozen = nn.BatchNorm1d(1)

    def data_preprocessor(self, batch, training):
        assert not training
        return batch

    def forward(self, inputs, data_samples=None, mode="tensor"):
        assert not self.training
        value = inputs.float().mean((1, 2, 3))[:, None]
        value = self.frozen(self.norm(value))
        sign = {"embed": 1, "embed_key": -1}[mode]
        return {"backbone": sign * value, "embedding": sign * value.expand(-1, 2)}


def loader(dataset, shuffle=False, round_up=True, **options):
    sampler = DefaultSampler(dataset, shuffle=shuffle, seed=0, round_up=round_up)
    options = {"batch_size": 4, "collate_fn": default_collate} | options
    return DataLoader(dataset, sampler=sampler, **options)


def check(found, size):
    # BatchNorm in eval mode with fresh statistics divides by sqrt(1 + eps), twice
    expected = torch.arange(size).float()[:, None]
    torch.testing.assert_close(found.features["backbone"], expected, atol=1e-3, rtol=0)
    assert found.labels.tolist() == [i % 3 for i in range(size)]
    assert found.paths == [f"image{i}" for i in range(size)]


@pytest.mark.parametrize("shuffle", [False, True])
def test_rows_come_in_dataset_order(shuffle):
    check(extract_features(Model().train(), loader(Numbers(11), shuffle)), 11)


CASES = [(11, False, True), (7, True, True), (9, False, False)]


def extract_on_rank(rank):
    found = []
    for size, shuffle, round_up in CASES:
        numbers = loader(Numbers(size), shuffle, round_up)
        found.append(tuple(extract_features(Model(), numbers)))
    return found


def test_ranks_are_merged_in_order_without_the_padding():
    for of_rank in run_ranks(extract_on_rank, 2):
        for (size, *_), found in zip(CASES, of_rank, strict=True):
            check(Features(*found), size)


def test_key_encoder_has_names_of_its_own():
    found = extract_features(Model(), loader(Numbers(5)), "both").features
    assert set(found) == {"backbone", "embedding", "key_backbone", "key_embedding"}
    torch.testing.assert_close(found["key_backbone"], -found["backbone"])
    assert set(extract_features(Model(), loader(Numbers(5)), "key").features) == {
        "key_backbone",
        "key_embedding",
    }


def test_names_choose_features():
    def extract(names, encoder="both"):
        found = extract_features(Model(), loader(Numbers(5)), encoder, names=names)
        assert found.paths == [f"image{i}" for i in range(5)]
        return found.features

    everything = extract(None)
    for names in (["embedding"], {"backbone", "key_embedding"}, ()):
        found = extract(names)
        assert set(found) == set(names)
        for name, value in found.items():
            assert torch.equal(value, everything[name])
    # a name counts with its prefix
    assert set(extract(["embedding"], "key")) == set()
    assert set(extract(["key_embedding"], "key")) == {"key_embedding"}


def seed(value):
    torch.manual_seed(value)
    np.random.seed(value)
    random.seed(value)


def draw():
    return torch.rand(1).item(), np.random.rand(), random.random()


def test_model_and_generators_are_left_as_found():
    model = Model().train()
    model.frozen.eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    seed(3)
    expected = draw()
    seed(3)
    with preserved_rng():
        extract_features(model, loader(Numbers(9)))
        draw()
    assert draw() == expected
    assert model.training
    assert model.norm.training
    assert not model.frozen.training
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name

    with pytest.raises(RuntimeError), evaluating(model):
        raise RuntimeError
    assert model.norm.training


def test_left_out_images_and_unknown_orders_are_errors():
    with pytest.raises(ValueError, match=r"8 of 11.*drop_last=False"):
        extract_features(Model(), loader(Numbers(11), drop_last=True))
    shuffled = DataLoader(Numbers(4), shuffle=True, collate_fn=default_collate)
    with pytest.raises(ValueError, match="DefaultSampler"):
        extract_features(Model(), shuffled)
    with pytest.raises(ValueError, match="query, key, both"):
        extract_features(Model(), loader(Numbers(4)), "kye")


def test_images_without_labels_give_none_and_progress_counts_batches():
    seen = []
    numbers = loader(Numbers(9, labelled=False))
    found = extract_features(Model(), numbers, progress=lambda *x: seen.append(x))
    assert found.labels is None
    assert seen == [(1, 3), (2, 3), (3, 3)]
