"""What is known of the images of a file of proposals that is being made."""

from __future__ import annotations

import fcntl
import json
import os
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from mmssl_ext.errors import UserValueError
from mmssl_ext.text import shown

from ..base import SSLDataset
from ..identity import look_at_each
from .find import Settings

_LINE = {"name", "mark", "width", "height", "boxes", "scores"}  # of an image, kept


def mark_of(dataset: SSLDataset, row: int) -> list[int]:
    """What an image is told from another of its name by: its size, and its start."""
    return [dataset.file_size(row), zlib.crc32(dataset.file_head(row, 4096))]


class Journal:
    """What is known of the images so far, one line of JSON for each.

    Args:
        out: The file that is to be.
        settings: How boxes are made.

    Attributes:
        places: Where the line of an image begins, by its name.

    Raises:
        UserValueError: It was begun with other settings, or another process writes it.
    """

    def __init__(self, out: Path, settings: Settings) -> None:
        self.path = out.with_name(f"{out.name}.partial")
        self.places: dict[str, int] = {}
        self._marks: dict[str, Any] = {}
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self.path.open("a+b")
        except OSError as error:
            raise UserValueError(
                f"'{shown(self.path)}' cannot be written: {error.strerror}; choose "
                "another name."
            ) from error
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise UserValueError(
                f"'{shown(self.path)}' is being written by another process; wait for "
                "it, or choose another name."
            ) from error
        self._resume(settings.told())

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *error: Any) -> None:
        self._file.close()

    def _resume(self, told: dict[str, Any]) -> None:
        """Index the lines, and cut off what was not written to its end."""
        self._file.seek(0)
        end = 0
        for number, line in enumerate(self._file):
            if not line.endswith(b"\n"):
                break
            try:
                found = json.loads(line)
            except ValueError:
                found = None
            if number == 0 and found != told:
                raise UserValueError(
                    f"'{shown(self.path)}' was begun with other settings ({found}, not "
                    f"{told}); go on with those, or delete it."
                )
            if isinstance(found, dict) and found.keys() >= _LINE:
                self.places[found["name"]] = end
                self._marks[found["name"]] = found["mark"]
            end += len(line)
        self._file.truncate(end)
        if not end:
            self._append(told)

    def forget(self, dataset: SSLDataset) -> None:
        """Leave out the images that have changed since, or are no more."""
        rows = {dataset.name(row): row for row in range(len(dataset))}
        known = [name for name in self.places if name in rows]
        marks = look_at_each(lambda name: mark_of(dataset, rows[name]), known)
        self.places = {
            name: self.places[name]
            for name, mark in zip(known, marks, strict=True)
            if mark == self._marks[name]
        }
        self._marks.clear()

    def _append(self, found: dict[str, Any]) -> int:
        place = self._file.seek(0, os.SEEK_END)
        self._file.write(json.dumps(found).encode() + b"\n")
        self._file.flush()
        return place

    def add(self, name: str, values: np.ndarray, mark: list[int]) -> None:
        """Keep what the work gave of an image."""
        (width, height), rows = values[0, :2].astype(int).tolist(), values[1:]
        found = {"name": name, "mark": mark, "width": width, "height": height}
        boxes, scores = rows[:, :4].astype(int).tolist(), rows[:, 4].tolist()
        self.places[name] = self._append({**found, "boxes": boxes, "scores": scores})

    def read(self, names: list[str]) -> Iterator[dict[str, Any]]:
        """What is known of these images."""
        for name in names:
            self._file.seek(self.places[name])
            yield json.loads(self._file.readline())
