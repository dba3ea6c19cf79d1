"""Imports of the package point down, and never in a circle."""

from __future__ import annotations

import ast
from pathlib import Path

import mmssl_ext

ROOT = Path(mmssl_ext.__file__).parent

# From the roof to the ground; a module may import from its own floor and from below.
FLOORS = (
    ("__main__", "check_env"),
    ("api",),
    ("chain",),
    ("run",),
    ("visualization",),
    ("transfer",),
    ("engine.hooks",),
    ("engine.monitor",),
    ("engine.training",),
    ("engine.checkpoint", "engine.resilience", "engine.weights"),
    ("engine.config",),
    ("evaluation", "models", "preprocessing"),
    ("datasets",),
    ("",),  # what stands beside these: registry, errors, files, text, compat, ...
)


def _name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def graph() -> dict[str, set[str]]:
    """Module -> modules of the package that it imports, anywhere in its text."""
    paths = {_name(path): path for path in ROOT.rglob("*.py")}
    found: dict[str, set[str]] = {}
    for name, path in paths.items():
        package = (
            name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
        )
        found[name] = set()
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Import):
                targets = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                above = package[: len(package) - node.level + 1]
                start = [ROOT.name, *above] if node.level else []
                base = ".".join([*filter(None, start), *(node.module or "").split(".")])
                targets = [f"{base.rstrip('.')}.{alias.name}" for alias in node.names]
            else:
                continue
            for target in targets:
                parts = target.split(".")
                if parts[0] != ROOT.name:
                    continue
                inner, parent = ".".join(parts[1:]), ".".join(parts[1:-1])
                found[name].add(inner if inner in paths else parent)
    return found


def floor(module: str) -> int:
    """Number of a module's floor; the longest name that fits decides."""
    fits = [
        (len(name), number)
        for number, names in enumerate(FLOORS)
        for name in names
        if not name or module == name or module.startswith(f"{name}.")
    ]
    return max(fits)[1]


def test_no_import_runs_upward():
    upward = [
        f"{module} imports {target}"
        for module, targets in sorted(graph().items())
        for target in sorted(targets)
        if floor(target) < floor(module)
    ]
    assert not upward, "\n".join(upward)


def test_no_circle_of_modules():
    """Within ``models`` packages import their parts, and these each other."""
    rest = {
        name: {t for t in targets if t != name}
        for name, targets in graph().items()
        if not name.startswith("models")
    }
    while leaves := [n for n, targets in rest.items() if not targets & rest.keys()]:
        for leaf in leaves:
            del rest[leaf]
    assert not rest, f"Modules that import each other are among {sorted(rest)}."


def test_the_test_sees_what_it_is_for():
    found = graph()
    assert len(found) > 150
    assert "errors" in found["run.launch"]
    assert floor("engine.hooks") < floor("engine.monitor.knn") < floor("registry")
    assert floor("check_env") < floor("chain.run") < floor("run.launch")


def test_no_module_and_no_function_is_two_things():
    """A reader holds about 350 lines of a module and 60 of a function."""
    long = []
    for path in sorted(ROOT.rglob("*.py")):
        text = path.read_text("utf-8")
        lengths = {"": text.count("\n")}
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef):
                lengths[node.name] = (node.end_lineno or 0) - node.lineno + 1
        long += [
            f"{path.relative_to(ROOT)} {name}: {length} lines"
            for name, length in lengths.items()
            if length > (60 if name else 350)
        ]
    assert not long, "\n".join(long)
