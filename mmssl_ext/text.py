r"""Names that people or other programs chose, as text that can be read and printed.

A file name is bytes: it may hold what is not UTF-8 (kept by Python as surrogates),
escape sequences that a terminal obeys, line ends, or marks that turn the direction of
the text. Files that are read back keep such a name as it is; a person is shown it with
these characters as ``\xe7``, ``\x1b`` or ``\u202e``.
"""

from __future__ import annotations

import contextlib
import difflib
import logging
import re
import sys
import traceback
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Any

# Controls, lone surrogates, line separators, and what changes the direction of text.
_CONTROLS = r"\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029"
_HIDDEN = r"\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff"
_UNSAFE = re.compile(f"[{_CONTROLS}{_HIDDEN}]")
_UNSAFE_IN_NAMES = re.compile(f"[\\t\\n{_CONTROLS}{_HIDDEN}]")
_ENDS = re.compile(f"[\\n{_CONTROLS}]")
_LOGGER = "mmengine"  # the name in the records of all loggers of OpenMMLab's Runner


def printable(text: str) -> str:
    """Text of several lines, safe for a terminal, a log and UTF-8."""
    return _UNSAFE.sub(_escaped, text)


def shown(name: Any) -> str:
    """A name within a sentence: as :func:`printable`, and on one line."""
    return _UNSAFE_IN_NAMES.sub(_escaped, str(name))


def cut(text: str, most: int = 80) -> str:
    """The beginning of what may be long, within a sentence: as :func:`shown`."""
    return shown(text if len(text) <= most else f"{text[: most - 4]} ...")


def as_line(name: str) -> str:
    """A name as a line of a list: line ends and controls are escaped, bytes kept."""
    return _ENDS.sub(_escaped, name)


def closest(name: str, names: Iterable[Any]) -> str:
    """``Did you mean ...?`` with a space before it, or nothing."""
    known = [str(n) for n in names]
    found = [n for n in known if n.lower() == name.lower()]
    found = found or difflib.get_close_matches(name, known, n=3)
    return f" Did you mean {' or '.join(found)}?" if found else ""


def tenths(say: Callable[[str], Any], text: str) -> Callable[[int, int], None]:
    """Progress of 100 steps or more, to be told (done, total): a line for each tenth.

    Args:
        say: Takes the lines.
        text: What stands before the numbers, e.g. ``Features: batch``.
    """

    def report(done: int, total: int) -> None:
        if total >= 100 and done * 10 // total > (done - 1) * 10 // total:
            say(f"{text} {done:,} of {total:,}.")

    return report


def guard_logs() -> None:
    """Let every log of this process show such characters escaped, from now on."""
    make = logging.getLogRecordFactory()
    if getattr(make, "guards", False):
        return

    def record(*args: Any, **kwargs: Any) -> logging.LogRecord:
        made = make(*args, **kwargs)
        if made.name == _LOGGER:
            text = made.getMessage()
            if _UNSAFE.search(text):
                made.msg, made.args = printable(text), None
        return made

    record.guards = True  # type: ignore[attr-defined]
    logging.setLogRecordFactory(record)


def guard_files(logger: logging.Logger) -> None:
    """Let the files of a logger take any text, also what is written past the records.

    mmengine writes how weights were initialised straight into the file.
    """
    for handler in logger.handlers:
        if isinstance(handler, logging.FileHandler):
            stream: Any = handler.stream
            stream.reconfigure(encoding="utf-8", errors="backslashreplace")


def guard_streams() -> None:
    """Let a tool print whatever its terminal's encoding lacks, and its tracebacks."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError, OSError, ValueError):
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    if sys.excepthook is sys.__excepthook__:
        sys.excepthook = _print_traceback


def _print_traceback(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    lines = traceback.format_exception(kind, error, trace)
    print(printable("".join(lines)), end="", file=sys.stderr, flush=True)


def _escaped(match: re.Match[str]) -> str:
    code = ord(match[0])
    if 0xDC80 <= code <= 0xDCFF:  # a byte that is not UTF-8
        code -= 0xDC00
    return chr(code).encode("unicode_escape").decode()
