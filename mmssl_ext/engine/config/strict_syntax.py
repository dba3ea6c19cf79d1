"""The rules of strict mode for the text of one Python config file."""

from __future__ import annotations

import ast
import builtins
from typing import Any

from mmengine.config import ConfigDict

from mmssl_ext.errors import ConfigError

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
_IMPORTS = "custom_imports"
# What may be imported and called: plain data of a name.
_OWN_IMPORT = ("mmssl_ext.backbones", 0, [("network", None)])
_OWN_FUNCTION = "network"


def _parse(file: str, text: str) -> ast.Module:
    try:
        return ast.parse(text, file)
    except SyntaxError as error:
        raise ConfigError(
            f"Config {file} is not valid Python: line {error.lineno}: {error.msg}."
        ) from error
    except (ValueError, RecursionError, MemoryError) as error:  # zero bytes, nesting
        raise ConfigError(f"Config {file} is not valid Python: {error}.") from error


OWN_ONLY = (
    "custom_imports runs code of any module, so strict mode takes it only as a literal "
    'dict(imports=["mmssl_ext..."]), with modules of this package.'
)


def is_own(value: Any) -> bool:
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


class Checker:
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
        self.bases: list[str] = []
        self.done: set[int] = set()  # nodes that a rule above them has settled
        for node in self.tree.body:
            if isinstance(node, ast.ImportFrom) and _imported(node) == _OWN_IMPORT:
                self._settle(node)
        self.has_own = bool(self.done)
        kinds = (ast.With, ast.ImportFrom)
        self.is_lazy = any(
            isinstance(node, kinds) and id(node) not in self.done
            for node in ast.walk(self.tree)
        )

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
                raise self._refused(node, OWN_ONLY)
            if isinstance(node.value, ast.Name) and node.value.id == "_base_":
                self.done.add(id(node.value))
        elif isinstance(node, ast.Name):
            self._check_name(node)
        elif isinstance(node, ast.Constant) and node.value == _IMPORTS:
            raise self._refused(node, OWN_ONLY)
        elif isinstance(node, ast.comprehension) and node.is_async:
            raise self._refused(node.target, "async is not allowed")

    def _check_call(self, node: ast.Call) -> None:
        func = node.func
        if isinstance(func, ast.Name) and func.id in _FUNCTIONS.split():
            return
        if self.has_own and isinstance(func, ast.Name) and func.id == _OWN_FUNCTION:
            return
        if isinstance(func, ast.Attribute) and func.attr in _METHODS.split():
            self.done.add(id(func))
            return
        raise self._refused(node, "only plain functions like dict() may be called")

    def _check_name(self, node: ast.Name) -> None:
        if node.id == _IMPORTS:
            raise self._refused(node, OWN_ONLY)
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
            if not is_own(_literal(node.value)):
                raise self._refused(node, OWN_ONLY)
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
            if _imported(node) != ("mmengine.config", 0, [("read_base", None)]):
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
                raise self._refused(line, OWN_ONLY)
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


def _imported(node: ast.ImportFrom) -> tuple[str | None, int, list]:
    """Module, level and names of an import."""
    names = [(alias.name, alias.asname) for alias in node.names]
    return node.module, node.level, names


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
