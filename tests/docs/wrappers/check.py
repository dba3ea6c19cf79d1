"""Read a command's options by its own parser, load its config, build the model."""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import io
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mmengine.config import DictAction

CONFIG = "configs/co2/co2_r18_demo.py"


class _Stopped(BaseException):  # no tool catches it
    def __init__(self, parser: argparse.ArgumentParser, args: Any) -> None:
        self.parser, self.found = parser, args


@contextlib.contextmanager
def _stopping(read: bool) -> Iterator[None]:
    """End a tool where it has read its options, or where it is about to."""
    parse = argparse.ArgumentParser.parse_args

    def stop(self: argparse.ArgumentParser, *args: Any, **kwargs: Any) -> None:
        raise _Stopped(self, parse(self, *args, **kwargs) if read else None)

    argparse.ArgumentParser.parse_args = stop
    try:
        yield
    finally:
        argparse.ArgumentParser.parse_args = parse


def parsed(name: str, read: bool = True) -> _Stopped | None:
    """Start a tool with ``sys.argv``; return its parser and what it has read.

    None where the tool has no options of its own. Wrong ones end the process.
    """
    from tests.warm.interpreter import start

    try:
        with _stopping(read):
            start(name)
    except _Stopped as found:
        return found
    return None


def check_tool(name: str) -> int:
    """Check the command that ``sys.argv`` holds; return the exit code."""
    # Pages share their commands for ImageNet. Configs of the pages' own may differ.
    words = " ".join([Path(name).name, *sys.argv[1:]])
    key = hashlib.sha256(words.encode()).hexdigest()
    done = Path(os.environ["DOCS_BIN"]).with_name(f"checked-{key}")
    if done.exists() and "--list" not in sys.argv:  # whose output a script reads
        return 0
    found = parsed(name)
    from mmssl_ext.errors import UserError

    try:
        if found is not None:
            check_args(found.found)
    except (UserError, FileNotFoundError) as error:
        print(f"Error: {error}", file=sys.stderr)
        return 2
    if any(word.startswith("configs/") for word in sys.argv[1:]):
        done.touch()
    return 0


def check_args(args: argparse.Namespace) -> None:
    """Load the config or chain that a command names."""
    if getattr(args, "chain", None):
        from mmssl_ext.chain.spec import read_chain

        chain = read_chain(args.chain)
        stages = chain.select(getattr(args, "only", []))
        for stage in {stage.config: stage for stage in stages}.values():
            stage.load()
        if getattr(args, "list", False):  # for tools/slurm_chain.sh, which submits them
            for stage in stages:
                print(stage.name, stage.needs or "-", "new", sep="\t")
    elif getattr(args, "config", None):
        build(args.config, getattr(args, "cfg_options", None))


def build(config: str, options: dict | None, drawn: bool = False) -> Any:
    """Load a config with the options, check all of it, and build its model.

    Drawing random weights would take most of the time; ``drawn`` says to do so.
    """
    from mmengine.registry import MODELS, init_default_scope

    from mmssl_ext.engine.config.checks import check_config
    from mmssl_ext.run.launch import load_config

    with contextlib.redirect_stdout(io.StringIO()):
        cfg = load_config(config, options)
        if cfg.default_scope == "mmssl_ext":
            check_config(cfg)
        init_default_scope(cfg.default_scope)
        if cfg.get("model") is None:
            return None
        with contextlib.nullcontext() if drawn else _undrawn():
            return MODELS.build(cfg.model)


@contextlib.contextmanager
def _undrawn() -> Iterator[None]:
    from torch import nn
    from torch.nn.modules.conv import _ConvNd

    layers = (_ConvNd, nn.Linear)
    before = [layer.reset_parameters for layer in layers]
    for layer in layers:
        layer.reset_parameters = lambda self: None
    try:
        yield
    finally:
        for layer, draw in zip(layers, before, strict=True):
            layer.reset_parameters = draw


