"""Pages from files of the repository, and links to its files.

    ```{repository-file} configs/co2/README.md
    ```

as the whole of a page, or between its paragraphs, stands for that file, whose relative
links and images are those of the file's place. In every page a link to

* a file that is a page here becomes a link to the page,
* another file of the repository becomes a copy of it beside the page,
* a folder, or a text that is no page here, becomes its path: there is no address.

A target that does not exist is left to MyST, which warns. Drawings (`.svg`) become part
of the page, where the theme's colours, light or dark, reach them.
"""

import posixpath
import re
from pathlib import Path

from docutils import nodes
from sphinx.application import Sphinx

REPOSITORY = Path(__file__).parents[2]

DIRECTIVE = re.compile(
    r"^```\{repository-file\}[ ]+(?P<path>\S+)[ ]*\n```[ ]*$", re.MULTILINE
)
# Code, in which nothing is a link, or a link.
CODE_OR_LINK = re.compile(
    r"(?P<code>^(?P<fence>```+|~~~+|:::+).*?^(?P=fence)[ ]*$"
    r"|(?P<tick>`+)(?!`).+?(?P=tick))"
    r"|(?P<image>!?)\[(?P<text>[^\[\]]*)\]\((?P<target>[^()\s]+)\)",
    re.MULTILINE | re.DOTALL,
)
# Files that are shown by a page of another name; the key is a path in the repository.
PAGES = {"README.md": "docs/index.md"}


def pages_of(docs: Path) -> dict[str, str]:
    """Which page shows which file of the repository."""
    pages = dict(PAGES)
    for page in docs.rglob("*.md"):
        for shown in DIRECTIVE.finditer(page.read_text(encoding="utf-8")):
            pages[shown["path"]] = page.relative_to(REPOSITORY).as_posix()
    return pages


def rewrite(text: str, source: str, page: str, pages: dict[str, str]) -> str:
    """The text of file `source` with its links as seen from `page`."""

    def replaced(match: re.Match[str]) -> str:
        if match["code"] is not None:
            return match[0]
        target, _, anchor = match["target"].partition("#")
        if not target or re.match(r"[a-z]+:", target):
            return match[0]
        path = posixpath.normpath(posixpath.join(posixpath.dirname(source), target))
        if (REPOSITORY / path).is_dir():
            return named_path(match["text"], path)
        shown = pages.get(path, path)
        is_text = shown.endswith(".md") and not shown.startswith("docs/")
        if is_text and (REPOSITORY / path).is_file():
            return named_path(match["text"], path)
        if shown != path and shown == PAGES.get(path):
            anchor = ""  # another text, so other headings
        relative = posixpath.relpath(shown, posixpath.dirname(page))
        suffix = f"#{anchor}" if anchor else ""
        return f"{match['image']}[{match['text']}]({relative}{suffix})"

    return CODE_OR_LINK.sub(replaced, text)


def named_path(text: str, path: str) -> str:
    """What stands in the place of a link to something without an address."""
    says_it = path.endswith(text.strip("`/")) or text.strip("`/").endswith(path)
    return f"`{path}`" if says_it else f"{text} (`{path}`)"


def on_source_read(app: Sphinx, docname: str, content: list[str]) -> None:
    """Put files in the place of directives, and rewrite all links."""
    page = Path(app.env.doc2path(docname)).relative_to(REPOSITORY).as_posix()
    if not page.endswith(".md"):
        return
    pages = pages_of(Path(app.srcdir))

    def included(match: re.Match[str]) -> str:
        file = REPOSITORY / match["path"]
        app.env.note_dependency(str(file))
        text = file.read_text(encoding="utf-8")
        return rewrite(text, match["path"], page, pages)

    pieces: list[str] = []
    position = 0
    for match in DIRECTIVE.finditer(content[0]):
        pieces += [
            rewrite(content[0][position : match.start()], page, page, pages),
            included(match),
        ]
        position = match.end()
    pieces.append(rewrite(content[0][position:], page, page, pages))
    content[0] = "".join(pieces)


def inline_drawings(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    """Replace images of drawings by the drawings."""
    if app.builder.format != "html":
        return
    for image in list(doctree.findall(nodes.image)):
        file = Path(app.srcdir) / image["uri"]
        if file.suffix != ".svg" or not file.is_file():
            continue
        drawing = file.read_text(encoding="utf-8")
        start = drawing.index("<svg")
        classed = drawing[start:].replace("<svg", '<svg class="drawing"', 1)
        image.replace_self(nodes.raw("", classed, format="html"))


def setup(app: Sphinx) -> dict[str, bool]:
    """Connect to the events."""
    app.connect("source-read", on_source_read)
    app.connect("doctree-resolved", inline_drawings)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
