"""Boxes of objects through crop and flip: by hand, and by the pixels of the views."""

import json

import numpy as np
import pytest
import torch
from mmengine.dataset import default_collate
from PIL import Image

from mmssl_ext.datasets import ImageFolder
from mmssl_ext.datasets.transforms import Objects, PlaceProposals
from mmssl_ext.datasets.transforms.objects import visible
from mmssl_ext.errors import UserValueError
from mmssl_ext.preprocessing import MultiViewPreprocessor

SIZE = 120, 90  # of the image
PLACES = [[12, 9, 48, 45], [60, 18, 108, 72], [3, 60, 21, 87]]  # corners in pixels


def test_crop_and_flip_by_hand():
    """H5 and G6 of the sheets, in units of the view."""
    image = np.array([240.0, 240, 240, 240])
    crop = np.array([60, 50, 160, 200]) / image
    cut, share = visible(np.array([[100, 80, 220, 200]]) / image, tuple(crop))
    wanted = np.array([89.6, 44.8, 224, 224]) / 224
    assert cut[0] == pytest.approx(wanted) and share == pytest.approx(0.5)
    place = np.array([[0.3, 0.3, 0.45, 0.4]])
    views = {
        (0, 0, 0.5, 0.5): (134.4, 134.4, 201.6, 179.2),
        (0.25, 0.25, 1, 0.75): (14.933333, 22.4, 59.733333, 67.2),
        (1, 0.25, 0.25, 0.75): (164.266667, 22.4, 209.066667, 67.2),
    }
    for view, wanted in views.items():
        cut, share = visible(place, view)
        assert 224 * cut[0] == pytest.approx(wanted) and share == pytest.approx(1)
    assert 224 * visible(np.array([[20, 30, 60, 90]]) / 224, (1, 0, 0, 1))[0][0] == (
        pytest.approx((164, 30, 204, 90))
    )
    assert visible(place, (0.6, 0.5, 1, 1))[1] == 0


def write(root, boxes=PLACES, names=("a.png",), size=SIZE, listed=True):
    """Images in which each object has a channel of its own, and their proposals."""
    (root / "images").mkdir()
    for name in names:
        pixels = np.zeros((size[1], size[0], 3), np.uint8)
        for number, (x0, y0, x1, y1) in enumerate(boxes):
            pixels[y0:y1, x0:x1, number] = 240
        Image.fromarray(pixels).save(root / "images" / name)
    images = [
        dict(id=i, file_name=name if listed else "b.png", width=size[0], height=size[1])
        for i, name in enumerate(names)
    ]
    annotations = [
        dict(id=10 * i + n, image_id=i, bbox=[x0, y0, x1 - x0, y1 - y0], score=1)
        for i in range(len(names))
        for n, (x0, y0, x1, y1) in enumerate(boxes)
    ]
    file = root / "proposals.json"
    file.write_text(json.dumps(dict(images=images, annotations=annotations)))
    return root / "images", file


def dataset(root, file, crop=None, between=(), augment_on="worker", place=None, **load):
    view = [
        dict(type="ObjectCrop", size=(80, 96)) | (crop or {}),
        dict(type="RandomFlip"),
    ]
    made = ImageFolder(
        str(root),
        [
            dict(type="DecodeImage"),
            dict(type="LoadProposals", ann_file=str(file), root=str(root), **load),
            *between,
            dict(type="MakeViews", views=[view, view], augment_on=augment_on),
            dict(type="PlaceProposals", min_side=8, max_boxes=5) | (place or {}),
            dict(type="PackViews"),
        ],
    )
    return made


@pytest.mark.parametrize("augment_on", ["worker", "device"])
def test_boxes_lie_where_the_pixels_are(tmp_path, augment_on):
    made = dataset(*write(tmp_path), augment_on=augment_on)
    prepare = MultiViewPreprocessor((0, 0, 0), (1, 1, 1), for_method=True)
    seen = 0
    for epoch in range(40):
        made.set_augmentation_seed(0, epoch)
        batch = prepare(default_collate([made[0]]), training=True)
        objects = batch["objects"]
        for boxes in objects.boxes:  # V x 4
            channels = []
            for view, box in zip(batch["inputs"], boxes, strict=True):
                x0, y0, x1, y1 = (box * torch.tensor([96, 80, 96, 80])).tolist()
                centre = view[0, :, int((y0 + y1) / 2), int((x0 + x1) / 2)]
                channels.append(centre.argmax().item())
                ys, xs = (view[0, channels[-1]] > 120).nonzero().unbind(1)
                found = [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]
                edges = torch.tensor([float(x) for x in found])
                wanted = torch.tensor([x0, y0, x1, y1])
                torch.testing.assert_close(edges, wanted, rtol=0, atol=1)
            assert channels[0] == channels[1]  # the same object
            seen += 1
    assert seen > 25


