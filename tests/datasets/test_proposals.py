"""Files of object proposals, and the boxes that are found without labels."""

from __future__ import annotations

import json
import os
import re

import numpy as np
import pytest

from mmssl_ext.datasets.proposals import ProposalError, Proposals

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
    in_shard = tmp_path / "shard-00001.tar" / "z.png"
    relative = found.relative(in_shard, (40, 20))
    assert np.allclose(relative, [[0.1, 0.1, 0.35, 0.35], [0.2, 0.5, 0.25, 1]])


IMAGE = {"id": 1, "file_name": "a", "width": 4, "height": 4}
BOX = {"id": 1, "image_id": 1, "bbox": [0, 0, 1, 1]}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "it is no COCO JSON"),
        ("[]", "it is no COCO JSON"),
        ('{"annotations": []}', "it lists no image"),
        ({"images": [IMAGE], "annotations": [BOX | {"image_id": 2}]}, "does not list"),
        ({"images": [IMAGE, IMAGE | {"id": 2}]}, "lists 'a' more than once"),
        ({"images": [IMAGE, IMAGE | {"file_name": "b"}]}, "has one image id twice"),
        ({"images": [IMAGE], "annotations": [BOX | {"bbox": [0, 0, -1, 1]}]}, "-1 x 1"),
        ({"images": [IMAGE], "annotations": [BOX | {"bbox": [0, 0]}]}, "no COCO JSON"),
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
