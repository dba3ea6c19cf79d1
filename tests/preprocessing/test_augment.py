"""Augmentation of batches against PIL, torchvision and loops over single images.

Every function is tested for both forms: batched operations, which run on any device,
and the workers' functions image by image.
"""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from mmssl_ext.datasets import transforms
from mmssl_ext.preprocessing import augment, augment_imagewise
from mmssl_ext.preprocessing import operations as operations_module

from .reference import NEUTRAL, by_pil, photographs, to_arrays, to_view

SIZES = [(64, 48), (33, 17), (5, 4), (1, 40), (40, 1), (1, 1)]  # width, height
ORDERS = list(itertools.permutations(range(4)))
BOTH = pytest.mark.parametrize("function", [augment, augment_imagewise])
GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


def tensors(operations):
    return {
        name: torch.from_numpy(np.asarray(params, np.float32))
        for name, params in operations.items()
    }


def single_jitter(count, number, low, high, seed=0):
    params = np.tile(np.array(NEUTRAL, np.float32), (count, 1))
    drawn = np.random.default_rng(seed).uniform(low, high, count)
    params[:, 4 + number] = drawn
    return {"ColorJitter": params}


def jitters(orders, seed=0):
    """Strong jitter in the given orders, 8 values for each."""
    rng = np.random.default_rng(seed)
    return np.array(
        [[*o, *rng.uniform(0.4, 1.6, 3), rng.uniform(-0.5, 0.5)] for o in orders],
        np.float32,
    )


def some_of_all(count, seed=0):
    """Parameters of a whole view, each operation drawn for some of the images."""
    rng = np.random.default_rng(seed)
    orders = [ORDERS[i] for i in rng.integers(0, 24, count)]
    jitter = jitters(orders, seed)
    jitter[rng.random(count) < 0.3] = NEUTRAL
    jitter[rng.random(count) < 0.3, 7] = 0  # no hue

    def often(values):
        return np.where(rng.random(count) < 0.5, values, 0)[:, None]

    return tensors(
        {
            "ColorJitter": jitter,
            "RandomGrayscale": often(1),
            "GaussianBlur": often(rng.uniform(0.1, 3, count)),
            "RandomSolarize": 256 - often(rng.integers(0, 256, count)),
            "RandomFlip": often(1),
        }
    )


def differences(function, images, operations):
    expected = by_pil(images, operations)
    return to_arrays(function(to_view(images), tensors(operations))) - expected


COUNT = 16
COLUMN = np.linspace(0, 1, COUNT, dtype=np.float32)[:, None]
# Name: operations, bound of the largest and of the mean absolute difference.
OPERATIONS = {
    "brightness": (single_jitter(COUNT, 0, 0, 2), 1, 0.002),
    "contrast": (single_jitter(COUNT, 1, 0, 2), 1, 0.004),
    "saturation": (single_jitter(COUNT, 2, 0, 2), 1, 0.004),
    "hue": (single_jitter(COUNT, 3, -0.5, 0.5), 10, 0.03),
    "gray": ({"RandomGrayscale": COLUMN > 0.4}, 0, 0),
    "solarize": ({"RandomSolarize": np.floor(COLUMN * 256)}, 0, 0),
    "blur": ({"GaussianBlur": 0.1 + 1.9 * COLUMN}, 3, 0.5),
    "wide blur": ({"GaussianBlur": 2 + 8 * COLUMN}, 3, 0.5),
    "flip": ({"RandomFlip": COLUMN > 0.5}, 0, 0),
}


@BOTH
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", OPERATIONS)
def test_each_operation_is_that_of_pil(function, name, size):
    operations, largest, mean = OPERATIONS[name]
    images = photographs(COUNT, size)
    found = differences(function, images, operations)
    few = 8 / found.size  # of a few pixels, one may lie on a step of PIL's
    if function is augment_imagewise and name == "gray":
        largest, mean = 1, 0.01  # OpenCV's luma has fewer digits
    assert np.abs(found).max() <= largest
    assert np.abs(found).mean() <= mean + (few if largest else 0)
    if min(size) > 10:
        assert abs(found.mean()) < 0.01
        changed = to_view(images) != function(to_view(images), tensors(operations))
        assert changed.float().mean() > 0.1


