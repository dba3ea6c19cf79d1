"""Configs as data: files whose code can only compute values (``--strict-config``).

mmengine runs a config file by ``eval`` and ``exec``, imports what ``custom_imports``
names, and takes ``type="os.system"`` for the function of that name. Here a config and
all its bases are read as syntax trees first, and whatever could do more than build
numbers, strings, lists and dicts is refused by file, line and construct. What is
checked is the text that mmengine would run, with its placeholders filled in.

Usage: :func:`check_strict`, then load the config, then :func:`check_names`; before
anything is built, :func:`enforce` for what a name in the config could still import.
"""

from __future__ import annotations

import ast
import builtins
import importlib
import json
import os
import re
import tempfile
from pathlib import Path
from typing import Any

from mmengine.config import Config, ConfigDict
from mmengine.registry import registry as registries

from mmssl_ext import compat
from mmssl_ext.errors import ConfigError

#: Packages whose registries a config may name.
SCOPES = ("mmssl_ext", "mmengine", "mmcv", "mmpretrain", "mmdet", "mmseg")

_FUNCTIONS = """
    abs all any bool dict divmod enumerate float frozenset int isinstance len list max
    min range reversed round set sorted str sum tuple zip
"""
_METHODS = """
    append copy count endswith extend get index insert items join keys lower lstrip pop
    remove removeprefix removesuffix replace reverse rstrip setdefault sort split
    startswith strip title update upper values
"""
_BUILTINS = frozenset(dir(builtins))
_DATA = (ConfigDict, dict, list, tuple, str, bytes, int, float, set)
_OF_DATA = frozenset(name for kind in _DATA for name in dir(kind))
_NODES = (
    *(ast.Module, ast.Expr, ast.Assign, ast.AnnAssign, ast.AugAssign, ast.Delete),
    *(ast.If, ast.For, ast.Break, ast.Continue, ast.Pass, ast.Assert),
    *(ast.Constant, ast.JoinedStr, ast.FormattedValue, ast.Name, ast.Attribute),
    *(ast.Dict, ast.List, ast.Tuple, ast.Set, ast.Starred, ast.Subscript, ast.Slice),
    *(ast.BinOp, ast.UnaryOp, ast.BoolOp, ast.Compare, ast.IfExp, ast.operator),
    *(ast.unaryop, ast.boolop, ast.cmpop, ast.expr_context, ast.Call, ast.keyword),
    *(ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp, ast.comprehension),
)
_PLACEHOLDER = re.compile(  # as in mmengine
    r"\{\{['\"]?\s*\$(\w+)\s*:\s*(\S*?)\s*['\"]?\}\}"
)
_PLAIN_DEFAULT = re.compile(r"[\w./:~@+,=-]*")
_TYPE = re.compile(r"(?:(\w+)\.)?(?:torchvision/)?([A-Za-z]\w*)")
# What upstream evals in these options, and whole classes that eval more of theirs.
_EVALUATED = {"dtype": re.compile(r"[\w.]*"), "warp_mode": re.compile(r"[\w.]*")}
_EVALUATING = frozenset({"RFSearchHook"})
_MAX_BASES = 50  # one below the other
_IMPORTS = "custom_imports"


def check_strict(path: str | Path) -> list[Path]:
    """Refuse a config, or one of its bases, that could do more than compute values.

    Nothing is executed, imported or written. A ``.py`` file may assign, loop over what
    it has, and call ``dict``, ``len``, ``range`` and their like; take its bases from a
    literal ``_base_`` or from ``with read_base()``; and import modules of this package
    by a literal ``custom_imports``. A ``.json`` file is data already.

    Args:
        path: The config file.

    Returns:
        All files that were checked, bases first.

    Raises:
        ConfigError: The message names file, line and construct.
    """
    checked: dict[str, None] = {}
    _check(os.path.abspath(os.path.expanduser(path)), checked, ())
    return [Path(file) for file in checked]


