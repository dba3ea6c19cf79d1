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

import builtins
import importlib
import json
import os
import re
import tempfile
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.registry import registry as registries

from mmssl_ext import compat
from mmssl_ext.errors import ConfigError

from .strict_syntax import OWN_ONLY, Checker, is_own

#: Packages whose registries a config may name.
SCOPES = ("mmssl_ext", "mmengine", "mmcv", "mmpretrain", "mmdet", "mmseg")

_PLACEHOLDER = re.compile(  # as in mmengine
    r"\{\{['\"]?\s*\$(\w+)\s*:\s*(\S*?)\s*['\"]?\}\}"
)
_PLAIN_DEFAULT = re.compile(r"[\w./:~@+,=-]*")
_TYPE = re.compile(r"(?:(\w+)\.)?(?:torchvision/)?([A-Za-z]\w*)")
# What upstream evals in these options, and whole classes that eval more of theirs.
_EVALUATED = {"dtype": re.compile(r"[\w.]*"), "warp_mode": re.compile(r"[\w.]*")}
_EVALUATING = frozenset({"RFSearchHook"})
_MAX_BASES = 50  # one below the other


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
        ConfigError: A ``type`` is no name of a registry, a scope is none of
            :data:`SCOPES`, or ``custom_imports`` names other modules than ours.
    """
    if cfg.get("custom_imports") and not is_own(cfg.get("custom_imports")):
        raise ConfigError(OWN_ONLY)
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
    if match is None or hasattr(builtins, match[2]) or match[2] in _EVALUATING:
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
    checker = Checker(file, text)
    checker.check()
    if (filled := _filled(file, text)) != text:
        if checker.is_lazy:
            raise ConfigError(
                f"Config {file}: placeholders have no meaning beside read_base()."
            )
        checker = Checker(file, filled)
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
    if "custom_imports" in content and not is_own(content["custom_imports"]):
        raise ConfigError(f"Config {file}: {OWN_ONLY}")
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
