"""Near-identical images: re-encoded, resized and turned copies, and no others."""

from __future__ import annotations

import csv
import os
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from mmpretrain.models import ResNet
from PIL import Image

import mmssl_ext
from mmssl_ext.api import duplicates as module
from mmssl_ext.errors import UserError
from tests.ragged import LATIN, ORIENTATION, photo
from tests.warm import python

pytest.importorskip("imagehash")


def picture(seed):
    """Coarse shapes and fine ones, 120 x 90, so that a hash has something to hold."""
    rng = np.random.default_rng(seed)
    fine = rng.integers(0, 256, (30, 40, 3), dtype=np.uint8)
    fine = Image.fromarray(fine).resize((120, 90), Image.Resampling.BICUBIC)
    return Image.blend(photo(seed, (120, 90)), fine, 0.5)


@pytest.fixture
def folder(tmp_path):
    """Six pictures, three copies of the first, one of the second, a broken file."""
    root = tmp_path / "photos"
    root.mkdir()
    for i in range(6):
        picture(i).save(root / f"{i}.png")
    first = picture(0)
    first.save(root / "x_again.jpg", quality=50)
    first.resize((60, 45), Image.Resampling.BICUBIC).save(root / "y_small.png")
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    turned = first.transpose(Image.Transpose.ROTATE_90)  # what 6 turns back
    turned.save(root / f"z_{LATIN}.jpg", exif=exif, quality=90)
    picture(1).convert("L").save(root / "w_gray.png")
    (root / "broken.jpg").write_bytes(b"\xff\xd8\xff")
    return root


def test_copies_are_found_and_grouped_by_the_first(folder, tmp_path):
    out = tmp_path / "a.csv"
    found = mmssl_ext.duplicates(folder, out=out)
    names = [[os.path.basename(x) for x in group] for group in found.groups]
    assert names == [
        ["1.png", "w_gray.png"],
        ["0.png", "x_again.jpg", "y_small.png", f"z_{LATIN}.jpg"],
    ]
    assert [os.path.basename(x) for x, _ in found.unreadable] == ["broken.jpg"]
    assert all(pair.distance <= 16 for pair in found.pairs)
    with out.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(r["path"], r["twin"], float(r["distance"])) for r in rows] == found.pairs
    assert [r["group"] for r in rows] == ["0", "1", "1", "1"]


def test_another_folder_is_compared_with_the_first_only(folder, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    picture(3).save(other / "a.webp", quality=60)
    picture(3).save(other / "b.png")
    picture(9).save(other / "c.png")
    found = mmssl_ext.duplicates(folder, other)
    paths = [(os.path.basename(p), os.path.basename(t)) for p, t, _ in found.pairs]
    assert paths == [("a.webp", "3.png"), ("b.png", "3.png")]
    assert len(found.groups) == 1
    assert not mmssl_ext.duplicates(other, distance=0).pairs


@pytest.mark.parametrize("block", [1, 37, 10_000])
def test_blocks_give_what_the_whole_matrix_gives(block, monkeypatch):
    monkeypatch.setattr(module, "_BLOCK", block)
    rng = np.random.default_rng(0)
    rows, known = (rng.normal(size=(n, 3)).astype(np.float32) for n in (23, 31))
    rows, known = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (rows, known))
    for given, matrix in (
        (rows, rows @ known.T),
        (None, np.where(np.tri(31, k=-1) > 0, known @ known.T, -2)),
    ):
        expected = [
            (i, int(row.argmax()), pytest.approx(row.max(), abs=1e-6))
            for i, row in enumerate(matrix)
            if row.max() >= 0.97
        ]
        assert list(module.nearest(given, known, 0.97)) == expected
        assert expected


def test_features_of_a_checkpoint(folder, tmp_path):
    torch.manual_seed(0)
    network = ResNet(18, stem_channels=8, base_channels=4)
    torch.save(network.state_dict(), tmp_path / "a.pth")
    options = {"checkpoint": tmp_path / "a.pth", "workers": 0}
    found = mmssl_ext.duplicates(folder, folder, distance=1e-5, **options)
    same = [p for p in found.pairs if p.path == p.twin and abs(p.distance) < 1e-5]
    assert len(same) == 10  # all that can be read


def test_refusals(folder, tmp_path, monkeypatch):
    for options, words in [
        ({"distance": 256}, "a number of bits, from 0 and below 256"),
        ({"distance": -0.1, "checkpoint": "x.pth"}, "1 - cosine similarity, from 0"),
        ({"out": "a.npz"}, r"a\.npz' must end in \.csv"),
        ({"workers": 1.5}, r"workers=1\.5 must be"),
    ]:
        with pytest.raises(UserError, match=words):
            mmssl_ext.duplicates(folder, **options)
    monkeypatch.setitem(sys.modules, "imagehash", None)
    with pytest.raises(UserError, match=r'pip install "mmssl_ext\[duplicates\]"'):
        mmssl_ext.duplicates(tmp_path / "gone")


def test_the_command(folder, tmp_path):
    done = python("tools/duplicates.py", str(folder), "--workers", "0")
    assert done.returncode == 0, done.stderr
    *lines, counts, broken = done.stdout.splitlines()[-6:]
    assert [line.count("\t") for line in lines] == [2] * 4
    assert r"z_caf\xe9.jpg" in done.stdout
    assert counts == "4 near copies in 2 groups"
    assert broken == "1 images could not be read; they are above."
    done = python("tools/duplicates.py", str(tmp_path / "gone"))
    assert done.returncode == 2 and "does not exist. Give a folder" in done.stderr


CELLS = Path(os.environ.get("MMSSL_BCCD", ""), "bccd_voc.tar.xz")


@pytest.mark.skipif(not CELLS.is_file(), reason="MMSSL_BCCD names no folder of BCCD")
def test_photographs_of_cells_are_told_apart(tmp_path):
    """In 60 of BCCD only the two shots of one field are near, and a copy."""
    with tarfile.open(CELLS) as file:
        members = [m for m in file if m.name.endswith(".jpg")]
        for member in sorted(members, key=lambda m: m.name)[:60]:
            member.name = os.path.basename(member.name)
            file.extract(member, tmp_path, filter="data")
    with Image.open(tmp_path / "BloodImage_00005.jpg") as image:
        image.resize((320, 240)).save(tmp_path / "copy.jpg", quality=40)
    found = mmssl_ext.duplicates(tmp_path, workers=0)
    names = {tuple(os.path.basename(x)[-9:] for x in p[:2]) for p in found.pairs}
    assert names == {("00038.jpg", "00037.jpg"), ("copy.jpg", "00005.jpg")}
