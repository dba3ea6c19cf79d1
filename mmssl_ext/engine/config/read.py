"""Read a config with its bases, variables and ``--cfg-options``, without torch.

Modules of ``custom_imports`` are imported later, by :func:`import_modules`: a misspelt
name of a config or option is refused in a moment.
"""

from __future__ import annotations

import math
import os
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.utils import import_modules_from_strings

from mmssl_ext.errors import ConfigError, UserError
from mmssl_ext.packaged import enable_bases, find_config
from mmssl_ext.room import no_room
from mmssl_ext.text import closest, cut

from .environment import enable_environment
from .merge import merge
from .options import check_keys, enable_options
from .strict import check_names, check_strict, enforce
from .variables import config_files, enable_variables, read_config, variables

enable_bases()
enable_environment()
enable_options()

_RUNNER_KEYS = """
    model work_dir train_dataloader val_dataloader test_dataloader train_cfg val_cfg
    test_cfg auto_scale_lr optim_wrapper param_scheduler val_evaluator test_evaluator
    default_hooks custom_hooks data_preprocessor load_from resume launcher env_cfg
    log_processor log_level visualizer default_scope randomness experiment_name cfg
    compile sync_bn find_unused_parameters model_wrapper_cfg activation_checkpointing
    efficient_conv_bn_eval custom_imports runner_type
"""
#: What mmengine's Runner takes, and what it looks up in the config besides.
RUNNER_KEYS = frozenset(_RUNNER_KEYS.split())
enable_variables(RUNNER_KEYS)
# Variables of SGD and LARS -> what counts where AdamW takes their place.
_OF_ADAMW = {
    "lr": "adamw_lr",
    "weight_decay": "adamw_decay",
    "lr_warmup": "adamw_warmup",
}
# Package -> the extra that brings it.
_EXTRAS = {
    "mmdet": "detection",
    "mmseg": "segmentation",
    "pycocotools": "detection",
    "timm": "timm",
}
# Hooks that its Runner has, whatever the config says.
_OF_MMENGINE = ("runtime_info", "timer", "sampler_seed", "param_scheduler")


def read(
    path: str | Path, options: Mapping[str, Any] | None = None, strict: bool = False
) -> Config:
    """Read a config file and apply ``--cfg-options``.

    A path that leads to no file names a config of the package (``co2/co2_r18_demo.py``,
    ``mmssl_ext::co2/co2_r18_demo.py``). An option that names a variable at the top
    level of the file or of one of its bases changes everything that the files compute
    from it. ``strict`` takes the files for data (see
    :mod:`~mmssl_ext.engine.config.strict`).

    Raises:
        ConfigError: The file or one of its bases is missing or no valid config, or an
            option names nothing that takes effect.
    """
    try:
        path = find_config(path)
    except FileNotFoundError as error:
        raise ConfigError(str(error)) from error
    if strict:
        check_strict(path)
        enforce()
    elif os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())  # where `custom_imports` has modules of the user's
    options = dict(options or {})
    check_keys(options)
    _check_finite(options)
    given = set(options)
    cfg = _read(path, options)
    _check_rate(given, cfg)
    for option, value in options.items():
        _check_option(option, cfg)
        _check_hook(option, value, cfg)
    merge(cfg, options)
    if strict:
        check_names(cfg)
    cfg.setdefault("default_scope", "mmssl_ext")
    return cfg


def import_modules(cfg: Config) -> Config:
    """Import what ``custom_imports`` of a config names, and return the config.

    Raises:
        ConfigError: A module cannot be imported.
    """
    given = cfg.get("custom_imports")
    if given is None or given == {}:
        return cfg
    if why := _no_imports(given):
        raise ConfigError(
            f"custom_imports of config {cfg.filename}: {why}. Give a list of names of "
            "modules: custom_imports=dict(imports=['my_parts'])."
        )
    try:
        import_modules_from_strings(**given)
    except ImportError as error:
        raise ConfigError(
            f"custom_imports of config {cfg.filename}: {_cause(error)}"
        ) from error
    return cfg


def _no_imports(given: Any) -> str:
    """Why a value is no ``custom_imports``, nothing where it is."""
    known = ("imports", "allow_failed_imports")
    if not isinstance(given, Mapping):
        return f"{cut(repr(given))} is no dict"
    if odd := [key for key in given if key not in known]:
        return f"it has no option {odd[0]!r}, only {' and '.join(known)}"
    names, allowed = given.get("imports"), given.get("allow_failed_imports", False)
    if not isinstance(names, (str, list)):
        return f"imports={cut(repr(names))} must be a list of text"
    for name in [names] if isinstance(names, str) else names:
        if not isinstance(name, str) or not all(map(str.isidentifier, name.split("."))):
            return f"{cut(repr(name))} in imports is no name of a module"
    if not isinstance(allowed, bool):
        return f"allow_failed_imports={cut(repr(allowed))} must be True or False"
    return ""


