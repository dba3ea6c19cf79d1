"""Put options into a config; one that leads nowhere is refused by its name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmengine.config import Config, ConfigDict

from mmssl_ext.errors import ConfigError
from mmssl_ext.text import cut


def merge(cfg: Config, options: Mapping[str, Any]) -> None:
    """Apply options to a config, in place; a dict replaces what stood there.

    Raises:
        ConfigError: An option goes below what has nothing below it, or names no entry
            of a list.
    """
    try:
        _merge(cfg, options)
    except (KeyError, TypeError, IndexError, AttributeError) as error:
        raise ConfigError(
            f"--cfg-options cannot be applied to {cfg.filename}: {error}"
        ) from error


def _merge(cfg: Config, options: Mapping[str, Any]) -> None:
    _check_together(options)
    for option, value in options.items():
        node, last = _above(cfg, option), option.rpartition(".")[2]
        _check_section(option, node, last, value)
        if not isinstance(value, dict):
            continue
        if _item(node, last) is not None:
            node[int(last)] = ConfigDict(value)
        else:
            cfg.merge_from_dict({option: None})
            cfg.merge_from_dict({option: {"_delete_": True, **value}})
    rest = {k: v for k, v in options.items() if not isinstance(v, dict)}
    cfg.merge_from_dict(rest)


def _check_together(options: Mapping[str, Any]) -> None:
    """Refuse an option below another one that leaves nothing below it."""
    for option in options:
        above, dot, _ = option.rpartition(".")
        while dot:
            if above in options and not isinstance(options[above], dict):
                raise ConfigError(
                    f"--cfg-options cannot be applied together: {option} goes below "
                    f"{above}={cut(repr(options[above]))}, which is no dict."
                )
            above, dot, _ = above.rpartition(".")


def _check_section(option: str, node: Any, key: str, value: Any) -> None:
    """Refuse to replace what has a type by what nothing can be built from."""
    old = _child(node, key)
    if not isinstance(old, dict) or "type" not in old or value is None:
        return
    if isinstance(value, dict) and "type" not in value:
        name = next(iter(value), "KEY")
        raise ConfigError(
            f"--cfg-options {option} replaces all of {option}, and has no type. Give "
            f"type={old['type']} too, or change single values by {option}.{name}=..."
        )
    if not isinstance(value, (dict, list, tuple)):
        raise ConfigError(
            f"--cfg-options {option}={cut(repr(value))}: this is a section of the "
            f"config. Change single values of it by {option}.KEY=VALUE."
        )


def _above(cfg: Config, option: str) -> Any:
    """What an option stands in; None where that is to be made."""
    keys = option.split(".")
    node: Any = cfg
    for place, key in enumerate(keys):
        name = ".".join(keys[:place])
        if isinstance(node, list):
            _check_entry(option, name, node, key)
        elif node is not None and not isinstance(node, (Config, Mapping)):
            whole = f"dict({key}=...)" if key.isidentifier() else "..."
            raise ConfigError(
                f"--cfg-options {option}: {name} is {cut(repr(node))}, not a dict; "
                f'give all of it: "{name}={whole}".'
            )
        if place < len(keys) - 1:
            node = _child(node, key)
    return node


def _check_entry(option: str, name: str, node: list, key: str) -> None:
    """Refuse what is no number of an entry of a list."""
    if _is_entry(node, key):
        return
    kinds = [x.get("type") if isinstance(x, Mapping) else None for x in node]
    held = ", ".join(str(kind) for kind in kinds) if all(kinds) else repr(node)
    count = f"{len(node)} entr{'y' if len(node) == 1 else 'ies'}"
    numbers = "0" if len(node) == 1 else f"a number of 0 to {len(node) - 1}"
    wanted = f"{numbers} in place of {key!r}, or all of it: " if node else ""
    raise ConfigError(
        f"--cfg-options {option}: {name} is a list of {count}"
        f"{f' ({cut(held)})' if node else ''}; give {wanted}{name}=[...]."
    )


def _is_entry(node: list, key: str) -> bool:
    return key.isascii() and key.isdigit() and int(key) < len(node)


def _child(node: Any, key: str) -> Any:
    known = isinstance(node, (Config, Mapping))
    return node.get(key) if known else _item(node, key)


def _item(node: Any, key: str) -> Any:
    known = isinstance(node, list) and _is_entry(node, key)
    return node[int(key)] if known else None
