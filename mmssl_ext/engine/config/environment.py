r"""Names from outside in a config: ``"{{$DATA:data}}/train"``, ``"{{fileDirname}}"``.

mmengine pastes such a value into the file as it is: of a folder called ``C:\new`` the
config would see a line end, one with a quotation mark would end the string, and one
that is no UTF-8 could not be written at all.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from mmssl_ext import compat

# {{$NAME:default}} in a string; {{'$NAME:default'}} stands for code.
_PLACE = re.compile(r"\{\{(['\"]?)\s*\$(\w+)\s*:\s*(\S*?)\s*['\"]?\}\}")
_FILE = re.compile(r"\{\{\s*(file(?:Dirname|Basename(?:NoExtension)?|Extname))\s*\}\}")
_SPECIAL = re.compile("[\\\\'\"\\x00-\\x1f\\x7f\\ud800-\\udfff]")


def enable_environment() -> None:
    """Let mmengine put the environment and file names into strings as they are."""
    compat.replace_config_step("environment", lambda _: _fill_environment)
    compat.replace_config_step("file_names", lambda _: _fill_file_names)


def _fill_environment(filename: str, temp_config_name: str) -> dict[str, str]:
    found: dict[str, str] = {}
    in_python = filename.endswith(".py")

    def value(match: re.Match[str]) -> str:
        code, name, default = match.groups()
        text = os.environ.get(name, default)
        if not text:
            raise KeyError(
                f"`{name}` cannot be found in `os.environ`. Please set `{name}` "
                "in environment or give a default value."
            )
        if name not in os.environ:
            return text
        found[name] = text
        return in_string(text) if in_python and not code else text

    text = Path(filename).read_text(encoding="utf-8")
    Path(temp_config_name).write_text(_PLACE.sub(value, text), encoding="utf-8")
    return found


def _fill_file_names(filename: str, temp_config_name: str) -> None:
    path = Path(filename)
    values = {
        "fileDirname": str(path.parent),
        "fileBasename": path.name,
        "fileBasenameNoExtension": path.stem,
        "fileExtname": path.suffix,
    }
    if path.suffix == ".py":
        values = {k: in_string(v) for k, v in values.items()}
    text = path.read_text(encoding="utf-8")
    text = _FILE.sub(lambda match: values[match[1]], text)
    Path(temp_config_name).write_text(text, encoding="utf-8")


def in_string(text: str) -> str:
    """Return a text as it stands in a string of Python, in quotes of either kind."""
    return _SPECIAL.sub(lambda match: f"\\u{ord(match[0]):04x}", text)
