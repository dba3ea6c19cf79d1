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


def config_files(path: str | Path) -> list[Path]:
    """A config file and all files below its ``_base_``, each once, bases first."""
    found: dict[Path, None] = {}

    def visit(file: Path) -> None:
        for base in _bases(file):
            visit(base)
        found.setdefault(file)

    visit(Path(path).resolve())
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
    lines = text.splitlines(keepends=True)
    replaced: dict[str, ast.Assign] = {}
    for name, node in _assignments(_parse(file)):
        if name in values or name == "_base_":
            replaced.setdefault(name, node)
    for name, node in replaced.items():
        if name == "_base_":
            bases = _base_names(node)
            value: Any = [str(copies.get(_resolve(file, b), b)) for b in bases]
        else:
            value = values[name]
            if isinstance(node.value, ast.Tuple) and isinstance(value, list):
                value = tuple(value)  # the command line knows lists only
        start, end = node.lineno - 1, node.end_lineno or node.lineno
        # As many lines as before: the places of the other assignments stay.
        lines[start:end] = [f"{name} = {value!r}\n"] + ["\n"] * (end - start - 1)
    return "".join(lines)


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
            return [_resolve(file, b) for b in _base_names(node) if "::" not in b]
    return []


def _base_names(node: ast.Assign) -> list[str]:
    value = ast.literal_eval(node.value)
    return [value] if isinstance(value, str) else list(value)


def _resolve(file: Path, base: str) -> Path:
    return (file.parent / base).resolve()
