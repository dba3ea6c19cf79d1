"""Change the variables at the top of a config, with everything computed from them.

mmengine runs a config file and keeps the results: once ``depth = 50`` has been put to
use, changing it does nothing. Here the files are run anew with the assignment replaced.
"""

from __future__ import annotations

import ast
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mmengine.config import Config

from mmssl_ext.packaged import SCOPE, packaged_base

from .errors import ConfigError


def config_files(path: str | Path) -> list[Path]:
    """A config file and all files below its ``_base_``, each once, bases first.

    Raises:
        ConfigError: A file is among its own bases, or ``_base_`` is no literal.
    """
    found: dict[Path, None] = {}

    def visit(file: Path, above: tuple[Path, ...]) -> None:
        if file in above:
            raise ConfigError(f"Config {file} is a base of itself. Correct _base_.")
        if file not in found:
            for base in _bases(file):
                visit(base, (*above, file))
            found[file] = None

    visit(Path(path).resolve(), ())
    return list(found)


def variables(path: str | Path) -> set[str]:
    """Names that a config file and its bases assign at their top level."""
    return {
        name
        for file in config_files(path)
        if file.suffix == ".py"
        for name, _ in _assignments(_parse(file))
    }


def read_with_variables(path: str | Path, values: dict[str, Any]) -> Config:
    """Read a config as if its variables had other values.

    Args:
        path: Config file.
        values: Name to plain value. The first assignment of the name at the top level
            of a file is replaced, in the file and in every base that has one.
    """
    with tempfile.TemporaryDirectory() as folder:
        copies: dict[Path, Path] = {}
        for file in config_files(path):  # bases first: their copies exist by then
            copy = Path(folder, str(len(copies)), file.name)
            copy.parent.mkdir()
            copy.write_text(_rewritten(file, values, copies), encoding="utf-8")
            copies[file] = copy
        cfg = Config.fromfile(str(copies[Path(path).resolve()]))
    object.__setattr__(cfg, "_filename", str(Path(path).resolve()))
    return cfg


def _rewritten(file: Path, values: dict[str, Any], copies: dict[Path, Path]) -> str:
    text = file.read_text(encoding="utf-8")
    if file.suffix != ".py":
        return text
    lines = text.encode().split(b"\n")  # ast counts bytes, and "\n" alone ends a line
    replaced: dict[str, ast.Assign] = {}
    for name, node in _assignments(_parse(file)):
        if (name in values or name == "_base_") and node not in replaced.values():
            replaced.setdefault(name, node)
    # From the end: the places of the other assignments stay.
    for name, node in reversed(replaced.items()):
        if name == "_base_":
            bases = _base_names(file, node)
            value: Any = [str(copies.get(_resolve(file, b), b)) for b in bases]
        else:
            value = values[name]
            if isinstance(node.value, ast.Tuple) and isinstance(value, list):
                value = tuple(value)  # the command line knows lists only
        _replace(lines, node.value, repr(value).encode())
    return b"\n".join(lines).decode()


def _replace(lines: list[bytes], node: ast.expr, code: bytes) -> None:
    """Put code in the place of an expression, and in its parentheses if it has any."""
    start, end = node.lineno - 1, (node.end_lineno or node.lineno) - 1
    before = lines[start][: node.col_offset]
    after = lines[end][node.end_col_offset :]
    lines[start : end + 1] = [before + code + after]


def _parse(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"), str(file))


def _assignments(tree: ast.Module) -> Iterator[tuple[str, ast.Assign]]:
    for node in tree.body:
        if isinstance(node, ast.Assign):
            for target in node.targets:
                if isinstance(target, ast.Name):
                    yield target.id, node


def _bases(file: Path) -> list[Path]:
    if file.suffix != ".py":
        return []
    for name, node in _assignments(_parse(file)):
        if name == "_base_":
            names = _base_names(file, node)
            return [
                _resolve(file, b) for b in names if b.startswith(SCOPE) or "::" not in b
            ]
    return []


def _base_names(file: Path, node: ast.Assign) -> list[str]:
    try:
        value = ast.literal_eval(node.value)
        names = [value] if isinstance(value, str) else list(value)
    except (ValueError, TypeError, RecursionError):
        names = [None]
    if not all(isinstance(name, str) for name in names):
        raise ConfigError(
            f"Config {file}, line {node.lineno}: _base_ must be a literal path or list "
            "of paths."
        )
    return names


def _resolve(file: Path, base: str) -> Path:
    if base.startswith(SCOPE):
        return packaged_base(base).resolve()
    return (file.parent / base).resolve()
