"""Weights from the net, kept by their whole address and the server's version."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
from http import HTTPStatus
from http.client import HTTPException
from logging import WARNING
from pathlib import Path
from ssl import SSLError
from typing import Any, NamedTuple
from urllib.error import URLError
from urllib.parse import quote, unquote, urldefrag, urlparse
from urllib.request import Request, url2pathname, urlopen

import torch
from filelock import FileLock
from mmengine.dist import broadcast_object_list, get_rank
from mmengine.logging import print_log

from mmssl_ext.errors import CheckpointFileError
from mmssl_ext.files import drafted, path_named, sha256, write_text

from .published import timm_file, torchvision_url

_PATIENCE = 30.0  # seconds that a server may be silent
_RECORD = ".source.json"
_IN_URLS = "%/:?#[]@!$&'()*+,;=~"  # what need not be escaped, or is already
# How an answer begins that is no file of weights.
_PAGES = {
    b"<!doctype": "a web page",
    b"<html": "a web page",
    b"<?xml": "an XML document",
    b"version https://git-lfs": "a pointer of Git LFS",
}
_NO_WEIGHTS = (
    "{} leads to {}, not to a file of weights. Give the address by which the file "
    "itself is downloaded, or download it and give the path of the file."
)
# What a server says of the version of a file; the first group that it gives counts.
_VERSIONS = (("etag",), ("last-modified", "content-length"))
_OF_THE_NET = (URLError, HTTPException, SSLError, TimeoutError, ConnectionError)


class _Copy(NamedTuple):
    path: Path
    sha256: str
    version: dict[str, str] | None = None


def local_path(path: str | Path) -> Path:
    """The path of a file, given as such or as ``file://``; its ``~`` is replaced.

    ``torchvision:resnet50`` and ``timm:resnet50.a1_in1k`` are the weights that these
    packages publish; they are downloaded once.

    Raises:
        UserTypeError: It is no path.
        CheckpointFileError: It is an address in the net, or published weights cannot be
            had.
    """
    text = path_named("checkpoint", path)
    if text.startswith("torchvision:"):
        return fetch(torchvision_url(text.removeprefix("torchvision:")))
    if text.startswith("timm:"):
        return timm_file(text.removeprefix("timm:"))
    if text.startswith("file://"):
        return Path(url2pathname(urlparse(text).path))
    if "://" in text:
        raise CheckpointFileError(
            f"Download {text} first and give the path of the file."
        )
    return Path(os.path.expanduser(text))


def fetch(url: str) -> Path:
    """Download a file once, and again when the server has another version of it.

    Copies lie in torch's cache, a folder for each address, queries included: files of
    one name from two places are two. The server is asked each time whether its version
    (ETag, or time and size) is still that of the copy; where it does not answer, the
    copy serves, with a warning. All ranks get the bytes of rank 0's copy; nodes that
    share no disk download for themselves.

    Args:
        url: http or https.

    Returns:
        Path of the copy.

    Raises:
        CheckpointFileError: The file cannot be had; the ranks got different ones.
    """
    copy, told = None, [None, ""]  # SHA-256 of rank 0's copy, or what went wrong there
    if get_rank() == 0:
        try:
            copy = _current(url)
            told = [copy.sha256, ""]
        except Exception as error:  # the other ranks wait for it
            told = [None, str(error)]
    broadcast_object_list(told)
    if told[0] is None:
        raise CheckpointFileError(told[1])
    copy = copy or _kept(url)
    if copy is None or copy.sha256 != told[0]:
        copy = _current(url)
    if copy.sha256 != told[0]:
        raise CheckpointFileError(
            f"{url} has changed while the ranks downloaded it: rank {get_rank()} has "
            f"SHA-256 {copy.sha256[:12]}, rank 0 {told[0][:12]}. Start again."
        )
    return copy.path


def _current(url: str) -> _Copy:
    """The copy of what the server has now, or the last one where it is silent."""
    if (known := _of_torch(url)) is not None:
        return known
    folder = _folder(url)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        writable = os.access(folder, os.W_OK)  # else only what lies there can serve
        with FileLock(folder / ".lock") if writable else contextlib.nullcontext():
            return _asked(url, folder, _kept(url))
    except _OF_THE_NET as error:
        raise CheckpointFileError(
            f"{url} could not be downloaded: {error}. Download it on another machine "
            "and give the path of the file."
        ) from error
    except OSError as error:
        raise CheckpointFileError(
            f"{url} could not be downloaded to {folder}: {error}. Set TORCH_HOME to a "
            "folder with room, or download it and give the path of the file."
        ) from error


def _asked(url: str, folder: Path, kept: _Copy | None) -> _Copy:
    """Ask the server once: its answer is read where it has not the copy's version."""
    headers = {"User-Agent": "mmssl_ext", "Accept-Encoding": "identity"}
    if kept and kept.version and "etag" in kept.version:
        headers["If-None-Match"] = kept.version["etag"]
    try:  # blanks and letters beyond ASCII are escaped
        request = Request(quote(url, _IN_URLS), headers=headers)
        answer = urlopen(request, timeout=_PATIENCE)
    except _OF_THE_NET as error:
        if kept is None:
            raise
        if getattr(error, "code", None) != HTTPStatus.NOT_MODIFIED:
            print_log(
                f"{url} could not be asked for its version ({error}); the copy of an "
                f"earlier download serves: {kept.path}.",
                "current",
                WARNING,
            )
        return kept
    with answer:
        version = _version(answer)
        if kept and version and kept.version == version:
            return kept
        return _received(url, folder, answer, version)


