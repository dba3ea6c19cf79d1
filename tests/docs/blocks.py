"""The blocks of code in README and docs, and the commands within their text.

Blocks of ``bash`` and ``python`` are run. A comment on the line before a block says
where that cannot be::

    <!-- block: imagenet -->   needs ImageNet, COCO, VOC, Cityscapes or hours
    <!-- block: cluster -->    needs Slurm or several GPUs
    <!-- block: install -->    installs packages or builds an environment
    <!-- block: output -->     shows what a program prints

A Python block whose first line is ``# path/to/file.py`` is that file: it is written
for the blocks behind it, and is not run.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.token import Token

ROOT = Path(__file__).resolve().parents[2]
MARKS = ("imagenet", "cluster", "install", "output")
RUN = ("bash", "python")
# Shown, never run: data, output, and directives, which no command may hide in.
SHOWN = (
    *("", "text", "json", "csv", "yaml", "toml", "ini", "xml", "html", "bibtex"),
    *("diff", "latex", "mermaid", "markdown"),
    *("{eval-rst}", "{literalinclude}", "{repository-file}", "{toctree}"),
)
PAGES = (
    *(
        "README.md",
        "CHANGELOG.md",
        "CONTRIBUTING.md",
        "SECURITY.md",
        "benchmarks/README.md",
    ),
    *("docs/**/*.md", "configs/**/*.md", "projects/**/*.md"),
)

_MARK = re.compile(r"<!--\s*block:\s*(.*?)\s*-->\s*$")
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
    """A fenced block, or a command within the text.

    Attributes:
        page: Path of the page, relative to the root.
        line: Line of the fence or the command.
        language: ``bash`` or ``python``.
        kind: One of MARKS, else ``run``; ``inline`` of a command in the text.
        text: Content, without the indentation of the fence.
    """

    page: str
    line: int
    language: str
    kind: str
    text: str

    @property
    def name(self) -> str:
        """``README.md:42``."""
        return f"{self.page}:{self.line}"

    @property
    def first(self) -> int:
        """Line of the page at which the content begins."""
        return self.line + 1

    @property
    def file(self) -> str | None:
        """Path of the file that a Python block shows, from its first line."""
        found = _FILE.match(self.text.split("\n")[0])
        return found[1] if found and self.language == "python" else None


def pages(root: Path = ROOT) -> list[Path]:
    """All pages, README first."""
    found = [path for pattern in PAGES for path in sorted(root.glob(pattern))]
    return [p for p in dict.fromkeys(found) if not {"_build", "_static"} & {*p.parts}]


def read_page(path: Path, root: Path = ROOT) -> tuple[list[Block], list[Block]]:
    """Read the blocks of a page that are to be tested, and the commands in its text.

    Raises:
        PageError: A mark or language is unknown, a mark stands before no block, a
            fence is not closed, or commands stand where nothing would run them.
    """
    page = path.relative_to(root).as_posix()
    text = path.read_text(encoding="utf-8")
    blocks: list[Block] = []
    commands: list[Block] = []
    mark, marked = None, 0
    for token in MarkdownIt().parse(text):
        start, end = token.map or (0, 0)
        fenced = token.type in ("fence", "code_block")
        if mark is not None and not fenced:
            raise PageError(f"{page}:{marked}: this mark is before no block.")
        if fenced:
            if token.type == "fence":
                last = text.split("\n")[end - 1].strip(" \t>")
                if end - start < 2 or not last.startswith(token.markup):
                    raise PageError(f"{page}:{start + 1}: this fence is not closed.")
            blocks += _judge(page, start + 1, token, mark)
            mark = None
        elif token.type == "html_block" and (found := _MARK.match(token.content)):
            mark, marked = found[1], start + 1
            if mark not in MARKS:
                known = ", ".join(MARKS)
                raise PageError(f"{page}:{marked}: mark '{mark}' is none of {known}.")
        elif token.type == "inline":
            commands += _commands(page, start + 1, token.content)
    if mark is not None:
        raise PageError(f"{page}:{marked}: this mark is before no block.")
    return blocks, commands


def _judge(page: str, line: int, token: Token, mark: str | None) -> Iterator[Block]:
    """The block, unless nothing is to be done with it."""
    language = token.info.split()[0] if token.info.strip() else ""
    text = textwrap.dedent(token.content).rstrip()
    if language in RUN:
        if mark != "output":
            yield Block(page, line, language, mark or "run", text)
        return
    if language not in SHOWN:
        raise PageError(
            f"{page}:{line}: no test runs '{language}'; write one of {', '.join(RUN)}, "
            "or text for what is shown only."
        )
    if mark not in (None, "output"):
        raise PageError(f"{page}:{line}: a mark for '{language}' has no effect.")
    for number, content in enumerate(text.split("\n"), line + (token.type == "fence")):
        if mark is None and _COMMAND.match(content):
            raise PageError(
                f"{page}:{number}: a command in a block that nothing runs; write bash, "
                "or mark it <!-- block: output -->."
            )


def _commands(page: str, line: int, prose: str) -> Iterator[Block]:
    """Commands of this package that stand in a paragraph between backticks."""
    for found in _INLINE.finditer(prose):
        text = " ".join(found[2].split())
        if _INLINE_COMMAND.match(text):
            at = line + prose.count("\n", 0, found.start())
            yield Block(page, at, "bash", "inline", text)
