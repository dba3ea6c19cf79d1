"""Building of the demo data: all of it or nothing, and only once."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

from rich.progress import track

from mmssl_ext.errors import UserValueError

from .layouts import LayoutWriter
from .scenes import draw_scene
from .shapes import CLASSES

MANIFEST = "demo.json"
CONTENT = "mmssl_ext demo scenes"
VERSION = 2  # to be raised whenever other scenes are drawn from the same arguments


def make_demo(
    out: str | os.PathLike,
    train: int = 3000,
    test: int = 600,
    size: int = 96,
    seed: int = 0,
    progress: bool = True,
) -> Path:
    """Draw the demo scenes into a folder, unless they are there already; return it.

    The folder appears under its name when it is complete. The same arguments give the
    same bytes with the same versions of NumPy and Pillow on the same kind of machine.

    Args:
        out: Output folder; new, empty, or an earlier output.
        train: Number of training scenes, the classes in turn.
        test: Number of test scenes.
        size: Side of the square images in pixels.
        seed: Seed of all that is random.
        progress: Show a progress bar.

    Raises:
        FileExistsError: The folder holds other files, or scenes from other arguments.
        ValueError: An argument is out of range.
    """
    out = Path(out).absolute()
    wanted = {"seed": seed, "train": train, "test": test, "size": size}
    for (name, value), low in zip(wanted.items(), (0, 1, 1, 32), strict=True):
        if value < low:
            raise UserValueError(f"{name} must be at least {low}, but is {value}.")
    manifest = {"content": CONTENT, "version": VERSION, **wanted, "classes": [*CLASSES]}
    if _is_complete(out, manifest):
        return out
    partial = out.with_name(f"{out.name}.partial-{os.getpid()}")
    partial.mkdir(parents=True)
    try:
        _draw_all(partial, manifest, progress)
        if not _is_complete(out, manifest):  # else another process was faster
            partial.rename(out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return out


def _is_complete(out: Path, manifest: dict[str, Any]) -> bool:
    """Return whether the wanted scenes are there, False if they may be written."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return False
    try:
        found = json.loads((out / MANIFEST).read_text())
    except (OSError, ValueError):
        found = {}
    if not isinstance(found, dict) or found.get("content") != CONTENT:
        raise FileExistsError(
            f"'{out}' holds files that are not demo scenes (there is no valid "
            f"{MANIFEST}). Choose another folder; this one is left as it is."
        )
    changes = ", ".join(
        f"{key}={found.get(key)!r} instead of {value!r}"
        for key, value in manifest.items()
        if found.get(key) != value
    )
    if changes:
        raise FileExistsError(
            f"'{out}' holds demo scenes from other arguments: {changes}. Choose "
            "another folder, or delete it."
        )
    return True


def _draw_all(root: Path, manifest: dict[str, Any], progress: bool) -> None:
    number = 0
    for split_id, split in enumerate(("train", "test")):
        writer, text = LayoutWriter(root, split), f"Drawing {split} scenes"
        for i in track(range(manifest[split]), text, disable=not progress):
            number += 1
            key = (manifest["seed"], split_id, i)
            writer.write(number, draw_scene(i % len(CLASSES), manifest["size"], key))
        writer.finish()
    (root / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n")
