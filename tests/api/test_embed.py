"""The features of a folder: equal to a plain loop, whole files, broken images."""

from __future__ import annotations

import csv
import os
import shutil
import sys

import numpy as np
import pytest
import torch
from mmpretrain.models import ResNet
from PIL import Image

import mmssl_ext
from mmssl_ext.api import images as reading
from mmssl_ext.datasets.shard_writer import make_shards
from mmssl_ext.errors import UserError
from mmssl_ext.fit import pooled
from tests.ragged import CLASSES, PER_CLASS, write_ragged
from tests.warm import python

SIZE = 32


@pytest.fixture(scope="module")
def ragged(tmp_path_factory):
    return write_ragged(tmp_path_factory.mktemp("ragged"))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    torch.manual_seed(0)
    network = ResNet(18, stem_channels=8, base_channels=4)
    path = tmp_path_factory.mktemp("weights") / "a.pth"
    torch.save(network.state_dict(), path)
    return path


def embed(checkpoint, data, **options):
    return mmssl_ext.embed(checkpoint, data, size=SIZE, device="cpu", **options)


def expected(checkpoint, paths):
    """One image after the other, as a script of one's own would do it."""
    backbone = mmssl_ext.load_backbone(checkpoint)
    backbone.preprocess.size = SIZE
    with torch.no_grad():
        rows = [pooled(backbone(backbone.preprocess(p)[None])) for p in paths]
    return torch.cat(rows).numpy()


@pytest.mark.parametrize("workers", [0, 2])
def test_a_ragged_folder_is_as_a_plain_loop(workers, ragged, checkpoint):
    found = embed(checkpoint, ragged.photos, workers=workers, batch_size=7)
    paths = [str(ragged.photos / n) for n in ragged.names]
    paths.remove(str(ragged.broken))
    assert found.paths == paths and found.labels is None and found.classes == ()
    assert found.features.dtype == np.float32
    np.testing.assert_allclose(
        found.features, expected(checkpoint, paths), rtol=1e-4, atol=1e-5
    )
    ((path, reason),) = found.unreadable
    assert path == str(ragged.broken) and "Truncated" in reason and path not in reason


def test_labels_are_the_folders_that_hold_all_images(ragged, checkpoint, tmp_path):
    found = embed(checkpoint, ragged.train)
    assert found.classes == CLASSES
    assert found.labels.tolist() == [i for i in range(3) for _ in range(PER_CLASS)]
    tree = tmp_path / "tree"
    shutil.copytree(ragged.train, tree)
    (tree / "empty").mkdir()  # numbered, as in training
    (tree / "ant/deep").mkdir()
    (tree / "ant/1.jpg").rename(tree / "ant/deep/1.jpg")
    (tree / "ant/2.jpg").write_bytes(b"")
    found = embed(checkpoint, tree)
    assert found.classes == ("ant", CLASSES[1], "cow", "empty")
    assert found.labels.tolist() == [0] * 3 + [1] * 4 + [2] * 4
    shutil.copy(ragged.turned[1], tree)
    found = embed(checkpoint, tree)
    assert found.labels is None and found.classes == ()


def test_lists_and_shards(ragged, checkpoint, tmp_path):
    names = [ragged.train / "cow/1.jpg", ragged.train / "ant/2.jpg"]
    plain, labelled = tmp_path / "plain.txt", tmp_path / "labelled.txt"
    plain.write_text("".join(f"{x}\n" for x in names))
    labelled.write_text("".join(f"{x} {2 - i}\n" for i, x in enumerate(names)))
    found = embed(checkpoint, plain)
    assert found.paths == list(map(str, names)) and found.labels is None
    again = embed(checkpoint, labelled)
    assert again.labels.tolist() == [2, 1] and again.classes == ("0", "1", "2")
    make_shards(str(ragged.train), str(tmp_path / "shards"))
    folder, shards = (embed(checkpoint, x) for x in (ragged.train, tmp_path / "shards"))
    assert np.array_equal(shards.features, folder.features)
    assert np.array_equal(shards.labels, folder.labels)
    assert shards.classes == folder.classes
    ends = [os.path.relpath(x, ragged.train) for x in folder.paths]
    assert all(x.endswith(y) for x, y in zip(shards.paths, ends, strict=True))


def read_csv(path):
    with open(path, encoding="utf-8", errors="surrogateescape", newline="") as file:
        head, *rows = csv.reader(file)
    labels = [row[1] for row in rows] if head[1] == "label" else None
    values = [row[1 + (labels is not None) :] for row in rows]
    return [row[0] for row in rows], labels, np.array(values, np.float32)


def read_npz(path):
    with np.load(path) as file:
        labels, classes = file["labels"], file["classes"]
        named = None if (labels < 0).all() else [str(classes[i]) for i in labels]
        return [str(x) for x in file["paths"]], named, file["features"]


