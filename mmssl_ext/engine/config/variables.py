"""Change the variables at the top of a config, with everything computed from them.

mmengine runs a config file and keeps the results: once ``depth = 50`` has been put to
use, changing it does nothing. Here the files are run anew with the assignment replaced.
"""

from __future__ import annotations

import ast
import math
import re
import tempfile
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

from mmengine.config import Config

from mmssl_ext import compat
from mmssl_ext.errors import ConfigError
from mmssl_ext.packaged import SCOPE, packaged_base, root

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
    cfg = read_with_variables(path, values) if values else _from_file(path)
    names = _reassigned(path) - set(fixed) - set(values)
    own: dict[str, Any] = {}
    # A value may follow from another that is assigned anew: a round settles one more.
    for _ in names:
        found = {n: cfg[n] for n in names if n in cfg and _is_plain(cfg[n])}
        if found == own:
            break
        own = found
        cfg = read_with_variables(path, values, own)
    return cfg


def _from_file(path: str | Path) -> Config:
    read = getattr(Config.fromfile, "replaces", Config.fromfile)
    return read(str(path), import_custom_modules=False)


def enable_variables(fixed: Collection[str]) -> None:
    """Let ``Config.fromfile`` read this package's configs as :func:`read_config` does.

    So do files that build on one of them; all others it reads as before.
    """

    def with_variables(upstream: Callable) -> Callable:
        def fromfile(filename: str | Path, *args: Any, **options: Any) -> Config:
            cfg = upstream(filename, *args, **options)
            return read_config(filename, {}, fixed) if _is_own(filename) else cfg

        return fromfile

    compat.replace_config_step("file", with_variables)


def _is_own(path: str | Path) -> bool:
    """Whether a config that mmengine could read is one of the package, or on one."""
    try:
        own = (root() / "configs").resolve()
        return any(file.is_relative_to(own) for file in config_files(path))
    except (ConfigError, OSError, SyntaxError, ValueError):
        return False


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
        own: The same for names whose value stands in one of the files, which keeps its
            assignment; where that computes the value from its base's, the last
            assignment is replaced by the value.
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
            below = {n: v for n, v in own.items() if outermost[n] != file}
            last = {n: v for n, v in own.items() if n not in below and _grows(file, n)}
            text = _rewritten(file, {**below, **values}, last, copies)
            copy.write_text(text, encoding="utf-8")
            copies[file] = copy
        cfg = _from_file(copies[Path(path).resolve()])
    compat.set_config_filename(cfg, str(Path(path).resolve()))
    return cfg


def _grows(file: Path, name: str) -> bool:
    """Whether a file may compute a variable from that of its base."""
    text = file.read_text(encoding="utf-8")
    own = [statement for n, statement in _bindings(_parse(file)) if n == name]
    taken = re.search(rf"_base_\W+{re.escape(name)}\b", text)
    return bool(taken) or len(own) > 1 or isinstance(own[-1], ast.AugAssign)


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