def check_names(cfg: Any, place: str = "") -> None:
    """Refuse names in a loaded config that would import code instead of finding it.

    Args:
        cfg: The config, or a part of it.
        place: Where that part stands.

    Raises:
        ConfigError: A ``type`` is no name of a registry, or a scope is none of
            :data:`SCOPES`.
    """
    waiting: list[tuple[Any, str]] = [(cfg, place)]
    while waiting:
        node, place = waiting.pop()
        if isinstance(node, (dict, Config)):
            for key, value in node.items():
                inner = f"{place}.{key}" if place else str(key)
                waiting.append((value, inner))
                if key == "type" and isinstance(value, str):
                    _check_type(value, inner)
                elif key in _EVALUATED and isinstance(value, str):
                    if not _EVALUATED[key].fullmatch(value):
                        raise ConfigError(f"{inner} = {value!r} is more than a name.")
                elif key in ("_scope_", "default_scope") and value is not None:
                    _check_scope(value, inner)
                elif key == "trust" and value:
                    raise ConfigError(
                        f"{inner} lets a file run its code; in strict mode a config "
                        "cannot ask for that."
                    )
        elif isinstance(node, (list, tuple)):
            waiting += [(item, f"{place}[{i}]") for i, item in enumerate(node)]


def enforce() -> None:
    """Let registries find only what is registered, in this process from now on.

    mmengine's registries import the module of any dotted name, and ``<scope>.registry``
    of any scope.
    """
    registries.get_object_from_string = _no_object
    registries.import_module = _import_known


def _no_object(name: str) -> None:
    raise ConfigError(f"'{name}' is not registered, and strict mode imports nothing.")


def _import_known(name: str, package: str | None = None) -> Any:
    if name.split(".")[0] not in SCOPES:
        raise ConfigError(
            f"A config asks for the module '{name}', but in strict mode only "
            f"{', '.join(SCOPES)} are imported."
        )
    return importlib.import_module(name, package)


def _check_type(value: str, place: str) -> None:
    match = _TYPE.fullmatch(value)
    if match is None or match[2] in _BUILTINS | _EVALUATING:
        raise ConfigError(
            f"{place} = {value!r} is not allowed by strict mode: a type is the name of "
            "a registered class, like 'ResNet' or 'mmdet.FasterRCNN'."
        )
    if match[1] is not None:
        _check_scope(match[1], place)


def _check_scope(value: Any, place: str) -> None:
    if value not in SCOPES:
        raise ConfigError(
            f"{place} names the scope {value!r}; strict mode knows {', '.join(SCOPES)}."
        )


def _check(file: str, checked: dict[str, None], above: tuple[str, ...]) -> None:
    """Check a file after its bases."""
    if file in above or len(above) > _MAX_BASES:
        raise ConfigError(f"Config {file} is a base of itself. Correct _base_.")
    if file in checked:
        return
    if not os.path.isfile(file):
        whose = f", which {above[-1]} names as a base," if above else ""
        raise ConfigError(f"Config {file}{whose} does not exist.")
    if file.endswith(".py"):
        bases = _check_python(file)
    elif file.endswith(".json"):
        bases = _check_json(file)
    else:
        raise ConfigError(
            f"Config {file} is not allowed by strict mode: only .py and .json are. "
            "YAML tags can name any function."
        )
    for base in bases:
        _check(os.path.abspath(base), checked, (*above, file))
    checked[file] = None


def _check_python(file: str) -> list[str]:
    """Check one file; return the paths of its bases.

    mmengine runs the text with the placeholders filled in, or as it stands where it
    sees an import in it; so both must be harmless.
    """
    text = _read(file)
    checker = _Checker(file, text)
    checker.check()
    if (filled := _filled(file, text)) != text:
        if checker.is_lazy:
            raise ConfigError(
                f"Config {file}: placeholders have no meaning beside read_base()."
            )
        checker = _Checker(file, filled)
        checker.check()
    return [_base_path(file, name) for name in checker.bases]


def _check_json(file: str) -> list[str]:
    text = _filled(file, _read(file))
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"Config {file} is not valid JSON: {error}.") from error
    if not isinstance(content, dict):
        raise ConfigError(f"Config {file} is no JSON object.")
    if _IMPORTS in content and not _is_own(content[_IMPORTS]):
        raise ConfigError(f"Config {file}: {_OWN_ONLY}")
    names = content.get("_base_", [])
    names = names if isinstance(names, list) else [names]
    if not all(isinstance(name, str) for name in names):
        raise ConfigError(f"Config {file}: _base_ must be a path or a list of paths.")
    return [_base_path(file, name) for name in names]


