"""A copy of weights from the net is that of its address and of the server's version."""

from __future__ import annotations

import hashlib
import http.server
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from mmengine.runner.checkpoint import CheckpointLoader

from mmssl_ext.engine.weights import download
from mmssl_ext.engine.weights.download import fetch
from mmssl_ext.engine.weights.files import read_tensors
from mmssl_ext.errors import CheckpointFileError


class Server(http.server.ThreadingHTTPServer):
    """Serves ``files``: path to (content, headers).

    Attributes:
        asked: Paths of all requests.
        sent: Of those with a body.
        knows: Whether If-None-Match is answered by 304.
        cut: Bytes after which a body ends too early.
        gate: Set when bodies may be sent.
    """

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files, self.asked, self.sent = {}, [], []
        self.knows, self.cut, self.gate = True, None, threading.Event()
        self.gate.set()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}"


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        server = self.server
        server.asked.append(self.path)
        if self.path not in server.files:
            self.send_error(404)
            return
        content, headers = server.files[self.path]
        asked = self.headers.get("If-None-Match")
        if server.knows and asked and asked == headers.get("ETag"):
            self.send_response(304)
            self.end_headers()
            return
        self.send_response(200)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        server.gate.wait(10)
        server.sent.append(self.path)
        self.wfile.write(content[: server.cut])

    def log_message(self, *args):
        pass


@pytest.fixture
def server(tmp_path, monkeypatch):
    web = Server()
    thread = threading.Thread(target=web.serve_forever, args=(0.01,))
    thread.start()
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    try:
        yield web
    finally:
        web.shutdown()
        thread.join()
        web.server_close()


@pytest.fixture
def said(monkeypatch):
    texts = []
    monkeypatch.setattr(download, "print_log", lambda text, *_: texts.append(text))
    return texts


@pytest.mark.fault("R41")
def test_the_whole_address_counts(server):
    names = ("/a/epoch_200.pth", "/b/epoch_200.pth", "/a/epoch_200.pth?v=2")
    for i, name in enumerate(names):
        server.files[name] = bytes([i]) * 100, {"ETag": '"1"'}
    for _ in range(2):
        copies = [fetch(server.url + name) for name in names]
        assert [copy.read_bytes()[0] for copy in copies] == [0, 1, 2]
        assert {copy.name for copy in copies} == {"epoch_200.pth"}
    assert server.sent == list(names)  # once each
    assert fetch(f"{server.url}{names[0]}#part") == copies[0]


TIME = "Wed, 21 Oct 2026 07:28:00 GMT"
VERSIONS = {
    "etag": (b"one", {"ETag": '"1"'}, b"two", {"ETag": '"2"'}),
    "time": (
        *(b"one", {"Last-Modified": TIME}),
        *(b"two", {"Last-Modified": TIME.replace("07", "08")}),
    ),
    "size": (b"one", {"Last-Modified": TIME}, b"three", {"Last-Modified": TIME}),
    "nothing": (b"one", {}, b"two", {}),
}


@pytest.mark.fault("R41")
@pytest.mark.parametrize("knows", [True, False], ids=["304", "200"])
@pytest.mark.parametrize("kind", VERSIONS)
def test_a_new_version_is_fetched_and_the_same_is_not(server, said, kind, knows):
    first, facts, second, changed = VERSIONS[kind]
    server.knows = knows
    url = server.url + "/x.pth"
    server.files["/x.pth"] = first, facts
    assert fetch(url).read_bytes() == first
    server.files["/x.pth"] = first[::-1], facts  # no sign of a change
    assert fetch(url).read_bytes() == (first if facts else first[::-1])
    server.files["/x.pth"] = second, changed
    assert fetch(url).read_bytes() == second
    assert said == []


