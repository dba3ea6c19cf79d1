"""A copy of weights from the net is that of its address and of the server's version."""

from __future__ import annotations

import hashlib
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from mmengine.runner.checkpoint import CheckpointLoader

from mmssl_ext.engine.weights import download
from mmssl_ext.engine.weights.download import fetch
from mmssl_ext.engine.weights.files import read_tensors
from mmssl_ext.errors import CheckpointFileError
from tests.webserver import serving


@pytest.fixture
def server(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with serving() as web:
        yield web


@pytest.fixture
def said(monkeypatch):
    texts = []
    monkeypatch.setattr(download, "print_log", lambda text, *_: texts.append(text))
    return texts


@pytest.mark.fault("R41")
def test_the_whole_address_counts(server):
    names = ("/a/epoch_200.pth", "/b/epoch_200.pth", "/a/epoch_200.pth?v=2")
    for i, name in enumerate(names):
        server.put(bytes([i]) * 100, name, ETag='"1"')
    for _ in range(2):
        copies = [fetch(server.url + name) for name in names]
        assert [copy.read_bytes()[0] for copy in copies] == [0, 1, 2]
        assert {copy.name for copy in copies} == {"epoch_200.pth"}
    assert server.sent == list(names)  # once each
    assert fetch(f"{server.url}{names[0]}#part") == copies[0]


TIME = "Wed, 21 Oct 2026 07:28:00 GMT"
VERSIONS = {  # what is said of b"one", and another file with what is said of it
    "etag": ({"ETag": '"1"'}, b"two", {"ETag": '"2"'}),
    "time": ({"Last_Modified": TIME}, b"two", {"Last_Modified": f"{TIME[:-5]}2 GMT"}),
    "size": ({"Last_Modified": TIME}, b"three", {"Last_Modified": TIME}),
    "nothing": ({}, b"two", {}),
}


@pytest.mark.fault("R41")
@pytest.mark.parametrize(
    ("kind", "knows"), [("etag", True), *((kind, False) for kind in VERSIONS)]
)
def test_a_new_version_is_fetched_and_the_same_is_not(server, said, kind, knows):
    facts, other, changed = VERSIONS[kind]
    server.knows = knows  # and answers 304, else 200
    assert fetch(server.put(b"one", **facts)).read_bytes() == b"one"
    url = server.put(b"eno", **facts)  # no sign of a change
    assert fetch(url).read_bytes() == (b"one" if facts else b"eno")
    assert fetch(server.put(other, **changed)).read_bytes() == other
    assert said == []


@pytest.mark.parametrize("answer", ["404", "none"])
def test_where_the_server_is_silent_the_copy_serves(server, said, answer):
    fetch(url := server.put(b"one", ETag='"1"'))
    server.files.clear()
    if answer == "none":
        server.shutdown()
        server.server_close()
    assert said == []
    copy = fetch(url)
    assert copy.read_bytes() == b"one"
    assert f"{url} could not be asked for its version" in said[0]
    assert str(copy) in said[0]
    with pytest.raises(CheckpointFileError, match=r"y\.pth could not be downloaded"):
        fetch(server.url + "/y.pth")  # there is no copy of this one


def test_half_a_download_never_counts(server, tmp_path):
    url = server.put(b"x" * 1000, ETag='"1"')
    server.cut = 600
    for _ in range(2):
        with pytest.raises(CheckpointFileError, match="broke off after 600 of 1000"):
            fetch(url)
    assert not [p for p in (tmp_path / "cache").rglob("*") if p.name.count("x.pth")]
    server.cut = None
    copy = fetch(url)
    assert copy.stat().st_size == 1000
    copy.write_bytes(b"x" * 500)  # one that was cut later is fetched again
    assert fetch(url).stat().st_size == 1000
    server.put(b"y" * 1000, ETag='"2"')
    server.cut = 600  # a newer version that breaks off is no reason to take the old one
    with pytest.raises(CheckpointFileError, match="broke off"):
        fetch(url)


@pytest.mark.parametrize(
    ("content", "headers", "said"),
    [
        (b"\n<!DOCTYPE html><html>Log in", {}, "leads to a web page, not to a file"),
        (b"version https://git-lfs.github.com/spec/v1\n", {}, "a pointer of Git LFS"),
        (b"", {}, "sends an empty file"),
        (b"x", {"Content_Encoding": "gzip"}, r"encodes it \(gzip\)"),
    ],
)
def test_what_is_no_file_of_weights_is_not_kept(server, content, headers, said):
    """Else the copy would serve as long as the server has the same version."""
    url = server.put(content, ETag='"1"', **headers)
    for _ in range(2):
        with pytest.raises(CheckpointFileError, match=said):
            fetch(url)
    server.put(b"weights", ETag='"1"')
    assert fetch(url).read_bytes() == b"weights"


@pytest.mark.parametrize(
    ("given", "asked"),
    [
        ("/my net.pth", "/my%20net.pth"),
        ("/my%20net.pth", "/my%20net.pth"),
        ("/größe.pth?a=1&b=%2F", "/gr%C3%B6%C3%9Fe.pth?a=1&b=%2F"),
        (f"/{'n' * 300}.pth", f"/{'n' * 300}.pth"),
    ],
)
def test_any_name_of_a_file_will_do(server, given, asked):
    server.put(b"weights", asked)
    assert fetch(server.url + given).read_bytes() == b"weights"


def test_an_address_of_a_local_file(tmp_path):
    path = tmp_path / "my net.pth"
    torch.save({"a": torch.ones(2)}, path)
    checkpoint = CheckpointLoader.load_checkpoint(path.as_uri(), "cpu", None)
    assert list(checkpoint) == ["a"]
    assert list(read_tensors(path.as_uri())) == ["a"]
    with pytest.raises(CheckpointFileError, match=r"Download ftp://a/b\.pth first"):
        CheckpointLoader.load_checkpoint("ftp://a/b.pth", "cpu", None)


def test_two_at_once_download_once(server):
    url = server.put(b"x" * 1000, ETag='"1"')
    server.gate.clear()
    with ThreadPoolExecutor(2) as pool:
        copies = [pool.submit(fetch, url) for _ in range(2)]
        threading.Timer(0.2, server.gate.set).start()
        assert {copy.result(20).stat().st_size for copy in copies} == {1000}
    assert server.sent == ["/x.pth"]


def test_a_file_in_torchs_cache_counts_if_its_name_proves_it(server, tmp_path):
    """As torchvision's are named; one put there by hand needs no server."""
    folder = tmp_path / "cache" / "checkpoints"
    folder.mkdir(parents=True)
    digest = hashlib.sha256(b"known").hexdigest()[:8]
    (folder / f"net-{digest}.pth").write_bytes(b"known")
    assert fetch(f"{server.url}/net-{digest}.pth").read_bytes() == b"known"
    assert server.asked == []
    (folder / "net-00000000.pth").write_bytes(b"unknown")
    assert fetch(server.put(b"right", "/net-00000000.pth")).read_bytes() == b"right"


def test_every_rank_takes_the_bytes_of_rank_0(server, monkeypatch):
    """Without a request where the copy lies there; refused where it has changed."""
    url = server.put(b"one", ETag='"1"')
    first = hashlib.sha256(b"one").hexdigest()
    monkeypatch.setattr(download, "get_rank", lambda: 1)
    told = [first, ""]

    def broadcast(values):
        values[:] = told

    monkeypatch.setattr(download, "broadcast_object_list", broadcast)
    assert fetch(url).read_bytes() == b"one"  # a node without the file
    assert fetch(url).read_bytes() == b"one"
    assert server.asked == ["/x.pth"]
    told[0] = hashlib.sha256(b"two").hexdigest()
    with pytest.raises(CheckpointFileError, match="changed while the ranks"):
        fetch(url)
    told[:] = [None, "rank 0 could not"]
    with pytest.raises(CheckpointFileError, match="rank 0 could not"):
        fetch(url)


def test_a_full_or_closed_disk_is_named(server, tmp_path):
    (tmp_path / "cache").write_text("a file where the cache should be")
    with pytest.raises(CheckpointFileError, match=r"x\.pth .* to .*Set TORCH_HOME"):
        fetch(server.put(b"one"))
