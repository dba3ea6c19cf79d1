"""The blocks of code in README and docs, and the commands within their text.

Blocks of ``bash``, ``shell``, ``console`` and ``python`` are run. A comment on the line
before a block says where that cannot be::

    <!-- block: imagenet -->   needs ImageNet, COCO, VOC, Cityscapes or hours
    <!-- block: cluster -->    needs Slurm or several GPUs
    <!-- block: install -->    installs packages or builds an environment
    <!-- block: output -->     shows what a program prints

A Python block whose first line is ``# path/to/file.py`` is that file: it is written
for the blocks behind it, and is not run.
"""

from __future__ import annotations

import dataclasses
import re
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
KINDS = ("run", "imagenet", "cluster", "install", "output")
SHELL = ("bash", "shell", "console")
PYTHON = ("python",)
# Shown, never run: data, output, other languages. A directive stands in braces.
SHOWN = (
    *("", "text", "json", "csv", "yaml", "toml", "ini", "xml", "html", "bibtex"),
    *("diff", "latex", "mermaid", "markdown"),
)
# Directives of MyST that hold Markdown, or code of the language that they name.
PROSE = (
    *("note", "tip", "hint", "warning", "caution", "attention", "important", "danger"),
    *("admonition", "dropdown", "seealso", "tab-item", "tab-set", "details", "figure"),
)
CODE = ("code-block", "code", "sourcecode")
PAGES = (
    *("README.md", "CHANGELOG.md", "SECURITY.md", "benchmarks/README.md"),
    *("docs/**/*.md", "configs/**/*.md", "projects/**/*.md"),
)

_FENCE = re.compile(r"(?P<indent>[ \t>]*)(?P<fence>`{3,}|~{3,})[ \t]*(?P<info>[^`]*)$")
_MARK = re.compile(r"[ \t>]*<!--\s*block:\s*(.*?)\s*-->\s*$")
_OPTION = re.compile(r"\s*:([\w-]+):\s*(.*)$")
_COMMAND = re.compile(
    r"\s*(\$ |(export |[A-Z_]+=\S* )*(python3? (-m |\S+\.py)|pip3? install|make [a-z]"
    r"|mim |mmssl-ext [a-z-]|tools/\w+\.(sh|py)|sbatch |srun |torchrun |git clone ))"
)
_INLINE = re.compile(r"(?<!`)(`+)(?!`)(.+?)(?<!`)\1(?!`)", re.S)
_INLINE_COMMAND = re.compile(
    r"(?:[A-Z_]+=\S* )*((?:python3? |\.venv/bin/python )?tools/\S+"
    r"|python3? -m mmssl_ext\S*|mmssl-ext|make)(?: |$)"
)
_FILE = re.compile(r"# ([\w./-]+\.py)$")


class PageError(AssertionError):
    """A block that is written wrongly; the message names page and line."""


@dataclass(frozen=True)
class Block:
    """A fenced block.

    Attributes:
        page: Path of the page, relative to the root.
        line: Line of the fence.
        language: Its first word.
        kind: One of KINDS.
        text: Content, without the indentation of the fence and the options of MyST.
        first: Line of the page at which the content begins.
    """

    page: str
    line: int
    language: str
    kind: str
    text: str
    first: int

    @property
    def name(self) -> str:
        """``README.md:42``."""
        return f"{self.page}:{self.line}"

    @property
    def file(self) -> str | None:
        """Path of the file that a Python block shows, from its first line."""
        found = _FILE.match(self.text.split("\n")[0])
        return found[1] if found and self.language in PYTHON else None

    @property
    def script(self) -> str:
        """What bash runs: of a console block, the lines with a prompt."""
        if self.language != "console":
            return self.text
        lines, going_on = [], False
        for line in self.text.split("\n"):
            prompt = line.startswith("$ ")
            taken = prompt or (going_on and line.startswith(("> ", "  ")))
            lines.append(line.removeprefix("$ ").removeprefix("> ") if taken else "")
            going_on = taken and line.endswith("\\")
        return "\n".join(lines)


@dataclass(frozen=True)
class Command:
    """A command within the text of a page: ``name`` is the page and line."""

    page: str
    line: int
    text: str

    @property
    def name(self) -> str:
        """``README.md:42``."""
        return f"{self.page}:{self.line}"


def pages(root: Path = ROOT) -> list[Path]:
    """All pages, README first."""
    found = [path for pattern in PAGES for path in sorted(root.glob(pattern))]
    hidden = ("_build", "_static", "node_modules")
    return [p for p in dict.fromkeys(found) if not {*hidden} & {*p.parts}]


