"""Python's command line within a process that runs already."""

from __future__ import annotations

import os
import runpy
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

Program = Callable[[list[str]], int | None]


class Refusal(Exception):
    """A command that could not be run like this."""


def run(program: str, argv: list[str]) -> int | None:
    """Run ``python ARGV``; return its exit code."""
    try:
        return python(argv)
    except Refusal as refusal:
        print(f"{program}: {refusal}", file=sys.stderr)
        return 2


def start(name: str) -> None:
    """Run a file or module as the main program."""
    if name.endswith(".py"):
        runpy.run_path(name, run_name="__main__")
    else:
        runpy.run_module(name, run_name="__main__", alter_sys=True)


def main_program(name: str, argv: list[str]) -> None:
    """The same with its arguments."""
    sys.argv = [name, *argv]
    start(name)


def python(
    argv: list[str],
    modules: Mapping[str, Program] | None = None,
    run: Callable[[str, list[str]], int | None] = main_program,
) -> int | None:
    """``python [options] [-c CODE | -m MODULE | FILE | -] [arguments]``.

    Args:
        argv: What follows ``python``.
        modules: Stand in for modules that ``-m`` names.
        run: Runs a file or module with its arguments.

    Raises:
        Refusal: The file does not exist.
    """
    argv, options = list(argv), []
    while argv and argv[0].startswith("-") and argv[0] not in ("-", "-c", "-m"):
        option = argv.pop(0)
        options.append(option)
        if option in ("-W", "-X"):
            argv.pop(0)
    if not argv and set(options) & {"-V", "--version"}:
        print(f"Python {sys.version.split()[0]}")
        return 0
    sys.path[:0] = filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))
    where = argv.pop(0) if argv else "-"
    if where == "-m":
        name = argv.pop(0)
        if modules and name in modules:
            return modules[name](argv)
        sys.path.insert(0, os.getcwd())
        return run(name, argv)
    if where in ("-", "-c"):
        code = argv.pop(0) if where == "-c" else sys.stdin.read()
        sys.argv = [where, *argv]
        sys.path.insert(0, "")
        exec(compile(code, f"<{where}>", "exec"), {"__name__": "__main__"})
        return 0
    if not Path(where).is_file():
        raise Refusal(f"can't open file '{where}': it does not exist")
    sys.path.insert(0, str(Path(where).resolve().parent))
    return run(where, argv)
