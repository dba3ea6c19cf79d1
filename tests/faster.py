"""What mmengine does in every run, and the tests need once per process or never."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import pickle
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mmengine.runner.loops as loops_module
import mmengine.runner.runner as runner_module
import yapf.yapflib.yapf_api as yapf
from mmengine.config import Config

import mmssl_ext.engine.config.read as read_module
from mmssl_ext.engine.config.variables import config_files


def quicken() -> None:
    """Let the runs of this process share and skip what would take most of their time.

    Formatting the same config five times, asking compilers for their versions, and two
    seconds of sleep before a loop by iterations begins with its images again. Runs
    follow one another so closely then that some would begin in the same second, by
    which their logs are named: every run gets a second of its own.
    """
    if hasattr(yapf.FormatCode, "__wrapped__"):
        return
    format_code, report = yapf.FormatCode, runner_module.collect_env
    last = 0.0

    @functools.lru_cache(64)
    def formatted(text: str, options: str) -> tuple:
        return format_code(text, **json.loads(options))

    @functools.wraps(format_code)
    def remembered(text: str, **options: Any) -> tuple:
        return formatted(text, json.dumps(options))

    def seconds() -> float:
        nonlocal last
        last = max(time.time(), last + 1)
        return last

    read_module.read_config = once_read(read_module.read_config)
    found = functools.cache(report)
    yapf.FormatCode = remembered
    runner_module.collect_env = functools.wraps(report)(lambda: dict(found()))
    runner_module.time = SimpleNamespace(
        time=seconds, localtime=time.localtime, strftime=time.strftime
    )
    loops_module.time = SimpleNamespace(sleep=lambda _: None)


def once_read(read: Callable[..., Config]) -> Callable[..., Config]:
    """Read a config anew only where a file of it or the environment has changed.

    Processes of one run of :mod:`tests.supervise` share what they have read.
    """
    seen: dict[str, bytes] = {}
    run = Path(tempfile.gettempdir())
    shared = run / "configs" if run.parent.name.startswith("mmssl-ext-tests-") else None

    @functools.wraps(read)
    def remembered(path: str | Path, values: dict[str, Any], fixed: Any = ()) -> Config:
        files = [(str(f), f.stat()) for f in config_files(path)]
        stamps = [(name, s.st_ino, s.st_mtime_ns, s.st_size) for name, s in files]
        environment = {k: v for k, v in os.environ.items() if "PYTEST" not in k}
        key = repr((stamps, values, sorted(fixed), os.getcwd(), environment))
        digest = hashlib.sha256(key.encode()).hexdigest()
        file = shared / digest if shared is not None else None
        if key not in seen and file is not None and file.is_file():
            seen[key] = file.read_bytes()
        if key not in seen:
            cfg = read(path, values, fixed)
            try:
                seen[key] = pickle.dumps(cfg)
            except Exception:  # holds a function or a module
                return cfg
            if file is not None:
                keep(file, seen[key])
        return pickle.loads(seen[key])

    return remembered


def keep(file: Path, content: bytes) -> None:
    """Write a file that other processes see whole or not at all."""
    file.parent.mkdir(exist_ok=True)
    draft = file.with_name(f"{file.name}.{os.getpid()}")
    draft.write_bytes(content)
    draft.replace(file)


def warm_up() -> None:
    """Do that work once, for the processes that are forked from this one."""
    quicken()
    Config({"a": 1}).pretty_text  # noqa: B018
    runner_module.collect_env()