@pytest.mark.parametrize("answer", ["404", "none"])
def test_where_the_server_is_silent_the_copy_serves(server, said, answer):
    server.files["/x.pth"] = b"one", {"ETag": '"1"'}
    url = server.url + "/x.pth"
    fetch(url)
    assert said == []
    server.files.clear()
    if answer == "none":
        server.shutdown()
        server.server_close()
    copy = fetch(url)
    assert copy.read_bytes() == b"one"
    assert f"{url} could not be asked for its version" in said[0]
    assert str(copy) in said[0]
    with pytest.raises(CheckpointFileError, match=r"y\.pth could not be downloaded"):
        fetch(server.url + "/y.pth")  # there is no copy of this one


def test_half_a_download_never_counts(server, tmp_path):
    server.files["/x.pth"] = b"x" * 1000, {"ETag": '"1"'}
    server.cut = 600
    url = server.url + "/x.pth"
    for _ in range(2):
        with pytest.raises(CheckpointFileError, match="broke off after 600 of 1000"):
            fetch(url)
    assert not [p for p in (tmp_path / "cache").rglob("*") if p.name.count("x.pth")]
    server.cut = None
    assert fetch(url).stat().st_size == 1000
    server.files["/x.pth"] = b"y" * 1000, {"ETag": '"2"'}
    server.cut = 600  # a newer version that breaks off is no reason to take the old one
    with pytest.raises(CheckpointFileError, match="broke off"):
        fetch(url)


@pytest.mark.parametrize(
    ("content", "headers", "said"),
    [
        (b"\n<!DOCTYPE html><html>Log in", {}, "leads to a web page, not to a file"),
        (b"version https://git-lfs.github.com/spec/v1\n", {}, "a pointer of Git LFS"),
        (b"", {}, "sends an empty file"),
        (b"x", {"Content-Encoding": "gzip"}, r"encodes it \(gzip\)"),
    ],
)
def test_what_is_no_file_of_weights_is_not_kept(server, content, headers, said):
    """Else the copy would serve as long as the server has the same version."""
    server.files["/x.pth"] = content, {"ETag": '"1"', **headers}
    for _ in range(2):
        with pytest.raises(CheckpointFileError, match=said):
            fetch(server.url + "/x.pth")
    server.files["/x.pth"] = b"weights", {"ETag": '"1"'}
    assert fetch(server.url + "/x.pth").read_bytes() == b"weights"


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
    server.files[asked] = b"weights", {}
    assert fetch(server.url + given).read_bytes() == b"weights"


def test_an_address_of_a_local_file(tmp_path):
    path = tmp_path / "my net.pth"
    torch.save({"a": torch.ones(2)}, path)
    checkpoint = CheckpointLoader.load_checkpoint(path.as_uri(), "cpu", None)
    assert list(checkpoint) == ["a"]
    assert list(read_tensors(path.as_uri())) == ["a"]
    with pytest.raises(CheckpointFileError, match=r"Download ftp://a/b\.pth first"):
        CheckpointLoader.load_checkpoint("ftp://a/b.pth", "cpu", None)


def test_a_copy_that_was_cut_is_fetched_again(server):
    server.files["/x.pth"] = b"x" * 1000, {"ETag": '"1"'}
    copy = fetch(server.url + "/x.pth")
    copy.write_bytes(b"x" * 500)
    assert fetch(server.url + "/x.pth").stat().st_size == 1000


def test_two_at_once_download_once(server):
    server.files["/x.pth"] = b"x" * 1000, {"ETag": '"1"'}
    server.gate.clear()
    with ThreadPoolExecutor(2) as pool:
        copies = [pool.submit(fetch, server.url + "/x.pth") for _ in range(2)]
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
    server.files["/net-00000000.pth"] = b"right", {}
    assert fetch(f"{server.url}/net-00000000.pth").read_bytes() == b"right"


def test_every_rank_takes_the_bytes_of_rank_0(server, monkeypatch):
    """Without a request where the copy lies there; refused where it has changed."""
    server.files["/x.pth"] = b"one", {"ETag": '"1"'}
    url = server.url + "/x.pth"
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
    server.files["/x.pth"] = b"one", {}
    with pytest.raises(CheckpointFileError, match=r"x\.pth .* to .*Set TORCH_HOME"):
        fetch(server.url + "/x.pth")
