"""What the transfers of a chain start from."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from mmssl_ext.engine.checkpoint.run_folder import find_run
from mmssl_ext.engine.weights.download import local_path
from mmssl_ext.errors import ConfigError

PRETRAIN = "pretrain"
START = "start"
NAME = re.compile(r"[A-Za-z0-9][\w.]*(-[\w.]+)*")


def read_sources(
    path: Path, cfg: Mapping[str, Any], pretraining: Callable[[], Any]
) -> dict[str, Path | str | None]:
    """Sources of a chain file: name to path, ``pretrain``, or None for random weights.

    Args:
        path: Of the file, for messages.
        cfg: Its content.
        pretraining: Returns the config of its pretraining.

    Raises:
        ConfigError: One cannot be used.
    """
    given = cfg.get("sources")
    if given is None and cfg.get(PRETRAIN):
        given = {"random": None, "pretrained": PRETRAIN}
    if not isinstance(given, dict) or not given:
        raise ConfigError(
            f"{path}: sources must say what the transfers start from, like "
            'sources = {"random": None, "pretrained": "pretrain"}.'
        )
    found: dict[str, Path | str | None] = {}
    for name, value in given.items():
        place = f"{path}: sources['{name}']"
        if not isinstance(name, str) or not NAME.fullmatch(name):
            raise ConfigError(f"{place}: use letters, digits, '_', '.' and '-'.")
        if value is None:
            found[name] = None
        elif value == PRETRAIN:
            if not cfg.get(PRETRAIN):
                raise ConfigError(f"{place} is 'pretrain', but there is no pretrain.")
            found[name] = PRETRAIN
        elif value == START:
            found[name] = _start_of(path, cfg, place, pretraining)
        elif isinstance(value, str):
            found[name] = find(path, value, place)
        else:
            raise ConfigError(f"{place} must be None, 'pretrain', 'start' or a path.")
    return found


def _start_of(
    path: Path, cfg: Mapping[str, Any], place: str, pretraining: Callable[[], Any]
) -> Path:
    """The file of the weights that the backbone of the pretraining begins with.

    Raises:
        ConfigError: It begins with random ones, or there is no pretraining.
    """
    if not cfg.get(PRETRAIN):
        raise ConfigError(f"{place} is 'start', but there is no pretrain.")
    model = pretraining().get("model") or {}
    given = (model.get("backbone") or {}).get("init_cfg") or {}
    if not isinstance(given, dict) or "checkpoint" not in given:
        raise ConfigError(
            f"{place} is 'start', but the pretraining begins with random weights: set "
            "its model.backbone.init_cfg, or leave this source out."
        )
    return find(path, str(local_path(given["checkpoint"])), place)


def find(
    chain_file: Path,
    name: str,
    place: str,
    otherwise: Callable[[str], Path | None] = lambda name: None,
) -> Path:
    """A file by its path, from the current folder or that of the chain file.

    Raises:
        ConfigError: There is none.
    """
    for path in (Path(name), chain_file.parent / name):
        if path.is_file():
            return path
    if (found := otherwise(name)) is not None:
        return found
    for path in (Path(name), chain_file.parent / name):
        if path.is_dir():
            run = find_run(path)
            such = "" if run is None else f", such as {run.newest}"
            raise ConfigError(f"{place}: {name} is a folder; name a file in it{such}.")
    raise ConfigError(
        f"{place}: there is no file {name} (looked from {Path.cwd()} and "
        f"{chain_file.parent.absolute()})."
    )
