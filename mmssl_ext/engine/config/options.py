"""``--cfg-options KEY=VALUE``: values with blanks, quotes and brackets.

mmengine's own reading drops all blanks: ``classes=(red disk,square)`` named the class
``reddisk``, and ``data_root=my photos`` the folder ``myphotos``.
"""

from __future__ import annotations

import copy
import re
from argparse import Action
from collections.abc import Mapping
from typing import Any

from mmssl_ext import compat
from mmssl_ext.errors import ConfigError
from mmssl_ext.text import cut

_BRACKETS = {"(": ")", "[": "]"}
_QUOTES = "'\""
_DICT = re.compile(r"dict\((.*)\)", re.DOTALL)


def enable_options() -> None:
    """Let mmengine's ``DictAction``, which all tools use, read values like this."""
    compat.read_options_by(parse_value, _store)


def check_keys(options: Mapping[Any, Any]) -> None:
    """Refuse options whose names can name nothing.

    Raises:
        ConfigError: One is no text, or a part of it is empty.
    """
    for key in options:
        if not isinstance(key, str) or not all(key.split(".")):
            raise ConfigError(
                f"--cfg-options: {cut(repr(key))} is no name of an option. Write names "
                "with dots between them, such as optim_wrapper.optimizer.lr."
            )


def parse_value(text: str) -> Any:
    """Value of an option.

    ``(a,b)`` is a tuple, ``[a,b]`` and ``a,b`` are lists, ``dict(a=1,b=2)`` is a dict
    as in a config, and they may be nested; numbers, ``True``, ``False`` and ``None``
    are what they look like, everything else is a string. Blanks count within an item,
    not around it. Quotes make a string of an item, whatever stands between them.

    Raises:
        ConfigError: Brackets or quotes are not closed, or a dict has no keys.
    """
    text = text.strip()
    if (inner := _unquoted(text)) is not None:
        # Shells and scripts may leave a pair of quotes around it all.
        return parse_value(inner) if inner[:1] in _BRACKETS else _scalar(inner)
    return _parse(text)


def _parse(text: str) -> Any:
    if (inner := _unquoted(text)) is not None:
        return inner
    if text[:1] not in _BRACKETS and "," not in text:
        return _dict_or_scalar(text)
    items = _items(text)
    if len(items) > 1 or text.endswith(","):
        return [_parse(item) for item in items]
    if text[:1] not in _BRACKETS:
        return _dict_or_scalar(text)
    if text[-1] != _BRACKETS[text[0]]:  # (a)b
        return _scalar(text)
    values = [_parse(item) for item in _items(text[1:-1])]
    return tuple(values) if text[0] == "(" else values


def _dict_or_scalar(text: str) -> Any:
    found = _DICT.fullmatch(text)
    if found is None:
        if text.startswith("dict("):
            _items(text)  # refuses what is not closed
        return _scalar(text)
    values: dict[str, Any] = {}
    for item in _items(found[1]):
        name, equals, value = (part.strip() for part in item.partition("="))
        if not equals or not name.isidentifier() or name in values:
            raise ConfigError(
                f"--cfg-options: {item!r} in {text}: write dict(NAME=VALUE,...), each "
                "name once."
            )
        values[name] = _parse(value)
    return values


def _items(text: str) -> list[str]:
    """Split at the commas outside of brackets and quotes; one may stand at the end."""
    items, start, closing, quote, before = [], 0, "", "", ","
    for place, char in enumerate(text):
        if quote:
            quote = "" if char == quote else quote
        elif char in _QUOTES and before in ",([=":
            quote = char  # only where an item begins: driver's licence
        elif char in _BRACKETS:
            closing += _BRACKETS[char]
        elif closing and char == closing[-1]:
            closing = closing[:-1]
        elif char == "," and not closing:
            items.append(text[start:place].strip())
            start = place + 1
        before = before if char.isspace() else char
    if closing or quote:
        raise _open_end(text)
    last = text[start:].strip()
    return [*items, last] if last else items


def _unquoted(text: str) -> str | None:
    """What stands between the quotes of an item; None where it has none."""
    if len(text) < 2 or text[0] not in _QUOTES or text[-1] != text[0]:
        return None
    return text[1:-1] if text[0] not in text[1:-1] else None


def _scalar(text: str) -> Any:
    return compat.plain_value(text)


def _open_end(text: str) -> ConfigError:
    return ConfigError(
        f"--cfg-options: brackets or quotes in {text} are not closed. Put the whole "
        "option into quotes, without which the shell splits it at its blanks: "
        '"classes=(traffic light,car)".'
    )


def _store(
    self: Action, parser: Any, namespace: Any, values: Any, option_string: Any = None
) -> None:
    """Add options to those that were given before, as mmengine does."""
    options = copy.copy(getattr(namespace, self.dest, None) or {})
    for given in values or ():
        key, equals, value = given.partition("=")
        if not equals or not key.strip():
            raise ConfigError(
                f"{option_string} {given}: write KEY=VALUE, and put an option that "
                'has blanks into quotes: "classes=(traffic light,car)".'
            )
        options[key.strip()] = parse_value(value)
    setattr(namespace, self.dest, options)
