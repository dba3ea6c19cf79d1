"""Nothing that another package does not promise is used outside of ``compat``."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import mmssl_ext

PACKAGE = Path(mmssl_ext.__file__).parent
# Documented by Python although they begin with an underscore.
DOCUMENTED = {"_exit", "_replace", "_asdict", "_fields", "_make"}


def defined(tree: ast.AST) -> set[str]:
    """Names that a module defines itself: functions, classes, what it assigns."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            found.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            # `runner._resume = ...` is another package's name, `self._x = ...` ours
            found |= (
                {node.attr} if ast.unparse(node.value) in ("self", "cls") else set()
            )
    return found


def _private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def uses(tree: ast.AST, ours: set[str]) -> Iterator[tuple[int, str]]:
    """Lines and names of other packages that begin with an underscore."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and _private(node.attr):
            if node.attr not in ours | DOCUMENTED:
                yield node.lineno, ast.unparse(node)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            parts = [*(node.module or "").split("."), *(a.name for a in node.names)]
            if parts[0] != "mmssl_ext" and any(map(_private, parts)):
                yield node.lineno, f"from {node.module} import ..."


def test_private_names_of_other_packages_stand_in_compat_alone():
    trees = {p: ast.parse(p.read_text("utf-8")) for p in PACKAGE.rglob("*.py")}
    ours = set().union(*map(defined, trees.values()))
    found = [
        f"{path.relative_to(PACKAGE)}:{line} {name}"
        for path, tree in sorted(trees.items())
        if "compat" not in path.parts
        for line, name in uses(tree, ours)
    ]
    assert not found, "\n".join(found)


def test_a_private_name_is_found():
    code = "from torch._C import x\nrunner._load_from = self._own\nos._exit(1)\n"
    found = sorted(uses(ast.parse(code), {"_own"}))
    assert [line for line, _ in found] == [1, 2]