@BOTH
def test_jitter_follows_the_order_of_each_image(function):
    """All 24 orders; a swap of any two steps is more than what is allowed."""
    images = np.repeat(photographs(1, (48, 40), seed=3), 24, axis=0)
    params = jitters(ORDERS)
    params[:, 4:] = (1.37, 0.61, 1.53, 0.21)
    found = np.abs(differences(function, images, {"ColorJitter": params}))
    per_order = found.mean(axis=(1, 2, 3))
    assert per_order.max() < 0.05 and found.max() <= 12
    for first in range(3):
        swapped = params.copy()
        swapped[:, [first, first + 1]] = swapped[:, [first + 1, first]]
        right, wrong = (by_pil(images, {"ColorJitter": p}) for p in (params, swapped))
        assert np.abs(right - wrong).mean(axis=(1, 2, 3)).min() > 0.5


@BOTH
def test_values_next_to_integers_are_kept(function):
    """Gray pixels under saturation, pixels at the mean under contrast, full range."""
    grays = np.arange(256, dtype=np.uint8).reshape(16, 16, 1)
    images = np.tile(grays, (40, 1, 1, 3))
    for number, low in ((0, 0), (1, 0), (2, 0), (3, -0.5)):
        operations = single_jitter(40, number, low, 2 if number < 3 else 0.5)
        assert np.abs(differences(function, images, operations)).mean() < 1e-3
    flat = np.full((40, 4, 4, 3), 77, np.uint8)
    contrast = single_jitter(40, 1, 0, 2)
    assert not differences(function, flat, contrast).any()


@BOTH
def test_an_image_does_not_depend_on_its_neighbours(function, monkeypatch):
    """Bit by bit the same alone, in a batch, in another order, and in any chunks."""
    view, operations = to_view(photographs(24, (23, 19))), some_of_all(24)
    together = function(view, operations)
    alone = [
        function(view[i : i + 1], {k: p[i : i + 1] for k, p in operations.items()})
        for i in range(24)
    ]
    assert torch.equal(together, torch.cat(alone))
    shuffled = torch.randperm(24)
    parts = {k: p[shuffled] for k, p in operations.items()}
    assert torch.equal(function(view[shuffled], parts), together[shuffled])
    for pixels in (1, 23 * 19 * 5, 1 << 30):
        monkeypatch.setitem(operations_module._CHUNK_PIXELS, "cpu", pixels)
        assert torch.equal(function(view, operations), together)


@BOTH
def test_images_without_operations_and_the_input_stay_as_they_are(function):
    images = np.random.default_rng(0).integers(0, 256, (24, 9, 7, 3), dtype=np.uint8)
    view, operations = to_view(images), some_of_all(24)
    idle = torch.arange(24) % 3 == 1
    none = {"ColorJitter": NEUTRAL, "RandomSolarize": [256]}
    for name, params in operations.items():
        params[idle] = torch.tensor(none.get(name, [0]), dtype=torch.float32)
    result = function(view, operations)
    assert torch.equal(view, to_view(images))
    assert torch.equal(result[idle], view[idle])
    assert (result[~idle] != view[~idle]).any(dim=1).any(dim=1).any(dim=1).all()
    strided = view.contiguous(memory_format=torch.channels_last)
    assert torch.equal(function(strided, operations), result)
    only_idle = {k: p[idle] for k, p in operations.items()}
    assert torch.equal(function(view[idle], only_idle), view[idle])


