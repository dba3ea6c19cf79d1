"""Files of object proposals, and the boxes that are found without labels."""

from __future__ import annotations

import json
import os
import re

import numpy as np
import pytest

from mmssl_ext.datasets.listing import name_below
from mmssl_ext.datasets.proposals import ProposalError, Proposals
from mmssl_ext.datasets.proposals.find import Settings, find_boxes, suppress
from mmssl_ext.datasets.proposals.superpixels import superpixel_boxes
from tests.ragged import photo

ODD = os.fsdecode(b"sub/caf\xe9 \n.jpg")  # no UTF-8, and a line end


def write(path, **changes):
    """A file of three images; the second has no box, the first two."""
    names = ("z.png", "sub/empty.png", ODD)
    whole = {
        "info": {"method": "none"},
        "images": [
            {"id": 7 - i, "file_name": name, "width": 40, "height": 20}
            for i, name in enumerate(names)
        ],
        "annotations": [
            {"id": i, "image_id": image, "category_id": 1, "bbox": box}
            for i, (image, box) in enumerate(
                [(7, [4, 2, 10, 5]), (5, [0, 0, 40, 20]), (7, [8, 10, 2, 10])]
            )
        ],
    }
    path.write_text(json.dumps(whole | changes))
    return path


def test_boxes_are_those_of_the_image(tmp_path):
    found = Proposals(write(tmp_path / "p.json"), tmp_path)
    assert (len(found), found.info) == (3, {"method": "none"})
    assert sorted(found.counts) == [0, 1, 2]
    boxes = found.of(tmp_path / "z.png", (40, 20))
    assert boxes.tolist() == [[4, 2, 14, 7], [8, 10, 10, 20]] and boxes.dtype == "f4"
    assert found.of("sub/empty.png").shape == (0, 4)
    assert found.relative(tmp_path / ODD).tolist() == [[0, 0, 1, 1]]
    rounded = {"annotations": [{"image_id": 7, "bbox": [-1, 0, 41.5, 20.9]}]}
    found = Proposals(write(tmp_path / "q.json", **rounded), tmp_path)
    assert found.of("z.png").tolist() == [[-1, 0, 40.5, np.float32(20.9)]]
    found = Proposals(tmp_path / "p.json", tmp_path)
    in_shard = tmp_path / "shard-00001.tar" / "z.png"
    relative = found.relative(in_shard, (40, 20))
    assert np.allclose(relative, [[0.1, 0.1, 0.35, 0.35], [0.2, 0.5, 0.25, 1]])


IMAGE = {"id": 1, "file_name": "a", "width": 4, "height": 4}
BOX = {"id": 1, "image_id": 1, "bbox": [0, 0, 1, 1]}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "it is no JSON from line 1, column 2 on"),
        ("", "it is empty"),
        ({"images": [IMAGE], "info": [1]}, "it is no COCO JSON"),
        ("[]", "it is no COCO JSON"),
        ('{"annotations": []}', "it lists no image"),
        ({"images": [IMAGE], "annotations": [BOX | {"image_id": 2}]}, "does not list"),
        ({"images": [IMAGE, IMAGE | {"id": 2}]}, "lists 'a' more than once"),
        ({"images": [IMAGE, IMAGE | {"file_name": "b"}]}, "has one image id twice"),
        ({"images": [IMAGE | {"file_name": "\ud800"}]}, "name that no file can have"),
        *(
            ({"images": [{k: v for k, v in (IMAGE | change).items() if v != ""}]}, said)
            for change, said in (
                ({"id": ""}, "the image 'a' has no id"),
                ({"id": "7"}, "has the id '7', which is no whole number"),
                ({"id": 2**63}, "which is no whole number"),
                ({"width": float("inf")}, "has the width inf"),
                ({"height": 0}, "the image 'a' has 4 x 0 pixels"),
            )
        ),
        *(
            ({"images": [IMAGE], "annotations": [BOX | {"bbox": box}]}, said)
            for box, said in (
                ([0, 0], r"image 1 is \[0, 0\], not the four numbers"),
                (["0", 0, 1, 1], "not the four numbers"),
                ([0, 0, -1, 1], r"-1.0, 1.0\] of 'a' does not lie in that image of 4"),
                ([float("nan"), 0, 1, 1], "does not lie"),
                ([1, 1, 4, 4.5], "does not lie"),  # corners
                ([0.5, 0.25, 0.5, 0.5], "fractions of the images; write pixels"),
            )
        ),
    ],
)
def test_a_file_that_is_none_is_refused(tmp_path, text, said):
    path = tmp_path / "p.json"
    path.write_text(text if isinstance(text, str) else json.dumps(text))
    with pytest.raises(ProposalError, match=said):
        Proposals(path)