def read_page(path: Path, root: Path = ROOT) -> tuple[list[Block], list[Command]]:
    """Read the blocks of a page that are to be tested, and the commands in its text.

    Raises:
        PageError: A mark or language is unknown, a mark stands before no block, a
            fence is not closed, or commands stand where nothing would run them.
    """
    page = path.relative_to(root).as_posix()
    lines = path.read_text(encoding="utf-8").split("\n")
    blocks, prose = [], [""] * len(lines)
    for block, mark in _fences(page, lines, 0, prose):
        if (tested := _judge(block, mark)) is not None:
            blocks.append(tested)
    return blocks, list(_commands(page, "\n".join(prose)))


def _fences(
    page: str, lines: list[str], offset: int, prose: list[str]
) -> Iterator[tuple[Block, str | None]]:
    """Every fence with its mark; text outside goes to ``prose``, by line."""
    at, mark, marked = 0, None, 0
    while at < len(lines):
        line, number = lines[at], offset + at + 1
        if found := _MARK.match(line):
            if mark is not None:
                raise PageError(f"{page}:{marked}: this mark is before no block.")
            mark, marked = found[1], number
            if mark not in KINDS or mark == "run":
                known = ", ".join(KINDS[1:])
                raise PageError(f"{page}:{number}: mark '{mark}' is none of {known}.")
        elif found := _FENCE.match(line):
            end = _closing(page, lines, at, found, offset)
            indent = found["indent"]
            body = [_dedent(text, indent) for text in lines[at + 1 : end]]
            yield from _open(page, number, found["info"].strip(), body, mark, prose)
            at, mark = end, None
        else:
            if mark is not None and line.strip(" \t>"):
                raise PageError(f"{page}:{marked}: this mark is before no block.")
            prose[offset + at] = line
        at += 1
    if mark is not None:
        raise PageError(f"{page}:{marked}: this mark is before no block.")


def _closing(page: str, lines: list[str], at: int, found: re.Match, offset: int) -> int:
    fence = found["fence"]
    close = re.compile(rf"[ \t>]*{re.escape(fence[0])}{{{len(fence)},}}[ \t]*$")
    for end in range(at + 1, len(lines)):
        if close.match(lines[end]):
            return end
    raise PageError(f"{page}:{offset + at + 1}: this fence is not closed.")


def _dedent(line: str, indent: str) -> str:
    """Take the indentation of the fence, or as much of it as is there."""
    if line.startswith(indent):
        return line[len(indent) :]
    return line.lstrip(" \t") if len(line) - len(line.lstrip()) < len(indent) else line


def _open(
    page: str, number: int, info: str, body: list[str], mark: str | None,
    prose: list[str],
) -> Iterator[tuple[Block, str | None]]:  # fmt: skip
    """One fence: the blocks within a directive of prose, else itself."""
    directive = re.match(r"\{([\w:.-]+)\}\s*(.*)$", info)
    language = info.split()[0] if info else ""
    options = 0
    if directive:
        while options < len(body) and _OPTION.match(body[options]):
            options += 1
        if directive[1] in PROSE:
            if mark is not None:
                raise PageError(f"{page}:{number - 1}: this mark is before no block.")
            yield from _fences(page, body, number, prose)
            return
        if directive[1] in CODE:
            language = directive[2].strip()
        else:
            language = "{" + directive[1] + "}"
        while (
            directive[1] in CODE and options < len(body) and not body[options].strip()
        ):
            options += 1
    text = textwrap.dedent("\n".join(body[options:])).rstrip()
    yield Block(page, number, language, "run", text, number + 1 + options), mark


def _judge(block: Block, mark: str | None) -> Block | None:
    """The block with its kind; None where nothing is to be done with it."""
    tested = (*SHELL, *PYTHON)
    where = f"{block.page}:{block.line}"
    if block.language not in tested:
        known = block.language in SHOWN or block.language.startswith("{")
        if not known:
            raise PageError(
                f"{where}: no test runs '{block.language}'; write one of "
                f"{', '.join(tested)}, or text for what is shown only."
            )
        if mark not in (None, "output"):
            raise PageError(f"{where}: a mark for '{block.language}' has no effect.")
        for i, line in enumerate(block.text.split("\n")):
            if mark is None and _COMMAND.match(line):
                raise PageError(
                    f"{block.page}:{block.first + i}: a command in a block that "
                    "nothing runs; write bash, or mark it <!-- block: output -->."
                )
        return None
    if mark == "output":
        return None
    if block.language == "console" and not re.search(r"^\$ ", block.text, re.M):
        raise PageError(f"{where}: a console block needs lines that begin with '$ '.")
    return dataclasses.replace(block, kind=mark or "run")


def _commands(page: str, prose: str) -> Iterator[Command]:
    """Commands of this package that stand in the text between backticks."""
    for found in _INLINE.finditer(prose):
        text = " ".join(found[2].split())
        if _INLINE_COMMAND.match(text) and "\n\n" not in found[2]:
            line = prose.count("\n", 0, found.start()) + 1
            yield Command(page, line, text)
