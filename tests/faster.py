"""What mmengine does in every run, and the tests need once per process or never."""

from __future__ import annotations

import functools
import json
import time
from types import SimpleNamespace
from typing import Any

import mmengine.runner.loops as loops_module
import mmengine.runner.runner as runner_module
import yapf.yapflib.yapf_api as yapf
from mmengine.config import Config


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

    found = functools.cache(report)
    yapf.FormatCode = remembered
    runner_module.collect_env = functools.wraps(report)(lambda: dict(found()))
    runner_module.time = SimpleNamespace(
        time=seconds, localtime=time.localtime, strftime=time.strftime
    )
    loops_module.time = SimpleNamespace(sleep=lambda _: None)


def warm_up() -> None:
    """Do that work once, for the processes that are forked from this one."""
    quicken()
    Config({"a": 1}).pretty_text  # noqa: B018
    runner_module.collect_env()