def test_what_does_not_fit_the_images_is_refused(tmp_path):
    with pytest.raises(ProposalError, match=r"cannot be read: No such file"):
        Proposals(tmp_path / "none.json")
    found = Proposals(write(tmp_path / "p.json"), tmp_path)
    with pytest.raises(ProposalError, match=r"lists no proposals of .sub/z\.png."):
        found.of(tmp_path / "sub/z.png")
    said = re.escape("are for an image of 40 x 20 pixels, but it has 20 x 40")
    with pytest.raises(ProposalError, match=said):
        found.of(tmp_path / "z.png", (20, 40))


def test_an_image_has_one_name_however_it_is_spelt(tmp_path, monkeypatch):
    (tmp_path / "data" / "set.tar").mkdir(parents=True)  # a folder
    image = tmp_path / "data" / "set.tar" / "x.jpg"
    image.touch()
    monkeypatch.chdir(tmp_path / "data")
    whole = str(tmp_path / "data")
    for root in (whole, ".", "../data", f"{whole}/"):
        for path in (str(image), "set.tar/x.jpg", "./set.tar/x.jpg"):
            assert name_below(root, path) == "set.tar/x.jpg"
        assert name_below(root, "other.tar/x.jpg") == "x.jpg"  # of a shard
        assert name_below(root, "none.jpg") == "none.jpg"
        assert name_below(root, "/none.jpg") == "/none.jpg"
    assert name_below("", "set.tar/x.jpg") == "set.tar/x.jpg"
    assert name_below("set.tar", "b.tar/x.jpg") == "x.jpg"


def overlap(a, b):
    left, upper = max(a[0], b[0]), max(a[1], b[1])
    right, lower = min(a[2], b[2]), min(a[3], b[3])
    inner = max(right - left, 0) * max(lower - upper, 0)
    areas = sum((x[2] - x[0]) * (x[3] - x[1]) for x in (a, b))
    return inner / (areas - inner)


def test_suppression_is_that_of_two_loops():
    rng = np.random.default_rng(0)
    corners = rng.integers(0, 30, (60, 2))
    boxes = np.concatenate([corners, corners + rng.integers(5, 20, (60, 2))], 1)
    chosen = []
    for i, box in enumerate(boxes):
        if all(overlap(box, boxes[j]) <= 0.5 for j in chosen):
            chosen.append(i)
    assert 10 < len(chosen) < 60
    assert suppress(boxes.astype(float), 0.5, 1000).tolist() == chosen
    assert suppress(boxes.astype(float), 0.5, 7).tolist() == chosen[:7]
    assert suppress(np.zeros((0, 4)), 0.5, 7).tolist() == []


def test_superpixels_find_what_stands_out():
    """A disk on noise is one region of the tree, whatever its scale in the image."""
    rng = np.random.default_rng(0)
    for size, centre, radius in ((100, (60, 40), 18), (600, (200, 350), 90)):
        img = rng.integers(60, 90, (size, size, 3), dtype=np.uint8)
        rows, columns = np.indices((size, size))
        inside = (columns - centre[0]) ** 2 + (rows - centre[1]) ** 2 <= radius**2
        img[inside] = rng.integers(170, 200, (inside.sum(), 3), dtype=np.uint8)
        box = [centre[0] - radius, centre[1] - radius]
        box += [centre[0] + radius + 1, centre[1] + radius + 1]
        found = superpixel_boxes(img)
        assert max(overlap(box, other) for other in found) > 0.85
        assert found[-1].tolist() == [0, 0, size, size]  # the root
        assert np.array_equal(found, superpixel_boxes(img))
    for shape in ((1, 1), (1, 40), (3, 500)):  # nothing to merge, and strips
        boxes = superpixel_boxes(np.zeros((*shape, 3), np.uint8))
        assert np.allclose(boxes[-1], [0, 0, *shape[::-1]])


def test_boxes_follow_from_pixels_name_and_seed_alone():
    img = np.asarray(photo(5, (90, 70)))
    settings = Settings(min_side=8)
    boxes, scores = find_boxes(img, "a", settings)
    again = find_boxes(img, "a", settings)
    assert all(
        np.array_equal(x, y) for x, y in zip((boxes, scores), again, strict=True)
    )
    assert (np.diff(scores) < 0).all() and len(boxes) > 3
    others = (
        find_boxes(img, "b", settings),
        find_boxes(img, "a", Settings(min_side=8, seed=1)),
    )
    assert all(not np.array_equal(scores, other[1]) for other in others)
    small, _ = find_boxes(img, "a", Settings(min_side=8, long_side=45))
    assert small.max() <= 90 and small[:, 3].max() <= 70
