"""A file of proposals: complete, the same whatever stops the work, and COCO's."""

from __future__ import annotations

import fcntl
import json
import shutil

import numpy as np
import pytest
from PIL import Image

from mmssl_ext.api import proposals
from mmssl_ext.api.proposals import make_proposals
from mmssl_ext.datasets import DecodeImage
from mmssl_ext.datasets.proposals import Proposals
from mmssl_ext.datasets.proposals.find import Settings
from mmssl_ext.datasets.proposals.journal import Journal
from mmssl_ext.errors import UserError, UserValueError
from tests.ragged import photo, write_ragged

SETTINGS = {"min_side": 6.0, "max_boxes": 5, "workers": 0}


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Images as people have them, and one that is smaller than any box may be."""
    ragged = write_ragged(tmp_path_factory.mktemp("ragged"))
    Image.new("RGB", (5, 5)).save(ragged.photos / "tiny.png")
    return ragged


@pytest.fixture(scope="module")
def whole(photos, tmp_path_factory):
    """The file, and what the call returned."""
    out = tmp_path_factory.mktemp("whole") / "p.json"
    return out, make_proposals(photos.photos, out, **SETTINGS)


def test_every_image_is_listed_and_the_broken_one_named(photos, whole):
    out, found = whole
    read = Proposals(out, photos.photos)
    assert found.images == len(read) == photos.num_photos  # tiny for broken
    assert found.boxes == read.counts.sum() > found.images
    ((name, reason),) = found.unreadable
    assert photos.broken.name in name and reason
    assert read.info["unreadable"] == [[name, reason]]
    assert len(read.of("tiny.png", (5, 5))) == 0 < found.empty
    assert read.info["without_proposals"] == found.empty == (read.counts == 0).sum()
    for path in {*photos.names} - {name}:
        img = DecodeImage()({"img_path": str(photos.photos / path)})["img"]
        boxes = read.of(photos.photos / path, img.shape[1::-1])  # upright
        sides = boxes[:, 2:] - boxes[:, :2]
        assert (boxes >= 0).all() and (boxes[:, 2:] <= img.shape[1::-1]).all()
        assert (sides.prod(1) > 36).all() and (sides.max(1) <= 3 * sides.min(1)).all()
    assert [p.name for p in out.parent.iterdir()] == ["p.json"]  # no draft


def test_it_is_what_other_readers_of_coco_want(whole):
    coco = pytest.importorskip("pycocotools.coco").COCO(str(whole[0]))
    assert len(coco.getImgIds()) == whole[1].images
    scores = [(a["image_id"], -a["score"]) for a in coco.anns.values()]
    assert len(scores) == whole[1].boxes and scores == sorted(scores)
    assert coco.loadCats(coco.getCatIds()) == [{"id": 1, "name": "object"}]


def test_a_call_goes_on_where_one_was_stopped(photos, whole, tmp_path, monkeypatch):
    out, seen = tmp_path / "p.json", []

    def stopping(img, name, settings):
        seen.append(name)
        if len(seen) == 6:
            raise KeyboardInterrupt
        return find(img, name, settings)

    find = proposals.find_boxes
    monkeypatch.setattr(proposals, "find_boxes", stopping)
    with pytest.raises(KeyboardInterrupt):
        make_proposals(photos.photos, out, **SETTINGS)
    partial = tmp_path / "p.json.partial"
    assert partial.read_bytes().count(b"\n") == 1 + 5 and not out.exists()
    with pytest.raises(UserValueError, match=r"begun with other settings.*delete it"):
        make_proposals(photos.photos, out, **SETTINGS, seed=1)
    with partial.open("a") as file:
        file.write('{"name": "torn')  # by a power cut
    make_proposals(photos.photos, out, **SETTINGS)
    assert len(seen) == len(set(seen)) + 1  # the one that was under way, twice
    assert out.read_bytes() == whole[0].read_bytes()
    seen.clear()
    assert make_proposals(photos.photos, out, **SETTINGS)[1:4] == whole[1][1:4]
    assert not seen  # it is complete


def test_boxes_of_images_that_have_changed_are_not_kept(tmp_path):
    images, out = tmp_path / "images", tmp_path / "p.json"
    images.mkdir()
    for seed in range(4):
        photo(seed).save(images / f"{seed}.png")
    make_proposals(images, tmp_path / "old.json", **SETTINGS)
    photo(9).save(images / "1.png")
    with pytest.raises(UserValueError, match="of the images before they were changed"):
        make_proposals(images, tmp_path / "old.json", **SETTINGS)
    whole = make_proposals(images, tmp_path / "new.json", **SETTINGS)
    # The same where the work was stopped between, and lines of other kinds stand there.
    with Journal(out, Settings(min_side=6.0, max_boxes=5)) as journal:
        for name, mark in (("0.png", [1, 2]), ("gone.png", [3, 4])):
            journal.add(name, np.ones((2, 5)), mark)
    partial = tmp_path / "p.json.partial"
    partial.write_bytes(partial.read_bytes() + b'5\n{"name": "1.png"}\nx\n')
    assert make_proposals(images, out, **SETTINGS)[1:] == whole[1:]
    assert out.read_bytes() == (tmp_path / "new.json").read_bytes()


def test_workers_change_nothing(photos, whole, tmp_path):
    made = make_proposals(
        photos.photos, tmp_path / "p.json", **SETTINGS | {"workers": 2}
    )
    assert made[1:] == whole[1][1:]
    assert (tmp_path / "p.json").read_bytes() == whole[0].read_bytes()


def test_a_seed_changes_scores_and_hence_boxes(photos, whole, tmp_path):
    make_proposals(photos.photos, tmp_path / "p.json", **SETTINGS, seed=1)
    ours, theirs = (json.loads(p.read_text()) for p in (tmp_path / "p.json", whole[0]))
    assert ours["images"] == theirs["images"]
    assert ours["info"]["settings"]["seed"] == 1
    assert ours["annotations"] != theirs["annotations"]


def test_what_cannot_be_is_refused_in_a_sentence(photos, whole, tmp_path):
    copy = shutil.copy(whole[0], tmp_path / "p.json")
    with pytest.raises(UserValueError, match="is there already, and is of other sett"):
        make_proposals(photos.photos, copy, **SETTINGS, seed=1)
    photo(1).save(tmp_path / "new.png")
    with pytest.raises(UserValueError, match="is there already, and is of other imag"):
        make_proposals(tmp_path, copy, **SETTINGS)
    with pytest.raises(UserValueError, match=r"a file that ends in \.json"):
        make_proposals(tmp_path, tmp_path / "p.txt")
    values = {"iou": (1.5, "x"), "max_boxes": (0, "10", 2.5, True), "long_side": (3,)}
    values |= {"seed": (None,), "method": (["superpixels"],), "max_box": (5,)}
    said = {"max_box": "no setting 'max_box' of proposals. Did you mean max_boxes"}
    for name, wrong in values.items():
        for value in wrong:
            text = said.get(name, f"{name.replace('_', '-')} must be")
            with pytest.raises(UserValueError, match=text):
                make_proposals(tmp_path, tmp_path / "q.json", **{name: value})
    (tmp_path / "folder.json").mkdir()
    for name in ("folder.json", "new.png/p.json", f"{'x' * 300}.json"):
        with pytest.raises(UserValueError, match=f"{name}.*(file|cannot be written)"):
            make_proposals(tmp_path, tmp_path / name)
    (tmp_path / "folder.json").rmdir()
    with (tmp_path / "q.json.partial").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(UserValueError, match="written by another process"):
            make_proposals(tmp_path, tmp_path / "q.json")
    (tmp_path / "new.png").write_bytes(b"no image")
    with pytest.raises(UserError, match="None of the 1 images can be read"):
        make_proposals(tmp_path, tmp_path / "q.json", **SETTINGS)


def test_selective_search_is_opencvs(tmp_path):
    cv2 = pytest.importorskip("cv2")
    photo(3, (64, 48)).save(tmp_path / "a.png")
    settings = {"method": "selective-search", "min_side": 6.0, "workers": 0}
    if not hasattr(cv2, "ximgproc"):
        with pytest.raises(UserError, match="opencv-contrib-python-headless"):
            make_proposals(tmp_path, tmp_path / "p.json", **settings)
        pytest.skip("this OpenCV has no selective search")
    made = make_proposals(tmp_path, tmp_path / "p.json", **settings)
    boxes = Proposals(made.path).of("a.png", (64, 48))
    assert len(boxes) == made.boxes > 0
    assert np.all(boxes[:, 2:] <= (64, 48))
