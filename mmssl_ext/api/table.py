"""Features with the names of their images, written as npz, csv or parquet."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mmssl_ext.errors import UserError, UserValueError
from mmssl_ext.files import drafted, path_named
from mmssl_ext.text import closest, shown

_ROWS = 1024  # written at a time


def check_out(out: str | os.PathLike[str], kinds: Sequence[str]) -> Path:
    """The file that will be written, its folder made; refuse it before the work.

    Raises:
        UserError: Its name has another ending than one of ``kinds``, its folder cannot
            be made, or the package that writes it is missing.
    """
    path = Path(path_named("out", out))
    kind = path.suffix.lower()
    if kind not in kinds:
        listed = " or ".join([", ".join(kinds[:-1]), kinds[-1]] if kinds[1:] else kinds)
        raise UserValueError(
            f"The output '{shown(path)}' must end in {listed}.{closest(kind, kinds)}"
        )
    if kind == ".parquet":
        try:
            import pyarrow.parquet  # noqa: F401
        except ImportError as error:
            raise UserError(
                'Files of Parquet need the package pyarrow: pip install "mmssl_ext'
                '[parquet]", or choose an output that ends in .npz or .csv.'
            ) from error
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"The folder '{shown(path.parent)}' of the output cannot be made: "
            f"{error.strerror}."
        ) from error
    if path.is_dir() or not os.access(path.parent, os.W_OK):
        raise UserError(
            f"The output '{shown(path)}' cannot be written: "
            + ("it is a folder." if path.is_dir() else "its folder is read-only.")
        )
    return path


def write_features(
    path: Path,
    features: np.ndarray,
    paths: Sequence[str],
    labels: np.ndarray | None,
    classes: Sequence[str],
) -> None:
    """Write a file, whole or not at all.

    Args:
        path: As :func:`check_out` returns it; its ending says the layout.
        features: n x C, float32.
        paths: Of each row.
        labels: Class of each row, n, or None.
        classes: Their names.
    """
    write: Callable[..., None] = {
        ".npz": _write_npz,
        ".csv": _write_csv,
        ".parquet": _write_parquet,
    }[path.suffix.lower()]
    with drafted(path) as draft:
        write(draft, features, paths, labels, classes)


def write_csv(path: Path, head: Sequence[str], rows: Iterator[Sequence[Any]]) -> None:
    """Write a table whose first cells are texts; as :func:`write_features`."""
    with drafted(path) as draft, _opened(draft) as file:
        file.write(",".join(head) + "\n")
        file.writelines(
            ",".join(_cell(x) if isinstance(x, str) else f"{x:.9g}" for x in row) + "\n"
            for row in rows
        )


def _write_npz(
    draft: Path,
    features: np.ndarray,
    paths: Sequence[str],
    labels: np.ndarray | None,
    classes: Sequence[str],
) -> None:
    numbers = np.full(len(paths), -1) if labels is None else labels
    with draft.open("wb") as file:
        np.savez(
            file,
            features=features,
            paths=np.array(paths),
            labels=numbers,
            classes=np.array(classes, dtype=str),
        )


def _write_csv(
    draft: Path,
    features: np.ndarray,
    paths: Sequence[str],
    labels: np.ndarray | None,
    classes: Sequence[str],
) -> None:
    named = [] if labels is None else ["label"]
    columns = [f"f{i}" for i in range(features.shape[1])]
    row = ",".join(["%.9g"] * len(columns))  # by which a float32 is read back as it is
    with _opened(draft) as file:
        file.write(",".join(["path", *named, *columns]) + "\n")
        for i, name in enumerate(paths):
            file.write(f"{_cell(name)},")
            if labels is not None:
                file.write(f"{_cell(classes[labels[i]])},")
            file.write(row % tuple(features[i].tolist()) + "\n")


def _write_parquet(
    draft: Path,
    features: np.ndarray,
    paths: Sequence[str],
    labels: np.ndarray | None,
    classes: Sequence[str],
) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    # Parquet's strings are UTF-8; names that are not stay bytes.
    text = all(map(_is_utf8, paths)) and all(map(_is_utf8, classes))
    kind = pa.string() if text else pa.binary()

    def column(names: Sequence[str]) -> Any:
        return pa.array(names if text else [os.fsencode(x) for x in names], kind)

    fields = [("path", kind)] + [("label", kind)] * (labels is not None)
    size = features.shape[1]
    schema = pa.schema([*fields, ("features", pa.list_(pa.float32(), size))])
    with parquet.ParquetWriter(draft, schema) as writer:
        for start in range(0, len(paths), _ROWS):
            part = slice(start, start + _ROWS)
            columns = [column(paths[part])]
            if labels is not None:
                columns.append(column([classes[i] for i in labels[part]]))
            flat = pa.array(features[part].reshape(-1))
            columns.append(pa.FixedSizeListArray.from_arrays(flat, size))
            writer.write_table(pa.table(columns, schema=schema))


def _opened(draft: Path) -> Any:
    return draft.open("w", encoding="utf-8", errors="surrogateescape", newline="")


def _cell(text: str) -> str:
    quoted = text.replace('"', '""')
    return f'"{quoted}"'


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