def _read(file: str) -> str:
    try:
        return Path(file).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"Config {file} cannot be read: {error}.") from error


def _parse(file: str, text: str) -> ast.Module:
    try:
        return ast.parse(text, file)
    except SyntaxError as error:
        raise ConfigError(
            f"Config {file} is not valid Python: line {error.lineno}: {error.msg}."
        ) from error
    except (ValueError, RecursionError, MemoryError) as error:  # zero bytes, nesting
        raise ConfigError(f"Config {file} is not valid Python: {error}.") from error


def _filled(file: str, text: str) -> str:
    """The text that mmengine runs: placeholders are replaced by its own functions."""
    for name, default in _PLACEHOLDER.findall(text):
        # mmengine takes the default for a regular expression and pastes it as code.
        if not _PLAIN_DEFAULT.fullmatch(default):
            raise ConfigError(
                f"Config {file}: the default of {{{{${name}:{default}}}}} may only "
                "hold letters, digits and ./:~@+,=-_ in strict mode."
            )
    with tempfile.TemporaryDirectory() as folder:
        copy = os.path.join(folder, "filled.py")
        try:
            compat.config_step("file_names")(file, copy)
            compat.config_step("environment")(copy, copy)
        except (KeyError, re.error) as error:
            raise ConfigError(f"Config {file} cannot be read: {error}.") from error
        compat.config_step("bases")(copy, copy)
        return Path(copy).read_text(encoding="utf-8")


def _base_path(file: str, name: str) -> str:
    if "://" in name:
        raise ConfigError(f"Config {file}: the base {name} is no local file.")
    try:
        return compat.config_step("base_path")(name, file)[0]
    except (OSError, ValueError, AssertionError, ImportError, KeyError) as error:
        raise ConfigError(f"Config {file}: the base {name}: {error}.") from error


_OWN_ONLY = (
    "custom_imports runs code of any module, so strict mode takes it only as a literal "
    'dict(imports=["mmssl_ext..."]), with modules of this package.'
)


def _is_own(value: Any) -> bool:
    """Whether ``custom_imports`` names modules of this package alone."""
    if not isinstance(value, dict):
        return False
    names = value.get("imports")
    names = [names] if isinstance(names, str) else names
    return (
        value.keys() <= {"imports", "allow_failed_imports", "_delete_"}
        and isinstance(names, list)
        and all(isinstance(n, str) and n.split(".")[0] == "mmssl_ext" for n in names)
    )