def _cause(error: Exception) -> str:
    """What a module of ``custom_imports`` lacks, and what to do."""
    first = error.__context__  # mmengine names the module alone
    missing = first.name if isinstance(first, ModuleNotFoundError) else None
    if missing in _EXTRAS:
        extra = f"pip install 'mmssl_ext[{_EXTRAS[missing]}]'"
        return f"{missing} is not installed: {extra}."
    named = str(error).removeprefix("Failed to import ").strip()
    if missing and not f"{named}.".startswith(f"{missing}."):
        return f"{named} imports {missing}, which is not installed."
    if isinstance(first, ImportError) and not missing:
        return f"{named} cannot be imported: {first}."
    return (
        f"there is no module {named}. Start from the folder that holds it, or name "
        "that folder in PYTHONPATH."
    )


def _read(path: Path, options: dict[str, Any]) -> Config:
    """The config of a file; takes options that name variables out of ``options``."""
    values: dict[str, Any] = {}
    try:
        config_files(path)  # mmengine would follow a circle of bases without end
        names = {name for name in options if "." not in name} - RUNNER_KEYS
        names &= variables(path) if names else set()
        values = {name: options.pop(name) for name in names}
        return read_config(path, values, RUNNER_KEYS)
    except FileNotFoundError as error:
        problem = f"needs a file that does not exist: {error}. Check _base_."
        raise ConfigError(f"Config {path} {problem}") from error
    except SyntaxError as error:
        raise ConfigError(
            f"Config {path} or one of its bases is not valid Python: line "
            f"{error.lineno}: {error.msg}."
        ) from error
    # An import in the file, a suffix, duplicate or odd keys, a value of another kind
    # than it is taken apart as.
    except (ImportError, OSError, KeyError, TypeError, ValueError) as error:
        if isinstance(error, ConfigError):
            raise
        if (blamed := _blamed(path, values, error)) is not None:
            raise blamed from error
        if (full := no_room(error)) is not None:
            raise ConfigError(
                f"Config {path} cannot be read by way of a copy in "
                f"{tempfile.gettempdir()}: {full.strerror}. Make room there, or let "
                "TMPDIR name another folder."
            ) from error
        raise ConfigError(f"Config {path} cannot be read: {error}") from error


def _blamed(
    path: Path, values: Mapping[str, Any], error: Exception
) -> ConfigError | None:
    """The sentence about options with which a file cannot be computed.

    None where it cannot without them either.
    """

    def fails(some: Mapping[str, Any]) -> bool:
        try:
            usual.append(read_config(path, dict(some), RUNNER_KEYS))
        except Exception:  # whatever the file's expressions raise
            return True
        return False

    usual: list[Config] = []
    if not values or fails({}):
        return None
    alone = [name for name in values if fails({name: values[name]})]
    named = alone[:1] or list(values)
    given = " ".join(f"{name}={cut(repr(values[name]))}" for name in named)
    if isinstance(error, UserError):  # says what is wrong
        return ConfigError(f"--cfg-options {given}: {error}")
    own = " and ".join(f"{name}={cut(repr(usual[0].get(name)))}" for name in named)
    return ConfigError(
        f"--cfg-options {given}: the config computes other values from it, which fails "
        f"with this one. Give a value of the kind of its own, {own}."
    )


def _check_finite(options: Mapping[str, Any], within: str = "") -> None:
    """Refuse nan and inf, which mmengine cannot write into a config."""
    for key, value in options.items():
        name = f"{within}{key}"
        many = value if isinstance(value, (list, tuple)) else [value]
        if isinstance(value, Mapping):
            _check_finite(value, f"{name}.")
        elif any(isinstance(x, float) and not math.isfinite(x) for x in many):
            raise ConfigError(f"--cfg-options {name}={value} must be finite.")


def _check_rate(options: set[str], cfg: Config) -> None:
    """Refuse a rate of SGD or LARS where AdamW trains, and the other way round."""
    wrapper = cfg.get("optim_wrapper") or {}
    optimizer = (wrapper.get("optimizer") or {}).get("type")
    for usual, of_adamw in _OF_ADAMW.items():
        idle, counts = usual, of_adamw
        if optimizer != "AdamW":
            idle, counts = of_adamw, usual
        if idle in options and usual in cfg and of_adamw in cfg:
            raise ConfigError(
                f"--cfg-options {idle}: backbone={cfg.get('backbone')} is trained by "
                f"{optimizer}, where {idle} does nothing; set {counts}."
            )


def _check_option(option: str, cfg: Config) -> None:
    """Refuse an option that the Runner would never look at."""
    root = option.split(".")[0]
    if root in RUNNER_KEYS:
        return
    if root not in cfg:
        raise ConfigError(
            f"--cfg-options {option}: the config has no '{root}'."
            f"{closest(root, RUNNER_KEYS | set(cfg))}"
        )
    raise ConfigError(
        f"--cfg-options {option}: '{root}' is a variable that the config file puts to "
        f"use as a whole. Give all of it ({root}=...), or change it where it is used."
    )


def _check_hook(option: str, value: Any, cfg: Config) -> None:
    """Refuse to switch off a hook that is not there, but one of nearly that name."""
    root, _, name = option.partition(".")
    hooks = [*(cfg.get("default_hooks") or ()), *_OF_MMENGINE]
    if root != "default_hooks" or value is not None or name in ("", *hooks):
        return
    if "." not in name and (meant := closest(name, hooks)):
        raise ConfigError(
            f"--cfg-options {option}=None: default_hooks has no '{name}'.{meant}"
        )