def provide_missing(name: str) -> None:
    """Write the checkpoints that ``sys.argv`` names and nobody has trained.

    A bare name gets what the config of the command accepts. One in a folder gets the
    model that some page, or the config's own settings, train into this folder, and must
    be a name that this training writes.
    """
    words = [re.search(r"(?:^|=)([\w./-]*(?:epoch_\d+|CHECKPOINT)\.pth)$", word)
             for word in sys.argv[1:]]  # fmt: skip
    missing = {Path(word[1]) for word in words if word}
    for path in sorted(path for path in missing if not path.exists()):
        if path.parent != Path():
            if (run := writer(path)) is not None:
                provide(path, *run)
            continue
        found = parsed(name)
        options = dict(getattr(found.found, "cfg_options", None) or {}) if found else {}
        options = {k: None if k == "checkpoint" else v for k, v in options.items()}
        provide(path, getattr(found and found.found, "config", None) or CONFIG, options)


def writer(path: Path) -> tuple[str, dict] | None:
    """Config and options whose training writes a checkpoint ``DIR/epoch_N.pth``."""
    from mmssl_ext.run.launch import load_config

    runs = json.loads(Path(os.environ["DOCS_ROOT"], ".tmp", "runs.json").read_text())
    folder = path.parent.as_posix()
    for config, words in runs.get(folder, []):
        parser = argparse.ArgumentParser()
        parser.add_argument("--cfg-options", nargs="+", action=DictAction, default={})
        options = parser.parse_known_args(words)[0].cfg_options
        cfg = load_config(config, options)
        epoch, last = int(re.sub(r"\D", "", path.stem)), cfg.train_cfg.max_epochs
        interval = cfg.default_hooks.checkpoint.interval
        if epoch <= last and (epoch % interval == 0 or epoch == last):
            return config, options
    return None


def provide(path: Path, config: str, options: dict) -> None:
    """Write an untrained checkpoint of a config's model, or of its backbone alone."""
    import torch

    model = build(config, options, drawn=True)
    state = model.state_dict()
    if not hasattr(model, "queue_len") and hasattr(model, "backbone"):
        state = {f"backbone.{k}": v for k, v in model.backbone.state_dict().items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"state_dict": state, "meta": {}}, path)


def check_inline(text: str) -> str | None:
    """What is wrong with a command in the text of a page: target, tool, options."""
    words = shlex.split(text)
    while words and re.match(r"[A-Z_]+=", words[0]):
        words.pop(0)
    program, *rest = words
    if program == "make":
        rest = [word for word in rest if re.fullmatch(r"[a-z-]+", word)]
        done = subprocess.run(["make", *rest], stdout=subprocess.DEVNULL)
        return (
            f"there is no `make {' '.join(rest)}`" if rest and done.returncode else None
        )
    name = program
    if program.endswith(("python", "python3")):
        name = rest.pop(0)
        name = rest.pop(0) if name == "-m" else name
    if re.search(r"[*<{|]", name):  # several tools at once
        return None
    if name.startswith("tools/") and not Path(name).is_file():
        return f"there is no {name}"
    for word in rest:
        if word.startswith(("configs/", "tools/")) and not Path(word).exists():
            return f"there is no {word}"
    if program == "mmssl-ext" and rest and re.fullmatch(r"[a-z|-]+", rest[0]):
        from mmssl_ext.run.cli import COMMANDS

        unknown = {*rest[0].split("|")} - {*COMMANDS, "--path", "--help", "--version"}
        if unknown:
            return f"there is no command {' '.join(unknown)}"
    if not any(word.startswith("--") for word in rest[program == "mmssl-ext" :]):
        return None
    if name.endswith(".sh"):
        name = "tools/train.py" if "train" in name else "tools/chain.py"
    elif program == "mmssl-ext":
        if rest[0].isupper():
            return None
        name = "mmssl_ext.run.cli"
    sys.argv = [name, *rest]
    try:
        with contextlib.redirect_stderr(io.StringIO()) as said:
            found = parsed(name, read=False)
    except SystemExit as error:
        return said.getvalue() or (f"exit code {error.code}" if error.code else None)
    if found is None:
        return None
    known = found.parser._option_string_actions
    unknown = [x for x in rest if x.startswith("-") and x.split("=")[0] not in known]
    return f"{name} has no option {' '.join(unknown)}" if unknown else None
