"""What a pretraining was asked for, as a command, and whether it is so again."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmssl_ext.backbones import backbone_named
from mmssl_ext.errors import ConfigError
from mmssl_ext.files import read_text
from mmssl_ext.text import shown

from .methods import method_named
from .networks import whole_path

_ASKED = "Written by:"  # in a recipe, before the command


def command_of(data: Any, out: Any, asked: Mapping[str, Any]) -> str:
    """What was asked for, as a command line."""
    words = ["mmssl-ext", "pretrain", os.fspath(data), "--out", os.fspath(out)]
    for name, value in asked.items():
        if value is None or (name == "seed" and value == 0):
            continue
        if name == "options":
            pairs = [f"{key}={item!r}" for key, item in value.items()]
            words += ["--cfg-options", *pairs] if pairs else []
            continue
        many = isinstance(value, Sequence) and not isinstance(value, str)
        if name == "bands" and many:
            value, many = ",".join(map(str, value)) + "," * (len(value) == 1), False
        words += [f"--{name.replace('_', '-')}", *map(str, value if many else [value])]
    return shown(shlex.join(words)).replace('"""', "'''").replace("\\", "/")


def check_same(recipe: Path, command: str, out: Path) -> None:
    """Refuse to go on by other settings than those of the run.

    Names may be spelt otherwise, and the images and the run may have been moved.

    Raises:
        ConfigError: The recipe was written for another command.
    """
    text = " ".join(read_text(recipe).split('"""')[1].split())
    written = text.partition(_ASKED)[2].partition(" What is assigned here")[0].strip()
    before, now = _meaning(written), _meaning(" ".join(command.split()))
    none = "not given"
    changed = [
        f"{name} was {before.get(name, none)} and is {now.get(name, none)}"
        for name in sorted(before.keys() | now.keys())
        if before.get(name) != now.get(name)
    ]
    if changed:
        raise ConfigError(
            f"The run in {out} was asked for by other options: {', '.join(changed)}. "
            f"Repeat its own to go on with it ({written}), or choose another folder. "
            f"Longer than it was to be it is trained by `mmssl-ext train {recipe} "
            f"--work-dir {out} --resume --cfg-options max_epochs=N`."
        )


def _meaning(command: str) -> dict[str, str]:
    """Options of a command by name, but for the places of the images and the run."""
    try:
        words = shlex.split(command)
    except ValueError:  # quotes that a shell would not close
        words = command.split(" ")
    found: dict[str, list[str]] = {}
    values: list[str] = []
    for word in words[3:]:
        if word.startswith("--"):
            values = found[word[2:]] = []
        else:
            values.append(word)
    found.pop("out", None)
    method = "".join(found.get("method", []))
    found["method"] = [method_named(method, found.get("teacher"))]
    found["cfg-options"] = sorted(found.get("cfg-options", []))
    for name in ("init", "teacher"):
        found[name] = list(map(whole_path, found.get(name, [])))
    if "backbone" in found:
        found["backbone"] = [backbone_named(x).name for x in found["backbone"]]
    return {name: " ".join(values) for name, values in found.items() if values}
