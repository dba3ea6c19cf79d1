"""Work that mmengine repeats in every run and that the tests need once per process."""

from __future__ import annotations

import functools
import json
from typing import Any

import mmengine.runner.runner as runner_module
import yapf.yapflib.yapf_api as yapf
from mmengine.config import Config


def quicken() -> None:
    """Remember the formatted text of a config, and the report on the environment.

    Most of the time of a run of four small steps would go into formatting the same
    config five times, and into asking compilers for their versions.
    """
    if hasattr(yapf.FormatCode, "__wrapped__"):
        return
    format_code, report = yapf.FormatCode, runner_module.collect_env

    @functools.lru_cache(64)
    def formatted(text: str, options: str) -> tuple:
        return format_code(text, **json.loads(options))

    @functools.wraps(format_code)
    def remembered(text: str, **options: Any) -> tuple:
        return formatted(text, json.dumps(options))

    found = functools.cache(report)
    yapf.FormatCode = remembered
    runner_module.collect_env = functools.wraps(report)(lambda: dict(found()))


def warm_up() -> None:
    """Do that work once, for the processes that are forked from this one."""
    quicken()
    Config({"a": 1}).pretty_text  # noqa: B018
    runner_module.collect_env()
