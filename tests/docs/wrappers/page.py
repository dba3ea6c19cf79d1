"""The interpreter of a page's Python blocks."""

from __future__ import annotations

import ast
import json
import os
import sys
import traceback
from pathlib import Path
from typing import Any

from . import shorten

CONFIG = "configs/co2/co2_r18_demo.py"


def serve(argv: list[str]) -> int:
    """Execute the blocks that come in lines of JSON; answer with their failures."""
    requests, answers = os.fdopen(os.dup(0)), os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    shorten.install()
    sys.path.insert(0, "")
    sys.argv = [""]
    namespace: dict[str, Any] = {"__name__": "__main__"}
    sys.modules["__main__"].__dict__.update(namespace)
    for line in requests:
        request = json.loads(line)
        failure = execute(request, namespace)
        sys.stdout.flush()
        print(json.dumps(failure), file=answers, flush=True)
    return 0


def execute(request: dict, namespace: dict[str, Any]) -> str | None:
    """Execute one block; return the sentence of its failure, with page and line."""
    page, first, code = request["page"], request["line"], request["code"]
    at = first
    try:
        tree = ast.parse(code)
        ast.increment_lineno(tree, first - 1)
        if "_base_" in names(tree):
            write_config(request["file"], code)
            return None
        lend(tree, namespace)
        for node in tree.body:
            at = node.lineno
            if isinstance(node, ast.Expr):
                value = eval(
                    compile(ast.Expression(node.value), page, "eval"), namespace
                )
                examine("", value)
            else:
                exec(compile(ast.Module([node], []), page, "exec"), namespace)
        for name in names(tree):
            at = first
            examine(name, namespace.get(name))
    except SyntaxError as error:
        return f"{page}:{first + (error.lineno or 1) - 1}: {error.msg}."
    except (Exception, SystemExit) as error:
        traceback.print_exc()
        inner = [f.lineno for f in traceback.extract_tb(error.__traceback__)
                 if f.filename == page]  # fmt: skip
        return f"{page}:{inner[-1] if inner else at}: {type(error).__name__}: {error}"
    return None


def names(tree: ast.Module) -> list[str]:
    """Names that the block assigns at its top level."""
    targets = [t for n in tree.body if isinstance(n, ast.Assign) for t in n.targets]
    return [t.id for t in targets if isinstance(t, ast.Name)]


def lend(tree: ast.Module, namespace: dict[str, Any]) -> None:
    """Define the pipelines that fragments of configs take from their base."""
    used = {n.id for n in ast.walk(tree) if isinstance(n, ast.Name)}
    for name in {"train_pipeline", "eval_pipeline"} & used - {*namespace, *names(tree)}:
        from mmssl_ext.run.launch import load_config

        namespace[name] = load_config(CONFIG)[name]


def write_config(file: str, code: str) -> None:
    """A block with ``_base_`` is a config file: load all of it and build its model."""
    from . import check

    Path(file).write_text(code)
    check.build(file, None)


def examine(name: str, value: Any) -> None:
    """A part of a config must be valid, and what has a type can be built."""
    from collections.abc import Mapping

    if not isinstance(value, Mapping):
        return
    from mmengine.config import ConfigDict

    from mmssl_ext import registry
    from mmssl_ext.engine.config.checks import _ROOTS, check_config

    value = ConfigDict(value)
    if name in _ROOTS:
        check_config({name: value})
    if not isinstance(value.get("type"), str):
        return
    kinds = [r for r in vars(registry).values() if isinstance(r, registry.Registry)]
    for kind in kinds:
        if kind.get(value["type"]) is not None:
            break
    else:
        raise KeyError(f"no registry knows the type {value['type']}")
    if kind.name == "dataset":
        check_config({"train_dataloader": {"dataset": value}})
    if kind.name == "model":
        check_config({"model": value})
    if not value.get("download"):
        kind.build(value)
