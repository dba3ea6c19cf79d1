"""Shards: equal to the folder they were made from, and clear about damage."""

from __future__ import annotations

import copy
import os
import pickle
import shutil
import tarfile
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest
import torch

from mmssl_ext.datasets import (
    ImageList,
    ImageShards,
    UnreadableImageError,
    shard_writer,
)
from mmssl_ext.datasets import shards as shards_module
from mmssl_ext.datasets.shard_writer import make_shards, read_size
from mmssl_ext.datasets.shards import ShardError, ShardIndex
from mmssl_ext.registry import DATASETS
from tests.harness import call_tool

from .helpers import EVALUATION, TWO_VIEWS, loader, picture

# In the order of a walk: by name in each folder, where "a" precedes "a-b" and "a.jpg".
NAMES = [
    "a/1.jpg",
    "a/2/deep.PNG",
    f"a/{'long' * 30}.jpg",
    "a-b/é ü.jpg",
    "a.jpg",
    "b/1.JPEG",
    "b/x.y.jpg",
    os.fsdecode(b"c\xff/not utf-8 \xe9.jpg"),
    "stray.jpg",
]


@pytest.fixture(autouse=True)
def _no_waiting_for_the_disk(monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.fixture
def folder(tmp_path):
    """Images of all kinds of names, an empty class, and what is no image."""
    root = tmp_path / "images"
    for i, name in enumerate(NAMES):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        picture(i, (40 + i, 36)).save(path, format="PNG" if i % 2 else "JPEG")
        os.utime(path, (1_600_000_000 + i, 1_600_000_000 + i))
    (root / "empty").mkdir()
    (root / "a" / "notes.txt").write_text("no image")
    (root / ".hidden.jpg").write_text("hidden")
    return str(root)


@pytest.fixture
def made(folder, tmp_path):
    """The same in shards of about three images."""
    make_shards(folder, str(tmp_path / "made"), shard_size=9000)
    return str(tmp_path / "made")


def items(dataset, **kwargs):
    """What the model sees, by sample: views, label, index."""
    found = {}
    for batch in loader(dataset, **kwargs):
        for i, sample in enumerate(batch["data_samples"]):
            views = torch.stack([view[i] for view in batch["inputs"]])
            label = sample.gt_label.item() if "gt_label" in sample else None
            found[sample.sample_idx] = (views, label)
    return [found[i] for i in sorted(found)]


def assert_equal(one, two):
    assert len(one) == len(two) > 0
    for (views, label), (others, other) in zip(one, two, strict=True):
        assert torch.equal(views, others)
        assert label == other


def contents(root):
    root = Path(root)
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*.*")}


# -- The same as the folder ------------------------------------------------------------


@pytest.mark.parametrize("labels", ["none", "subfolders"])
@pytest.mark.parametrize("max_images", [None, 5])
def test_a_run_sees_exactly_what_the_folder_gives(folder, made, labels, max_images):
    kwargs = dict(pipeline=TWO_VIEWS, labels=labels, max_images=max_images)
    files = DATASETS.build(dict(type="ImageFolder", root=folder, **kwargs))
    shards = DATASETS.build(dict(type="ImageShards", root=made, **kwargs))
    assert len(shards) == len(files) == (max_images or 9 - 2 * (labels != "none"))
    assert shards.fingerprint() == files.fingerprint()
    assert shards.metainfo == files.metainfo
    assert np.array_equal(shards.labels, files.labels)  # None equals None
    if labels == "subfolders":
        classes = ("a", "a-b", "b", os.fsdecode(b"c\xff"), "empty")
        assert shards.metainfo["classes"] == classes
        assert shards.labels.dtype == files.labels.dtype
    for epoch, workers in ((0, 0), (1, 2)):
        files.set_augmentation_seed(7, epoch)
        shards.set_augmentation_seed(7, epoch)
        seen = items(shards, num_workers=workers, shuffle=True)
        assert_equal(seen, items(files))


def test_tar_files_are_plain_and_the_index_points_into_them(folder, made):
    index = ShardIndex.load(made)
    assert len(index.shards) > 2
    dataset = ImageShards(made)
    assert [dataset.name(row) for row in range(len(dataset))] == NAMES
    assert dataset.get_data_info(0)["img_path"] == f"{made}/shard-00000.tar/a/1.jpg"
    found = []
    for number, name in enumerate(index.shards):
        assert os.path.getsize(f"{made}/{name}") % 10240 == 0
        with tarfile.open(f"{made}/{name}", errors="surrogateescape") as tar:
            for member in tar:
                assert member.isreg() and member.mode == 0o644
                assert member.mtime == 1_600_000_000 + len(found)
                place = (number, member.offset_data, member.size)
                found.append((member.name, *place))
                source = Path(folder, member.name).read_bytes()
                assert tar.extractfile(member).read() == source
    columns = (index.names, index.shard, index.offset, index.size)
    assert found == list(zip(*columns, strict=True))


def test_shards_end_after_the_size_that_was_asked_for(folder, tmp_path):
    (tmp_path / "full").mkdir()  # an archive ends also where its last record is full
    (tmp_path / "full" / "x.jpg").write_bytes(bytes(10240 - 512))
    make_shards(str(tmp_path / "full"), str(tmp_path / "one"))
    assert (tmp_path / "one" / "shard-00000.tar").stat().st_size == 20480
    limit = 6000
    index = make_shards(folder, str(tmp_path / "made"), shard_size=limit)
    ends = index.offset + index.size + -index.size % 512
    for number in range(len(index.shards)):
        mine = np.flatnonzero(index.shard == number)
        assert (ends[mine[:-1]] < limit).all()  # the last image began before it
        assert ends[mine[-1]] >= limit or number == len(index.shards) - 1
    assert (np.diff(index.shard) >= 0).all()


def test_a_list_gives_its_order_and_labels(folder, tmp_path):
    lines = [f"stray.jpg 2\n{folder}/b/1.JPEG 0\n./a/1.jpg 2\nstray.jpg 2\n"]
    (tmp_path / "list.txt").write_text("".join(lines))
    listed = ImageList(str(tmp_path / "list.txt"), folder, EVALUATION)
    make_shards(folder, str(tmp_path / "made"), str(tmp_path / "list.txt"))
    shards = ImageShards(str(tmp_path / "made"), EVALUATION, labels="list")
    assert shards.fingerprint() == listed.fingerprint()
    assert shards.metainfo == listed.metainfo == {"classes": ("0", "1", "2")}
    assert shards.labels.tolist() == [2, 0, 2, 2]
    assert_equal(items(shards), items(listed))
    assert ImageShards(str(tmp_path / "made")).labels is None
    with pytest.raises(ShardError, match='set labels="list"'):
        ImageShards(str(tmp_path / "made"), labels="subfolders")
    (tmp_path / "plain.txt").write_text("b/1.JPEG\nstray.jpg\na/1.jpg\n")
    make_shards(folder, str(tmp_path / "plain"), str(tmp_path / "plain.txt"))
    plain = ImageShards(str(tmp_path / "plain"), labels="subfolders")
    assert plain.labels.tolist() == [2, 0]
    for name in ("../images/a/1.jpg", "/elsewhere/1.jpg"):
        (tmp_path / "list.txt").write_text(f"a.jpg\n{name}\n")
        with pytest.raises(ShardError, match="not below"):
            make_shards(folder, str(tmp_path / "new"), str(tmp_path / "list.txt"))
    assert not (tmp_path / "new").exists()


# -- Processes, descriptors, memory ----------------------------------------------------


def read_all(dataset):
    return [dataset.read(int(row))["img_bytes"] for row in dataset._rows]


def open_shards(made):
    links = Path("/proc/self/fd").iterdir()
    return sum(os.path.realpath(link).startswith(f"{made}/shard-") for link in links)


@pytest.mark.parametrize(
    "copied", [copy.deepcopy, lambda d: pickle.loads(pickle.dumps(d))]
)
def test_copies_open_the_shards_anew(made, copied):
    dataset = ImageShards(made)
    expected, before = read_all(dataset), open_shards(made)
    twin = copied(dataset)
    assert before == len(dataset.index.shards)
    assert open_shards(made) == before
    assert read_all(twin) == expected
    assert open_shards(made) == 2 * before
    for file in dataset._open.values():  # the position is what forked processes share
        assert os.lseek(file.descriptor, 0, os.SEEK_CUR) == 0
    del dataset, file
    assert open_shards(made) == before
    assert read_all(twin) == expected


def test_few_files_are_open_at_once(made, monkeypatch):
    monkeypatch.setattr(shards_module, "_MAX_OPEN", 2)
    dataset = ImageShards(made)
    expected = read_all(ImageShards(made))
    for row in np.random.permutation(np.arange(len(dataset)).repeat(20)):
        assert dataset.read(int(row))["img_bytes"] == expected[row]
        assert open_shards(made) <= 2
    assert len(dataset.index.shards) > 2


def test_short_reads_are_completed(made, monkeypatch):
    expected, pread = read_all(ImageShards(made)), os.pread
    monkeypatch.setattr(os, "pread", lambda f, n, at: pread(f, min(n, 1000), at))
    assert max(map(len, expected)) > 1000
    assert read_all(ImageShards(made)) == expected


# -- Damage ----------------------------------------------------------------------------


def rewrite(made, **changes):
    """Change arrays of an index; by a function of the old value, or None to drop it."""
    with np.load(f"{made}/index.npz") as file:
        arrays = dict(file)
    for name, change in changes.items():
        value = arrays.pop(name)
        if change is not None:
            arrays[name] = change(value)
    np.savez(f"{made}/index.npz", **arrays)


def changed(row, value):
    def change(array):
        array = array.copy()
        array[row] = value
        return array

    return change


INDEX_DAMAGE = {
    "text": lambda d: (d / "index.npz").write_text("no npz"),
    "empty": lambda d: (d / "index.npz").write_bytes(b""),
    "half": lambda d: os.truncate(d / "index.npz", 3000),
    "npy": lambda d: np.save((d / "index.npz").open("wb"), np.zeros(3)),
    "other npz": lambda d: np.savez(d / "index.npz", x=np.zeros(3)),
    "pickle": lambda d: rewrite(d, names=lambda a: np.array([{}], object)),
    "an array less": lambda d: rewrite(d, offset=None),
    "a row less": lambda d: rewrite(d, size=lambda a: a[1:]),
    "floats": lambda d: rewrite(d, offset=lambda a: a.astype(float)),
    "scalar names": lambda d: rewrite(d, names_ends=lambda a: a[0]),
    "names cut": lambda d: rewrite(d, names=lambda a: a[:-1]),
    "names crossed": lambda d: rewrite(d, names_ends=changed(3, 1)),
    "past the end": lambda d: rewrite(d, offset=changed(4, 10**6)),
    "before the start": lambda d: rewrite(d, offset=changed(4, -1)),
    "overflowing": lambda d: rewrite(d, size=changed(4, 2**63 - 1)),
    "negative size": lambda d: rewrite(d, size=changed(4, -5)),
    "no such shard": lambda d: rewrite(d, shard=changed(4, 77)),
    "shard -1": lambda d: rewrite(d, shard=changed(4, -1)),
    "no such class": lambda d: rewrite(d, labels=changed(4, 77)),
    "odd labels": lambda d: rewrite(d, labels_from=lambda a: np.array("guess")),
}


@pytest.mark.parametrize("kind", INDEX_DAMAGE)
def test_a_damaged_index_is_named(made, kind):
    INDEX_DAMAGE[kind](Path(made))
    with pytest.raises(ShardError, match="is damaged") as caught:
        ImageShards(made)
    assert f"'{made}/index.npz'" in str(caught.value)


def test_an_index_of_another_version_is_refused(made):
    rewrite(made, version=lambda v: v + 1, offset=None)
    with pytest.raises(ShardError, match=r"has format 2.* reads format 1"):
        ImageShards(made)


@pytest.mark.parametrize(("change", "word"), [(-1, "truncated"), (1, "another")])
def test_a_shard_that_is_missing_or_of_another_size_is_named(made, change, word):
    path = f"{made}/shard-00001.tar"
    size = os.path.getsize(path)
    os.truncate(path, size + change)
    with pytest.raises(ShardError, match=f"shard-00001.tar' has {size + change}") as e:
        ImageShards(made)
    assert f"had {size}" in str(e.value) and "it is truncated or another" in str(
        e.value
    )
    os.remove(path)
    with pytest.raises(FileNotFoundError, match=r"00001.tar' is missing. Copy it"):
        ImageShards(made)


def test_folders_without_shards_are_explained(folder, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere.*does not exist"):
        ImageShards(str(tmp_path / "nowhere"))
    with pytest.raises(FileNotFoundError, match="use the dataset ImageFolder"):
        ImageShards(folder)
    with pytest.raises(ValueError, match="labels must be"):
        ImageShards(folder, labels="folders")
    shutil.copytree(f"{folder}/a/2", tmp_path / "flat")
    make_shards(str(tmp_path / "flat"), str(tmp_path / "made"))
    with pytest.raises(FileNotFoundError, match="no image that belongs to a class"):
        ImageShards(str(tmp_path / "made"), labels="subfolders")


@pytest.mark.parametrize(
    ("first", "reason"), [(1, "the shard ends before the image"), (0, "No such file")]
)
def test_a_shard_that_breaks_during_a_run(made, first, reason):
    strict = ImageShards(made, EVALUATION)
    lenient = ImageShards(made, EVALUATION, on_error="skip")
    assert set(strict.index.shard[:2]) == {0}
    if first == 1:
        os.truncate(f"{made}/shard-00000.tar", strict.index.offset[1] + 100)
    else:
        os.remove(f"{made}/shard-00000.tar")
    bad = f"{made}/shard-00000.tar/{NAMES[first]}"
    with pytest.raises(UnreadableImageError, match=reason) as caught:
        list(loader(strict))
    assert f"'{bad}'" in str(caught.value)
    assert "Restore this shard" in str(caught.value)
    samples = []
    for batch in loader(lenient, num_workers=1):
        samples += batch["data_samples"]
    lost = [i for i in range(len(lenient)) if lenient.index.shard[i] == 0][first:]
    assert [i for i, sample in enumerate(samples) if sample.skipped] == lost
    assert samples[first].skipped[0] == bad


# -- Conversion ------------------------------------------------------------------------


def test_an_interrupted_conversion_is_recognised_and_starts_anew(
    folder, made, tmp_path, monkeypatch
):
    out, add = tmp_path / "out", shard_writer._Writer.add

    def stop(self, name, data, mtime):
        if name == NAMES[7]:
            raise KeyboardInterrupt
        return add(self, name, data, mtime)

    with monkeypatch.context() as patch:
        patch.setattr(shard_writer._Writer, "add", stop)
        with pytest.raises(KeyboardInterrupt):
            make_shards(folder, str(out), shard_size=1)
    assert (out / "shard-00006.tar").exists()  # more of them than the next attempt has
    with pytest.raises(FileNotFoundError, match="is still running or was inter"):
        ImageShards(str(out))
    (out / "mine.tar").write_text("of the user")
    make_shards(folder, str(out), shard_size=9000)
    assert (out / "mine.tar").read_text() == "of the user"
    (out / "mine.tar").unlink()
    assert contents(out) == contents(made)


def test_the_shards_are_on_the_disk_before_the_index(folder, tmp_path, monkeypatch):
    events, write = [], shards_module.write_bytes
    out = str(tmp_path / "out")

    def sync(descriptor):
        path = os.path.realpath(f"/proc/self/fd/{descriptor}")
        events.append((os.path.basename(path), os.path.getsize(path)))

    def note(path, data):
        events.append(path.name)
        write(path, data)

    monkeypatch.setattr(os, "fsync", sync)
    monkeypatch.setattr(shards_module, "write_bytes", note)
    index = make_shards(folder, out, shard_size=9000)
    shards = zip(index.shards, index.shard_sizes.tolist(), strict=True)
    assert events == [*shards, "index.npz"]


def test_the_index_comes_last(folder, tmp_path, monkeypatch):
    def fail(path, data):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shards_module, "write_bytes", fail)
    with pytest.raises(ShardError, match=r"No space left.*starts anew"):
        make_shards(folder, str(tmp_path / "out"))
    with pytest.raises(FileNotFoundError, match="not complete"):
        ImageShards(str(tmp_path / "out"))


def test_nothing_is_overwritten(folder, made):
    before = contents(made)
    with pytest.raises(ShardError, match="holds complete shards already"):
        make_shards(folder, made)
    assert contents(made) == before
    os.remove(f"{made}/index.npz")  # tar files of whoever
    del before["index.npz"]
    with pytest.raises(ShardError, match="holds something else already"):
        make_shards(folder, made)
    with pytest.raises(ShardError, match="holds something else already"):
        make_shards(folder, f"{made}/shard-00000.tar")
    assert contents(made) == before


def test_absent_images_are_named_before_anything_is_written(folder, tmp_path):
    Path(folder, "gone.jpg").symlink_to(tmp_path / "nothing")
    os.mkfifo(f"{folder}/pipe.jpg")  # would be waited for without an end
    named = r"1 of the 10 images .* missing.*: 'gone\.jpg'\. Restore"
    with pytest.raises(ShardError, match=named):  # the pipe is no image of the folder
        make_shards(folder, str(tmp_path / "out"))
    (tmp_path / "list.txt").write_text("a.jpg\ngone.jpg\npipe.jpg\n")
    named = r"2 of the 3 images .* missing.*: 'gone\.jpg', 'pipe\.jpg'\. Restore"
    with pytest.raises(ShardError, match=named):
        make_shards(folder, str(tmp_path / "out"), str(tmp_path / "list.txt"))
    assert not (tmp_path / "out").exists()


def test_images_that_vanish_meanwhile_are_named(folder, tmp_path, monkeypatch):
    gone = lambda *args: os.remove(f"{folder}/b/1.JPEG")  # noqa: E731
    monkeypatch.setattr(shard_writer, "_check_space", gone)
    with pytest.raises(ShardError, match=r"b/1.JPEG' cannot be read: No such file"):
        make_shards(folder, str(tmp_path / "out"))


def test_the_disk_is_looked_at_first(tmp_path, monkeypatch):
    root = tmp_path / "images"
    root.mkdir()
    for i in range(200):  # names and padding count more than the images
        (root / f"{'long' * 30}{i:03d}.jpg").write_bytes(bytes(513))
    make_shards(str(root), str(tmp_path / "made"))
    written = sum(map(len, contents(tmp_path / "made").values()))
    usage = namedtuple("usage", "free")
    out = str(tmp_path / "new" / "out")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(written - 1))
    with pytest.raises(ShardError, match=r"need .* free\. Make room"):
        make_shards(str(root), out)
    assert not os.path.exists(out)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(1.05 * written))
    make_shards(str(root), out)