class _Checker:
    """The rules for one text.

    Args:
        file: Its path, for the messages.
        text: The text.

    Attributes:
        is_lazy: It takes its bases by ``with read_base()``, or imports something.
        bases: Their paths relative to the file, after :meth:`check`.
    """

    def __init__(self, file: str, text: str) -> None:
        self.file = file
        self.tree = _parse(file, text)
        self.lines = text.split("\n")
        kinds = (ast.With, ast.ImportFrom)
        self.is_lazy = any(isinstance(node, kinds) for node in ast.walk(self.tree))
        self.bases: list[str] = []
        self.done: set[int] = set()  # nodes that a rule above them has settled

    def check(self) -> None:
        """Raise ConfigError for the first construct that is not allowed."""
        for statement in self.tree.body:
            if self.is_lazy and isinstance(statement, (ast.With, ast.ImportFrom)):
                self._check_read_base(statement)
            elif isinstance(statement, ast.Assign):
                self._check_special(statement)
        for node in ast.walk(self.tree):  # parents before children
            if id(node) not in self.done:
                self._check_node(node)

    def _check_node(self, node: ast.AST) -> None:
        if not isinstance(node, _NODES):
            raise self._refused(node, f"{_kind(node)} is not allowed")
        if isinstance(node, ast.Call):
            self._check_call(node)
        elif isinstance(node, ast.Attribute):
            if node.attr.startswith("_") or node.attr in _OF_DATA:
                raise self._refused(node, f"the attribute '{node.attr}' is not allowed")
            if node.attr == _IMPORTS:
                raise self._refused(node, _OWN_ONLY)
            if isinstance(node.value, ast.Name) and node.value.id == "_base_":
                self.done.add(id(node.value))
        elif isinstance(node, ast.Name):
            self._check_name(node)
        elif isinstance(node, ast.Constant) and node.value == _IMPORTS:
            raise self._refused(node, _OWN_ONLY)
        elif isinstance(node, ast.comprehension) and node.is_async:
            raise self._refused(node.target, "async is not allowed")

    def _check_call(self, node: ast.Call) -> None:
        func = node.func
        if isinstance(func, ast.Name) and func.id in _FUNCTIONS.split():
            return
        if isinstance(func, ast.Attribute) and func.attr in _METHODS.split():
            self.done.add(id(func))
            return
        raise self._refused(node, "only plain functions like dict() may be called")

    def _check_name(self, node: ast.Name) -> None:
        if node.id == _IMPORTS:
            raise self._refused(node, _OWN_ONLY)
        if node.id == "_base_":
            raise self._refused(
                node, "_base_ is one literal at the top, or stands in _base_.NAME"
            )
        is_foreign = node.id in _BUILTINS.difference(_FUNCTIONS.split())
        if is_foreign or node.id.startswith("__") or node.id == "LazyObject":
            raise self._refused(node, f"the name '{node.id}' is not allowed")

    def _check_special(self, node: ast.Assign) -> None:
        """``_base_`` and ``custom_imports``, each the only target of an assignment."""
        target = node.targets[0]
        if len(node.targets) != 1 or not isinstance(target, ast.Name):
            return
        if target.id == _IMPORTS:
            if not _is_own(_literal(node.value)):
                raise self._refused(node, _OWN_ONLY)
            self.done.add(id(target))
        elif target.id == "_base_" and not self.is_lazy:
            value = _literal(node.value)
            names = [value] if isinstance(value, str) else value
            if not isinstance(names, list) or not all(
                isinstance(name, str) for name in names
            ):
                raise self._refused(
                    node, "_base_ must be a literal path or list of paths"
                )
            self.bases += names
            self.done.add(id(target))

    def _check_read_base(self, node: ast.With | ast.ImportFrom) -> None:
        """``from mmengine.config import read_base`` and what stands below it."""
        if isinstance(node, ast.ImportFrom):
            names = [(alias.name, alias.asname) for alias in node.names]
            known = (node.module, node.level, names)
            if known != ("mmengine.config", 0, [("read_base", None)]):
                raise self._refused(node, "imports are not allowed")
            self._settle(node)
            return
        call = node.items[0].context_expr
        is_read_base = (
            len(node.items) == 1
            and isinstance(call, ast.Call)
            and isinstance(call.func, ast.Name)
            and (call.func.id, call.args, call.keywords) == ("read_base", [], [])
        )
        if not is_read_base or self.bases:
            raise self._refused(node, "only one `with read_base():` is allowed")
        for line in node.body:
            if not isinstance(line, ast.ImportFrom) or not (line.level and line.module):
                raise self._refused(
                    line, "only `from .FILE import ...` is allowed here"
                )
            if any((alias.asname or alias.name) == _IMPORTS for alias in line.names):
                raise self._refused(line, _OWN_ONLY)
            up = "../" * (line.level - 1)
            self.bases.append(f"{up}{line.module.replace('.', '/')}.py")
        self._settle(node)

    def _settle(self, node: ast.AST) -> None:
        self.done.update(id(part) for part in ast.walk(node))

    def _refused(self, node: ast.AST, why: str) -> ConfigError:
        number = getattr(node, "lineno", 1)
        line = self.lines[number - 1].strip()
        return ConfigError(
            f"Config {self.file}, line {number}: {why} (`{line[:80]}`). Strict mode "
            "takes a config for data; without --strict-config it may run any code."
        )


def _literal(node: ast.AST) -> Any:
    """The value of a literal or of ``dict(name=literal)``; None for anything else."""
    if isinstance(node, ast.Call):
        names = [keyword.arg for keyword in node.keywords]
        is_dict = isinstance(node.func, ast.Name) and node.func.id == "dict"
        if not is_dict or node.args or None in names:
            return None
        return {keyword.arg: _literal(keyword.value) for keyword in node.keywords}
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return None


def _kind(node: ast.AST) -> str:
    """What a reader calls a construct."""
    names: dict[type[ast.AST], str] = {
        ast.Import: "import",
        ast.ImportFrom: "import",
        ast.FunctionDef: "def",
        ast.ClassDef: "class",
        ast.NamedExpr: ":=",
    }
    return names.get(type(node), type(node).__name__.lower())