def test_what_too_little_is_left_of_is_dropped(tmp_path):
    """Each view by brute force over the pixels of the image."""
    made = dataset(*write(tmp_path), place=dict(min_side=20))
    kept = []
    for epoch in range(60):
        made.set_augmentation_seed(1, epoch)
        item = made[0]
        wanted = 0
        for x0, y0, x1, y1 in PLACES:
            fits = True
            for view in item["boxes"].double():
                left, right = sorted(view[[0, 2]].tolist())
                top, bottom = view[[1, 3]].tolist()
                xs = (np.arange(x0, x1) + 0.5) / SIZE[0]
                ys = (np.arange(y0, y1) + 0.5) / SIZE[1]
                inside = ((xs > left) & (xs < right)).sum()
                inside *= ((ys > top) & (ys < bottom)).sum()
                scale = 96 * 80 / ((right - left) * (bottom - top) * SIZE[0] * SIZE[1])
                fits &= inside > 0.6 * (x1 - x0) * (y1 - y0) and inside * scale > 400
            wanted += fits
        objects = item["objects"]
        assert objects.shape == (5, 2, 4) and objects.dtype == torch.float32
        assert (~objects.isnan()).all(2).all(1).tolist() == [
            i < wanted for i in range(5)
        ]
        kept.append(int(wanted))
    assert {0, 1, 2} <= set(kept)


def test_a_crop_is_drawn_again_until_it_shows_an_object(tmp_path):
    middle = [[50, 35, 80, 60]]
    root, file = write(tmp_path, middle)
    shares = {}
    for tries in (1, 10):
        made = dataset(root, file, crop=dict(scale=(0.1, 0.3), tries=tries))
        count = 0
        for epoch in range(50):
            made.set_augmentation_seed(0, epoch)
            for view in made[0]["boxes"].tolist():
                box = np.array(middle) / [*SIZE, *SIZE]
                count += visible(box, tuple(view))[1][0] > 0.6
        shares[tries] = count / 100
    assert shares[1] < 0.5 and shares[10] > 0.8


def test_an_image_without_boxes_has_no_objects(tmp_path):
    root, file = write(tmp_path, names=("a.png", "b.png"))
    content = json.loads(file.read_text())
    content["annotations"] = [a for a in content["annotations"] if a["image_id"] == 0]
    file.write_text(json.dumps(content))
    batch = default_collate([dataset(root, file)[i] for i in (1, 0, 1)])
    objects = Objects.of(batch["objects"])
    assert set(objects.images.tolist()) <= {1}
    assert objects.most == 5 and len(objects.boxes) == len(objects.rows)


def test_objects_of_a_padded_batch():
    padded = torch.rand(3, 4, 2, 4)
    padded[0, 2:] = padded[1] = torch.nan
    objects = Objects.of(padded)
    assert objects.rows.tolist() == [0, 1, 8, 9, 10, 11]
    assert objects.images.tolist() == [0, 0, 2, 2, 2, 2]
    assert torch.equal(objects.boxes[1], padded[0, 1])
    none = Objects.of(torch.full((3, 4, 2, 4), torch.nan))
    assert none.boxes.shape == (0, 2, 4)


def test_the_first_of_more_boxes_are_kept(tmp_path):
    made = dataset(*write(tmp_path), crop=dict(scale=(1, 1)), place=dict(max_boxes=1))
    made.set_augmentation_seed(0, 0)
    assert made[0]["objects"].shape == (1, 2, 4)


# What does not fit: one sentence each


@pytest.mark.parametrize(
    ("files", "options", "sentence"),
    [
        (dict(listed=False), {}, "lists no proposals of 'a.png'"),
        (dict(boxes=[]), {}, "lists 1 images and no box in any; make proposals by"),
        (
            {},
            dict(between=[dict(type="CenterCrop", size=50)]),
            "leave out what crops in between",
        ),
        ({}, dict(crop=dict(min_visible=1)), "ObjectCrop: min_visible=1 is a share"),
        ({}, dict(crop=dict(tries=0)), "ObjectCrop: tries=0 must be"),
        ({}, dict(place=dict(max_boxes=0)), "PlaceProposals: max_boxes=0 must be"),
        ({}, dict(place=dict(min_side=-1)), "min_side=-1 is a number of pixels"),
        ({}, dict(place=dict(min_side="1")), "min_side='1' is a number of pixels"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path, files, options, sentence):
    with pytest.raises(UserValueError, match=sentence):
        dataset(*write(tmp_path, **files), **options)[0]


def test_proposals_of_another_size_or_none_are_refused(tmp_path):
    root, file = write(tmp_path)
    Image.new("RGB", (50, 50)).save(root / "a.png")
    with pytest.raises(UserValueError, match="120 x 90 pixels, but it has 50 x 50"):
        dataset(root, file)[0]
    with pytest.raises(UserValueError, match="cannot be read"):
        dataset(root, tmp_path / "none.json")
    with pytest.raises(UserValueError, match="put LoadProposals behind the decoder"):
        PlaceProposals()({"img": Image.new("RGB", (50, 50))})
    patches = [[dict(type="CutPatches", size=8, grid=2)]] * 2
    steps = [
        dict(type="DecodeImage"),
        dict(type="MakeViews", views=patches),
        PlaceProposals(),
    ]
    steps.insert(1, lambda results: results | dict(proposals=np.zeros((0, 4))))
    with pytest.raises(UserValueError, match="where view 1 was cut is not known"):
        ImageFolder(str(root), steps)[0]