def test_sizes_in_words():
    sizes = {"1G": 10**9, "1.5g": 1_500_000_000, "500M": 5 * 10**8, "10kB": 10**4}
    assert {text: read_size(text) for text in (*sizes, "7")} == {**sizes, "7": 7}
    for text in ("", "G", "1X", "-1G", "1 000"):
        with pytest.raises(ShardError, match="is no size"):
            read_size(text)


# -- The tool --------------------------------------------------------------------------


def test_the_tool_converts_and_verifies(tmp_path, monkeypatch, capsys):
    def run(*args):
        return call_tool("make_shards", monkeypatch, capsys, *args)

    source, out = tmp_path / "images", tmp_path / "out"
    for i in range(100):
        (source / f"c{i % 3}").mkdir(parents=True, exist_ok=True)
        picture(i % 5).save(source / f"c{i % 3}" / f"{i:03d}.png")
    args = (source, out, "--shard-size", "50k", "--verify")
    code, text, _ = run(*args)
    tenths = [line for line in text.splitlines() if line.startswith("Copied: ")]
    assert tenths[0] == "Copied: 10 of 100." and len(tenths) == 10
    sizes = [p.stat().st_size for p in out.glob("*.tar")]
    images = sum(p.stat().st_size for p in source.rglob("*.png"))
    assert (
        f"100 images in {len(sizes)} shards, {sum(sizes) / 1e3:.1f} kB (images alone "
        f"{images / 1e3:.1f} kB), 3 classes: {out}\n" in text
    )
    assert code == 0 and len(sizes) > 1
    assert text.endswith("Every image can be decoded.\n")
    code, _, errors = run(*args)
    assert code == 2 and "holds complete shards already" in errors
    for name in ("c1/022.png", "c0/030.png"):
        (source / name).write_bytes(b"nothing")
    shutil.rmtree(out)
    assert run(source, out)[0] == 0
    code, text, errors = run(out, "--verify", "--workers", 0)
    listed = [line for line in text.splitlines() if "cannot be read" in line]
    assert code == 2 and len(listed) == 2 and "2 of the 100 images" in errors
    assert "/shard-00000.tar/c0/030.png'" in listed[0]
    assert "/shard-00000.tar/c1/022.png'" in listed[1]
    for options in ("x", "x --verify --list l", ""):
        with pytest.raises(SystemExit):
            run(*options.split())