@BOTH
def test_patches_are_cut_where_the_parameters_say(function):
    view = to_view(photographs(3, (31, 26)))
    rng = np.random.default_rng(0)
    corners = np.stack([rng.integers(0, 31 - 8, (3, 5)), rng.integers(0, 18, (3, 5))])
    corners[:, 0, :2] = [[0, 31 - 8], [0, 26 - 8]]  # the corners of the image
    params = np.concatenate(
        [np.full((3, 1), 8), corners.transpose(1, 2, 0).reshape(3, 10)], axis=1
    )
    flip = {"RandomFlip": np.array([[1], [0], [1]])}
    patches = function(view, tensors(flip | {"CutPatches": params}))
    assert patches.shape == (3, 5, 3, 8, 8) and patches.dtype == torch.uint8
    for image, patch in itertools.product(range(3), range(5)):
        x, y = corners[:, image, patch]
        whole = view[image].flip(2) if image != 1 else view[image]
        assert torch.equal(patches[image, patch], whole[:, y : y + 8, x : x + 8])


def test_every_transform_with_a_device_version_has_both_forms():
    kinds = [k for k in vars(transforms).values() if hasattr(k, "device_name")]
    names = {kind.device_name for kind in kinds}
    assert names == set(operations_module.OPERATIONS)
    assert len(names) == 6


# ---------------------------------------------------------------- devices


def test_nothing_is_read_back_from_the_device():
    """On the meta device there are no values: reading one, or a mask, is an error."""
    view, operations = torch.zeros(24, 3, 20, 20, dtype=torch.uint8), some_of_all(24)
    operations["CutPatches"] = torch.tensor([[8.0, 0, 0, 12, 3]]).repeat(24, 1)
    result = augment(view.to("meta"), operations)
    assert result.device.type == "meta"
    assert result.shape == (24, 2, 3, 8, 8) and result.dtype == torch.uint8


@GPU
def test_a_gpu_makes_the_same_images_without_being_waited_for():
    view, operations = to_view(photographs(64, (65, 47))), some_of_all(64)
    expected = augment(view, operations)
    on_gpu = view.cuda()
    augment(on_gpu, operations)  # what is set up once may wait
    torch.cuda.set_sync_debug_mode("error")
    try:
        with torch.autocast("cuda", torch.bfloat16):
            result = augment(on_gpu, operations)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    found = (result.cpu().int() - expected.int()).abs().float()
    assert found.max() <= 12 and found.mean() < 0.01


def test_half_precision_of_the_step_does_not_reach_the_blur():
    view, operations = to_view(photographs(8, (20, 20))), some_of_all(8)
    expected = augment(view, operations)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(augment(view, operations), expected)


# ---------------------------------------------------------------- wrong batches

FLIP = {"RandomFlip": torch.zeros(4, 1)}


@BOTH
@pytest.mark.parametrize(
    ("operations", "message"),
    [
        ({"Rotate": torch.zeros(4, 1)}, "asks for the augmentation 'Rotate'.*worker"),
        ({"RandomFlip": torch.zeros(3, 1)}, r"shape \(3, 1\).*needs 4 x 1"),
        ({"ColorJitter": torch.zeros(4)}, r"shape \(4,\).*needs 4 x 8"),
        ({"CutPatches": torch.zeros(4, 4)}, r"needs 4 x \(1 \+ 2 P\)"),
        ({"CutPatches": torch.ones(4, 3), **FLIP}, "so it must come last"),
        ({"RandomFlip": torch.zeros(4, 1).to("meta")}, "4 x 1, on the CPU"),
    ],
)
def test_wrong_parameters_are_explained(function, operations, message):
    view = torch.zeros(4, 3, 8, 8, dtype=torch.uint8)
    with pytest.raises(ValueError, match=message):
        function(view, operations)


@BOTH
@pytest.mark.parametrize(
    "view", [torch.zeros(4, 3, 8, 8), torch.zeros(4, 9, 3, 8, 8, dtype=torch.uint8)]
)
def test_views_that_cannot_be_augmented_are_explained(function, view):
    with pytest.raises(ValueError, match="takes images in uint8, N x 3 x H x W, but"):
        function(view, FLIP)