def read_parquet(path):
    table = pytest.importorskip("pyarrow.parquet").read_table(path)
    names = {
        x: [os.fsdecode(name) for name in table[x].to_pylist()]
        for x in table.column_names[:-1]
    }
    rows = np.array(table["features"].to_pylist(), np.float32)
    return names["path"], names.get("label"), rows


READERS = {"csv": read_csv, "npz": read_npz, "parquet": read_parquet}


@pytest.mark.parametrize("kind", READERS)
def test_files_hold_what_is_returned(kind, ragged, checkpoint, tmp_path):
    """Names that are no UTF-8, or hold line ends, included."""
    if kind == "parquet":
        pytest.importorskip("pyarrow")
    for data in (ragged.photos, ragged.train):
        out = tmp_path / "new" / f"features.{kind}"
        found = embed(checkpoint, data, out=out)
        paths, labels, rows = READERS[kind](out)
        assert paths == found.paths
        named = found.labels is not None
        assert labels == ([found.classes[i] for i in found.labels] if named else None)
        assert np.array_equal(rows, found.features)
        assert os.listdir(out.parent) == [out.name]


def test_names_in_utf8_are_strings_in_parquet(ragged, checkpoint, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    shutil.copytree(ragged.train / "cow", tmp_path / "cow/ä", dirs_exist_ok=True)
    (tmp_path / "cow/ä" / os.fsdecode(b"caf\xe9.jpg")).unlink()
    embed(checkpoint, tmp_path / "cow", out=tmp_path / "a.parquet")
    table = parquet.read_table(tmp_path / "a.parquet")
    assert set(table["label"].to_pylist()) == {"ä"}


def test_images_are_dropped_batch_by_batch(checkpoint, tmp_path, monkeypatch):
    """At any time the images of two batches at most are in memory."""
    for i in range(40):
        Image.new("RGB", (40, 40), (i, 0, 0)).save(tmp_path / f"{i:02}.bmp")
    alive, most = [0], [0]

    class Counted:
        def __del__(self):
            alive[0] -= 1

    collate = reading._collate

    def counted(items):
        batch = collate(items)
        alive[0] += 1
        most[0] = max(most[0], alive[0])
        batch.values.counted = Counted()
        return batch

    monkeypatch.setattr(reading, "_collate", counted)
    found = embed(checkpoint, tmp_path, batch_size=4, workers=0)
    assert len(found.features) == 40 and most[0] <= 2


def test_refusals_are_sentences_before_the_work(ragged, checkpoint, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken/a.jpg").write_bytes(b"x")
    (tmp_path / "file").touch()
    photos = ragged.photos
    cases = [
        (photos, {"out": "x.cvs"}, r"x\.cvs' must end in .*\. Did you mean \.csv\?"),
        (photos, {"out": tmp_path / "file/a.csv"}, "folder .*file' .* cannot be made"),
        (photos, {"batch_size": 0}, "batch_size=0 must be a whole number from 1"),
        (photos, {"workers": -1}, "workers=-1 must be"),
        (tmp_path / "gone", {}, "gone' .* does not exist. Give a folder"),
        (tmp_path / "empty", {}, "No image was found below"),
        (ragged.turned[1], {}, "is one image. Give the folder"),
        (tmp_path / "broken", {}, "None of the 1 images can be read; of .*a.jpg"),
    ]
    for data, options, words in cases:
        with pytest.raises((UserError, FileNotFoundError), match=words):
            embed(checkpoint, data, **options)
    with pytest.raises(UserError, match="no device='gpu' here"):
        mmssl_ext.embed(checkpoint, photos, device="gpu")


def test_a_missing_package_is_named_before_the_work(ragged, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(UserError, match=r'pip install "mmssl_ext\[parquet\]"'):
        embed(tmp_path / "gone.pth", ragged.photos, out=tmp_path / "a.parquet")


def test_the_command(ragged, checkpoint, tmp_path):
    given = [checkpoint, ragged.photos, "--size", SIZE, "--device", "cpu", "--out"]
    done = python("tools/embed.py", *map(str, given), str(tmp_path / "a.csv"))
    assert done.returncode == 0, done.stderr
    assert f"{ragged.num_photos - 1} images, 32 features each: " in done.stdout
    assert "1 images could not be read" in done.stdout
    assert "broken.jpg' cannot be read" in done.stdout + done.stderr
    assert len(read_csv(tmp_path / "a.csv")[0]) == ragged.num_photos - 1
    done = python("tools/embed.py", *map(str, given), "a.txt")
    assert done.returncode == 2
    assert done.stderr.startswith("Error: The output 'a.txt' must end in")