def _received(url: str, folder: Path, answer: Any, version: Any) -> _Copy:
    """Write down an answer, whole or not at all."""
    if coding := answer.headers.get("content-encoding"):
        raise HTTPException(f"the server encodes it ({coding})")
    path, record = folder / _name(url), folder / _RECORD
    expected = answer.headers.get("content-length") or ""
    digest, size = hashlib.sha256(), 0
    with drafted(path, durable=True) as draft:
        with draft.open("wb") as file:
            while block := answer.read(1 << 20):
                beginning = block[:200].lstrip().lower() if not size else b""
                for known, what in _PAGES.items():
                    if beginning.startswith(known):
                        raise CheckpointFileError(_NO_WEIGHTS.format(url, what))
                file.write(block)
                digest.update(block)
                size += len(block)
        if expected.isdigit() and size != int(expected):
            raise HTTPException(f"broke off after {size} of {expected} bytes")
        if not size:
            raise HTTPException("the server sends an empty file")
        record.unlink(missing_ok=True)  # never one beside a file of another version
    facts = {"version": version, "sha256": digest.hexdigest(), "bytes": size}
    write_text(record, json.dumps(facts), durable=True)
    return _Copy(path, digest.hexdigest(), version)


def _version(answer: Any) -> dict[str, str] | None:
    """What the server says of the version of a file; None where it says nothing."""
    for names in _VERSIONS:
        found = {name: answer.headers.get(name) for name in names}
        if all(found.values()):
            return found
    return None


def _kept(url: str) -> _Copy | None:
    """The whole copy of an earlier download."""
    folder = _folder(url)
    path = folder / _name(url)
    try:
        record = json.loads((folder / _RECORD).read_text(encoding="utf-8"))
        whole = path.stat().st_size == record["bytes"]
        copy = _Copy(path, record["sha256"], record.get("version"))
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return None
    return copy if whole else None


def _of_torch(url: str) -> _Copy | None:
    """A file that torch or the user put into torch's cache, if its name proves it.

    Published files bear the beginning of their SHA-256: ``resnet50-11ad3fa6.pth``.
    """
    path = Path(torch.hub.get_dir(), "checkpoints", _name(url))
    named = re.search(r"-([0-9a-f]{8,64})\.\w+$", path.name)
    if named is None or not path.is_file():
        return None
    digest = sha256(path)
    return _Copy(path, digest) if digest.startswith(named[1]) else None


def _folder(url: str) -> Path:
    key = hashlib.sha256(urldefrag(url).url.encode()).hexdigest()[:24]
    return Path(torch.hub.get_dir(), "checkpoints", "mmssl_ext", key)


def _name(url: str) -> str:
    name = Path(unquote(urlparse(url).path)).name
    return name.encode()[-150:].decode(errors="ignore") or "weights"
