"""Check a config before anything is built: unknown types and unknown options.

mmengine finds a misspelt option only when the object is built, deep in a traceback,
and some not at all. Here every ``dict(type=...)`` is compared with the signature of
its class.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Callable, Iterator
from typing import Any

from mmengine import registry as root_registries
from mmengine.hooks import CheckpointHook
from mmengine.optim import OptimWrapper
from mmengine.registry import Registry
from mmengine.runner import (
    EpochBasedTrainLoop,
    IterBasedTrainLoop,
    LogProcessor,
    Runner,
)
from mmpretrain import registry as pretrain_registries
from torch import nn
from torch.utils.data import DataLoader

from mmssl_ext import registry as own_registries
from mmssl_ext.errors import ConfigError
from mmssl_ext.text import closest

# Field name -> registry of what stands below it, wherever it occurs.
_FIELDS = {
    "model": "MODELS",
    "data_preprocessor": "MODELS",
    "init_cfg": "WEIGHT_INITIALIZERS",
    "dataset": "DATASETS",
    "datasets": "DATASETS",
    "donors": "DATASETS",
    "pipeline": "TRANSFORMS",
    "transforms": "TRANSFORMS",
    "views": "TRANSFORMS",
    "sampler": "DATA_SAMPLERS",
    "batch_sampler": "DATA_SAMPLERS",
    "collate_fn": "FUNCTIONS",
    "worker_init_fn": "FUNCTIONS",
    "default_hooks": "HOOKS",
    "custom_hooks": "HOOKS",
    "optim_wrapper": "OPTIM_WRAPPERS",
    "optimizer": "OPTIMIZERS",
    "param_scheduler": "PARAM_SCHEDULERS",
    "train_cfg": "LOOPS",
    "val_cfg": "LOOPS",
    "test_cfg": "LOOPS",
    "val_evaluator": "METRICS",
    "test_evaluator": "METRICS",
    "visualizer": "VISUALIZERS",
    "vis_backends": "VISBACKENDS",
    "log_processor": "LOG_PROCESSORS",
}
_ROOTS = [
    name
    for name in inspect.signature(Runner).parameters
    if name in _FIELDS or name.endswith("_dataloader")
]
# Options that mmengine takes out before the class sees the rest.
_TAKEN_OUT = {
    "HOOKS": {"priority"},
    "LOOPS": {"by_epoch"},
    "OPTIM_WRAPPERS": {"constructor", "paramwise_cfg"},
    "PARAM_SCHEDULERS": {"convert_to_iter_based"},
    "WEIGHT_INITIALIZERS": {"override"},
}
_DATALOADER = {"dataset", "num_batch_per_epoch", "disable_subprocess_warning"}
_GIVEN = {"self", "runner", "params", "kwargs", "args"}  # never options of a config
_OPAQUE = {"override", "clip_grad", "metainfo", "backend_args"}
# Classes that accept **kwargs but fail on what they do not name.
_CLOSED = (nn.Module, CheckpointHook)


def check_config(cfg: Any) -> None:
    """Check the types and options of everything that the Runner will build.

    Raises:
        ConfigError: One sentence per mistake, with the place, the class, the closest
            valid name and all options.
    """
    mistakes = list(_replaced(cfg))
    for name in _ROOTS:
        if cfg.get(name) is not None:
            mistakes += _walk(cfg[name], name, name, _FIELDS.get(name, ""))
    if mistakes:
        raise ConfigError("\n".join(mistakes))


def _replaced(cfg: Any) -> Iterator[str]:
    """Hooks that did in version 0.1 what the model does now."""
    ours = not str((cfg.get("model") or {}).get("type")).startswith("mmpretrain.")
    for i, hook in enumerate(cfg.get("custom_hooks") or ()):
        name = str(hook.get("type")) if isinstance(hook, dict) else ""
        if ours and name.rpartition(".")[2] == "DenseCLHook":
            yield (
                f"custom_hooks[{i}]: DenseCLHook has no effect on this model; take it "
                'out and set model.loss_lambda=dict(kind="step", start=0, end=0.5, '
                f"until={hook.get('start_iters', 1000)})."
            )


def _walk(node: Any, field: str, path: str, kind: str) -> Iterator[str]:
    if isinstance(node, (list, tuple)):
        for i, item in enumerate(node):
            yield from _walk(item, field, f"{path}[{i}]", kind)
        return
    if not isinstance(node, dict):
        return
    if field.endswith("dataloader"):
        options = _parameters(DataLoader) or []
        yield from _unknown(node, path, "DataLoader", {*options, *_DATALOADER})
    elif kind:
        yield from _check(node, path, kind)
    for name, value in node.items():
        name = str(name)
        skipped = name.endswith("_cfg") and name not in _FIELDS
        # Hooks go by names of their own, of which some are fields elsewhere.
        below = kind if path == "default_hooks" else _FIELDS.get(name, kind)
        if name not in _OPAQUE and not skipped:
            yield from _walk(value, name, f"{path}.{name}", below)


def _check(node: dict, path: str, kind: str) -> Iterator[str]:
    target = node.get("type") or _default(node, path)
    if isinstance(target, str):
        found = _find(target, kind)
        if found is None:
            names = _names(kind)
            yield (
                f"{path}.type: there is no '{target}' among the "
                f"{kind.lower().replace('_', ' ')}.{closest(target, names)}"
            )
            return
        target = found
    if callable(target):
        options = _parameters(target)
        if options is not None:
            allowed = {*options, *_TAKEN_OUT.get(kind, ())}
            yield from _unknown(
                node, path, getattr(target, "__name__", str(target)), allowed
            )


def _default(node: dict, path: str) -> Callable | None:
    """What mmengine builds where a config gives no type."""
    if path == "train_cfg":
        return EpochBasedTrainLoop if node.get("by_epoch") else IterBasedTrainLoop
    if path == "optim_wrapper" and "optimizer" in node:
        return OptimWrapper
    return LogProcessor if path == "log_processor" else None


def _unknown(node: dict, path: str, owner: str, allowed: set[str]) -> Iterator[str]:
    allowed = allowed - _GIVEN
    for name in node:
        if name not in allowed and name not in ("type", "_scope_"):
            yield (
                f"{path}.{name}: {owner} has no option '{name}'."
                f"{closest(str(name), allowed)} Options: {', '.join(sorted(allowed))}."
            )


def _parameters(target: Callable) -> list[str] | None:
    """Names that a call of a class or function accepts; None where any is accepted.

    Where ``__init__`` passes **kwargs on, the names of the base classes count too;
    where it hands them to others (``timm.create_model``), any name may be right.
    """
    if not inspect.isclass(target):
        parameters = inspect.signature(target).parameters.values()
        accepts_any = any(p.kind is p.VAR_KEYWORD for p in parameters)
        return None if accepts_any else [p.name for p in parameters]
    names: list[str] = []
    for cls in target.__mro__:
        if "__init__" not in cls.__dict__ or cls is object:
            continue
        parameters = inspect.signature(cls.__dict__["__init__"]).parameters.values()
        names += [p.name for p in parameters if p.kind is not p.VAR_KEYWORD]
        passes_on = any(p.kind is p.VAR_KEYWORD for p in parameters)
        if not passes_on or cls in _CLOSED:
            return names
        if _hands_on(cls.__dict__["__init__"]):
            return None
    # Nothing left that could take them: only a class without any __init__ is closed.
    return None if names else []


def _hands_on(function: Callable) -> bool:
    """Whether a constructor gives its **kwargs to others than its base classes."""
    try:
        source = textwrap.dedent(inspect.getsource(inspect.unwrap(function)))
        tree = ast.parse(source).body[0]
    except (OSError, TypeError, SyntaxError):  # no source, as of what is compiled
        return False
    if not isinstance(tree, ast.FunctionDef) or tree.args.kwarg is None:
        return False
    name = tree.args.kwarg.arg
    return any(
        any(k.arg is None and _is_name(k.value, name) for k in call.keywords)
        and not (isinstance(call.func, ast.Attribute) and call.func.attr == "__init__")
        for call in _calls(tree, name)
    )


def _calls(node: ast.AST, name: str) -> Iterator[ast.Call]:
    """Calls in a function in which ``name`` means its own keywords."""
    for child in ast.iter_child_nodes(node):
        inner = getattr(child, "args", None)
        if isinstance(inner, ast.arguments) and inner.kwarg and inner.kwarg.arg == name:
            continue  # a function inside, with keywords of its own
        if isinstance(child, ast.Call):
            yield child
        yield from _calls(child, name)


def _is_name(node: ast.AST, name: str) -> bool:
    return isinstance(node, ast.Name) and node.id == name


def _registries(kind: str) -> list[Registry]:
    """The registry of mmssl_ext, its parent in mmpretrain, the root in mmengine."""
    modules = (own_registries, pretrain_registries, root_registries)
    return [getattr(module, kind) for module in modules if hasattr(module, kind)]


def _find(name: str, kind: str) -> Callable | None:
    registries = _registries(kind)
    for last in (False, True):
        try:
            if (found := registries[0].get(name)) is not None:
                return found
        except RuntimeError:  # mmengine's way to say that it is no import path either
            pass
        if not last:  # what stands in a parent counts only once it is imported
            for registry in registries[1:]:
                registry.import_from_location()
    return None


def _names(kind: str) -> set[str]:
    return {name for registry in _registries(kind) for name in registry.module_dict}
