"""Change the variables at the top of a config, with everything computed from them.

mmengine runs a config file and keeps the results: once ``depth = 50`` has been put to
use, changing it does nothing. Here the files are run anew with the assignment replaced.
"""

from __future__ import annotations

import ast
import math
import re
import tempfile
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from mmengine.config import Config

from mmssl_ext import compat
from mmssl_ext.errors import ConfigError
from mmssl_ext.packaged import SCOPE, packaged_base

from .environment import in_string

# What mmengine would replace by the folder of the copy.
_FOLDER = re.compile(r"\{\{\s*fileDirname\s*\}\}")


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


def read_config(
    path: str | Path, values: dict[str, Any], fixed: Collection[str] = ()
) -> Config:
    """Read a config, with what its bases compute from variables that it assigns anew.

    ``classes = ("cat", "dog")`` in a file of the user's moves ``num_classes`` and all
    that its bases make of it, as the option ``classes=(cat,dog)`` does.

    Args:
        path: Config file.
        values: Variables that an option replaces; see :func:`read_with_variables`.
        fixed: Names that are no variables but parts of the config.
    """
    plain = read_with_variables(path, values) if values else _from_file(path)
    own = {
        name: plain[name]
        for name in _reassigned(path) - set(fixed) - set(values)
        if name in plain and _is_plain(plain[name])
    }
    return read_with_variables(path, values, own) if own else plain


def _from_file(path: str | Path) -> Config:
    return Config.fromfile(str(path), import_custom_modules=False)


def _reassigned(path: str | Path) -> set[str]:
    """Names that a file assigns although a file below it has done so."""
    found: set[str] = set()
    names: dict[Path, set[str]] = {}  # of a file and all below it
    for file in config_files(path):
        own: set[str] = set()
        if file.suffix == ".py":
            own = {name for name, _ in _assignments(_parse(file))}
        below = set().union(*(names[base] for base in _bases(file)))
        found |= own & below
        names[file] = own | below
    return found


def _is_plain(value: Any) -> bool:
    """Whether a value can be written into a file: numbers and strings, and lists."""
    if isinstance(value, (list, tuple)):
        return all(map(_is_plain, value))
    if isinstance(value, float):
        return math.isfinite(value)
    return value is None or isinstance(value, (str, int))


def read_with_variables(
    path: str | Path, values: dict[str, Any], own: dict[str, Any] | None = None
) -> Config:
    """Read a config as if its variables had other values.

    Args:
        path: Config file.
        values: Name to plain value. The first assignment of the name at the top level
            of a file is replaced, in the file and in every base that has one.
        own: The same for names whose value stands in one of the files. In the outermost
            of them only the last assignment is replaced: by its own value, which it
            could have computed from its base's.
    """
    own = own or {}
    with tempfile.TemporaryDirectory() as folder:
        copies: dict[Path, Path] = {}
        files = config_files(path)
        outermost = {
            name: file
            for file in files
            for name, _ in (_bindings(_parse(file)) if file.suffix == ".py" else ())
        }
        for file in files:  # bases first: their copies exist by then
            copy = Path(folder, str(len(copies)), file.name)
            copy.parent.mkdir()
            last = {n: v for n, v in own.items() if outermost[n] == file}
            first = {**{n: v for n, v in own.items() if n not in last}, **values}
            text = _rewritten(file, first, last, copies)
            copy.write_text(text, encoding="utf-8")
            copies[file] = copy
        cfg = _from_file(copies[Path(path).resolve()])
    compat.set_config_filename(cfg, str(Path(path).resolve()))
    return cfg


def _rewritten(
    file: Path, values: dict[str, Any], last: dict[str, Any], copies: dict[Path, Path]
) -> str:
    text = file.read_text(encoding="utf-8")
    if file.suffix != ".py":
        return text
    lines = text.encode().split(b"\n")  # ast counts bytes, and "\n" alone ends a line
    tree = _parse(file)
    replaced: dict[str, ast.Assign] = {}
    for name, node in _assignments(tree):
        if (name in values or name == "_base_") and node not in replaced.values():
            replaced.setdefault(name, node)
    changes: list[tuple[ast.stmt | ast.expr, str]] = []
    for name, node in replaced.items():
        if name == "_base_":
            bases = _base_names(file, node)
            value: Any = [str(copies.get(_resolve(file, b), b)) for b in bases]
        else:
            value = values[name]
            if isinstance(node.value, ast.Tuple) and isinstance(value, list):
                value = tuple(value)  # the command line knows lists only
        changes.append((node.value, repr(value)))
    for name, statement in {n: s for n, s in _bindings(tree) if n in last}.items():
        if isinstance(statement, ast.AugAssign):
            changes.append((statement, f"{name} = {last[name]!r}"))
        elif all(statement.value is not node for node, _ in changes):
            changes.append((statement.value, repr(last[name])))
    # From the end: the places of the others stay.
    for place, code in sorted(changes, key=lambda change: -_position(change[0])):
        _replace(lines, place, code.encode())
    text = b"\n".join(lines).decode()
    folder = in_string(str(file.parent))
    return _FOLDER.sub(lambda _: folder, text)


def _position(node: ast.stmt | ast.expr) -> int:
    return node.lineno * 10**6 + node.col_offset


def _replace(lines: list[bytes], node: ast.stmt | ast.expr, code: bytes) -> None:
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


def _bindings(tree: ast.Module) -> Iterator[tuple[str, ast.Assign | ast.AugAssign]]:
    """Assignments and those like ``classes += ("dog",)``, in their order."""
    for node in tree.body:
        targets = node.targets if isinstance(node, ast.Assign) else []
        if isinstance(node, ast.AugAssign):
            targets = [node.target]
        for target in targets:
            if isinstance(target, ast.Name):
                assert isinstance(node, (ast.Assign, ast.AugAssign))
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
