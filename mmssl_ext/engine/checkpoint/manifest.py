"""Manifests: what a checkpoint must be and where it comes from, as JSON beside it.

The manifest of ``epoch_3.pth`` is ``epoch_3.pth.json``. It is written when the file is
complete, verified and on the disk, and removed before a file of that name is replaced:
a manifest beside a file always means that very file.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

import mmssl_ext
from mmssl_ext.errors import UserValueError
from mmssl_ext.files import flush, write_text

FORMAT = 1  # of the manifest; readers need ``bytes``, ``sha256`` and ``checksum``
_LARGEST = 1 << 16  # bytes of a manifest
_DRAFT = re.compile(r"\.(last_checkpoint|.+\.pth?(\.json)?)\.\d+\.tmp")


class ManifestError(UserValueError):
    """A manifest cannot be relied on; the message is a part of a sentence."""


def manifest_path(checkpoint: Path) -> Path:
    """Where the manifest of a checkpoint is."""
    return checkpoint.with_name(f"{checkpoint.name}.json")


def write_manifest(checkpoint: Path, sha256: str, facts: dict[str, Any]) -> None:
    """Describe a complete checkpoint; the manifest is on the disk afterwards.

    Args:
        checkpoint: Path of the file.
        sha256: Of its bytes.
        facts: What else the manifest says: ``kind`` (``regular``, ``interim``: only
            until the next regular one, ``best``), ``epoch``, ``iter``, ``world_size``,
            ``global_batch`` (images per step of the optimizer), ``config_sha256``,
            ``method`` and ``run``.
    """
    manifest = {
        "format": FORMAT,
        "file": checkpoint.name,
        "bytes": checkpoint.stat().st_size,
        "sha256": sha256,
        **facts,
        "torch": str(torch.__version__),
        "mmssl_ext": mmssl_ext.__version__,
        "time": datetime.datetime.now().astimezone().isoformat("T", "seconds"),
    }
    manifest["checksum"] = _checksum(manifest)
    text = json.dumps(manifest, indent=2) + "\n"
    write_text(manifest_path(checkpoint), text, durable=True)


def read_manifest(checkpoint: Path) -> dict[str, Any] | None:
    """Return the manifest of a checkpoint; ``None`` where it has none.

    Raises:
        ManifestError: It is damaged, which says nothing about the checkpoint.
    """
    path = manifest_path(checkpoint)
    try:
        with path.open("rb") as file:
            manifest = json.loads(file.read(_LARGEST))
        checksum = manifest.pop("checksum")
        size, sha256 = manifest["bytes"], manifest["sha256"]
        whole = isinstance(size, int) and re.fullmatch("[0-9a-f]{64}", str(sha256))
        found = _checksum(manifest)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ManifestError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ManifestError(f"{path} is no manifest") from error
    if found != checksum or not whole:
        raise ManifestError(f"{path} is damaged or was edited")
    return manifest


def manifests(folder: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Paths that the readable manifests of a folder describe, and what they say."""
    for path in sorted(folder.glob("*.*.json")):
        checkpoint = path.with_name(path.name.removesuffix(".json"))
        try:
            manifest = read_manifest(checkpoint)
        except ManifestError:
            continue
        if manifest is not None:
            yield checkpoint, manifest


def remove_manifest(checkpoint: Path) -> None:
    """Remove the manifest of a file that is about to be replaced, and wait for it."""
    path = manifest_path(checkpoint)
    if path.is_file():
        path.unlink()
        flush(path.parent)


def remove_checkpoint(path: Path) -> None:
    """Remove a checkpoint, and then its manifest."""
    path.unlink(missing_ok=True)
    manifest_path(path).unlink(missing_ok=True)


def remove_leftovers(folder: Path) -> None:
    """Remove what a killed run left: drafts, and manifests of files that are gone."""
    for draft in folder.glob(".*.tmp"):
        if _DRAFT.fullmatch(draft.name):
            draft.unlink(missing_ok=True)
    for checkpoint, _ in manifests(folder):
        if not checkpoint.exists():
            manifest_path(checkpoint).unlink(missing_ok=True)


def _checksum(manifest: dict[str, Any]) -> str:
    """SHA-256 of the other entries: tells a damaged manifest from a damaged file."""
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()
