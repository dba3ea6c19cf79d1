"""The frame of the reports: one HTML page with its style, no scripts, no addresses."""

from __future__ import annotations

import base64
import io
import re
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

from PIL import Image

from mmssl_ext.errors import UserValueError
from mmssl_ext.text import printable

_CSS = """
:root { color-scheme: light dark; --ink: #24292f; --faint: #636c76; --page: #f6f8fa;
  --card: #fff; --line: #d8dee4; --blue: #0072b2; --orange: #c05000; --green: #007a5a;
  --pink: #a0527d; }
@media screen and (prefers-color-scheme: dark) {
  :root { --ink: #e6edf3; --faint: #9198a1; --page: #0d1117; --card: #161b22;
    --line: #30363d; --blue: #58b4f0; --orange: #f59a4a; --green: #3fcf9f;
    --pink: #e39ac3; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 76rem; padding: .75rem clamp(.6rem, 2.5vw, 2rem) 3rem;
  background: var(--page); color: var(--ink); line-height: 1.5;
  font: 1rem/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
h1, .name { font-size: 1.6rem; line-height: 1.25; margin: 0 0 .25rem;
  overflow-wrap: anywhere; }
h2 { font-size: 1.3rem; margin: 2.5rem 0 .75rem; }
h3 { font-size: 1.1rem; margin: 1.75rem 0 .75rem; } h3.name { font-size: 1.2rem; }
h4 { font-size: 1rem; margin: 0 0 .6rem; }
p { margin: .5rem 0; max-width: 46rem; overflow-wrap: anywhere; }
a { color: var(--blue); }
.faint, th { color: var(--faint); }
nav ul { display: flex; flex-wrap: wrap; gap: 0 1.1rem; list-style: none; padding: 0;
  margin: 0 0 .25rem; }
nav a { display: block; padding: .35rem 0; text-decoration: none; font-size: .95rem; }
nav a:hover { text-decoration: underline; }
.card { background: var(--card); border: 1px solid var(--line); border-radius: .6rem;
  padding: .9rem clamp(.75rem, 1.5vw, 1.05rem); min-width: 0; }
.card > :first-child { margin-top: 0; } .card > p:last-child { margin-bottom: 0; }
.answer { padding: 1.4rem clamp(.9rem, 3vw, 2rem); margin-top: .5rem; }
.answer p { font-size: 1.05rem; }
.big { display: flex; flex-wrap: wrap; align-items: baseline; gap: .2rem 1rem;
  margin: 1.1rem 0 1rem; font-weight: 700; line-height: 1.1;
  font-size: clamp(2.2rem, 9vw, 3.6rem); font-variant-numeric: tabular-nums; }
.big .before { color: var(--faint); font-weight: 500; }
.big .after { color: var(--blue); }
.big small { font-size: .95rem; font-weight: 400; color: var(--faint); width: 100%;
  line-height: 1.35; }
.note { border-left: .3rem solid var(--orange); }
.grid { display: grid; gap: 1rem; align-items: start;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 21rem), 1fr)); }
.sheets { columns: 30rem; column-gap: 1rem; margin-top: 1rem; }
.sheets > .card { break-inside: avoid; margin: 0 0 1rem; }
.grid.rows { align-items: stretch; }
* + div.card, * + .grid, .grid + p { margin-top: 1rem; }
.grid > .card { margin: 0; }
figure { margin: 0; }
figure p { font-size: .92rem; margin: .35rem 0; }
figcaption { font-weight: 600; line-height: 1.35; }
figcaption + * { margin-top: .35rem; }
figcaption .value { float: right; margin-left: 1rem; color: var(--blue);
  font-variant-numeric: tabular-nums; }
svg { display: block; width: 100%; max-width: 27rem; height: auto; }
img { display: block; width: 100%; height: auto; border-radius: .3rem; }
.paper img { background: #fff; padding: .5rem; }
.zoom summary { cursor: zoom-in; list-style: none; }
.zoom summary::-webkit-details-marker { display: none; }
.zoom[open] summary { position: fixed; inset: 0; z-index: 1; overflow: auto;
  padding: clamp(.5rem, 2vw, 1.5rem); background: var(--page); cursor: zoom-out; }
.zoom[open] img { width: auto; min-width: min(100%, 36rem); max-width: 62rem;
  margin: auto; }
@media (min-width: 64rem) { .zoom[open] img { max-width: 100%; } }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; vertical-align: top; padding: .45rem .9rem .45rem 0;
  border-bottom: 1px solid var(--line); }
tr:last-child > * { border-bottom: 0; }
th { font-weight: 500; }
@media (min-width: 40rem) { .facts th { white-space: nowrap; width: 12rem; } }
td { overflow-wrap: anywhere; } th { overflow-wrap: break-word; }
td.number { font-variant-numeric: tabular-nums; font-weight: 600; }
@media (min-width: 40rem) { td.number { white-space: nowrap; } }
.hash { font: .82rem/1.4 ui-monospace, SFMono-Regular, Menlo, monospace; }
code, pre { font: .82rem/1.45 ui-monospace, SFMono-Regular, Menlo, monospace; }
pre { overflow-x: auto; margin: .75rem 0 0; }
summary { cursor: pointer; font-weight: 600; overflow-wrap: anywhere; }
details + details { margin-top: .75rem; }
ul { padding-left: 1.2rem; margin: .5rem 0; } li { overflow-wrap: anywhere; }
@media screen and (max-width: 40rem) {
  .stack thead { display: none; }
  .stack tr { display: block; padding: .5rem 0; border-bottom: 1px solid var(--line); }
  .stack tr:last-child { border-bottom: 0; }
  .stack th, .stack td { display: block; border: 0; padding: .1rem 0; }
  .stack td:empty { display: none; }
  .short td { display: inline-block; margin-right: 1.2rem; }
  thead + tbody th { color: var(--ink); font-weight: 600; }
  .stack td[data-label]::before { content: attr(data-label) ": ";
    color: var(--faint); font-weight: 400; } }
@media print { nav { display: none; } body { max-width: none; padding: 0; }
  .card, figure, tr { break-inside: avoid; } h2, h3, h4 { break-after: avoid; } }
"""

_WIDTH, _HEIGHT = 1600, 4096  # pixels of an embedded picture, at most
_DECODED = 64_000_000  # pixels of a file that is opened at all
_KINDS = {"PNG": "image/png", "JPEG": "image/jpeg", "WEBP": "image/webp"}


@dataclass(frozen=True)
class Section:
    """A part of the page with a heading; the contents at the top lead to it.

    Attributes:
        title: Its heading.
        body: Ready HTML.
        short: Its name in the contents, where not the title.
        inner: Sections inside, after the body.
    """

    title: str
    body: str = ""
    short: str = ""
    inner: tuple[Section, ...] = field(default=())

    @property
    def key(self) -> str:
        """Its id on the page."""
        return re.sub(r"\W+", "-", (self.short or self.title).lower()).strip("-")

    def html(self, level: int = 2) -> str:
        """Return it as HTML with a heading of ``level``."""
        heading = f"<h{level}>{escape(self.title)}</h{level}>" if self.title else ""
        inner = [section.html(level + 1) for section in self.inner]
        opened = f'<section id="{self.key}">'
        return "\n".join([opened, heading, self.body, *inner, "</section>"])


def page(title: str, top: str, sections: Sequence[Section], end: str) -> str:
    """Return the whole document: contents, ``top``, all sections, ``end``."""
    lines = [
        "<!doctype html>",
        '<html lang="en">',
        "<head>",
        '<meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{escape(title)}</title>",
        '<link rel="icon" href="data:,">',
        f"<style>{_CSS}</style>",
        "</head>",
        "<body>",
        _contents(sections),
        f"<main>{top}",
        *(section.html() for section in sections),
        f"</main>{end}",
        "</body>",
        "</html>",
        "",
    ]
    return printable("\n".join(lines))


def _contents(sections: Sequence[Section]) -> str:
    listed = [s for section in sections for s in (section, *section.inner)]
    links = [
        f'<a href="#{section.key}">{escape(section.short or section.title)}</a>'
        for section in listed
    ]
    lines = "".join(f"<li>{link}</li>" for link in links)
    return f'<nav aria-label="Contents"><ul>{lines}</ul></nav>'


def card(*parts: str, kind: str = "") -> str:
    """Return ready HTML in a framed box."""
    return "\n".join([f'<div class="{f"card {kind}".strip()}">', *parts, "</div>"])


def paragraph(text: str, kind: str = "") -> str:
    """Return escaped ``text`` as a paragraph."""
    return f"<p{_class(kind)}>{escape(text)}</p>"


def figure(title: str, content: str, *below: str, value: str = "") -> str:
    """Return ready HTML (a drawing, a picture) framed, with its title above.

    Args:
        title: Of the figure.
        content: Ready HTML.
        below: Ready HTML.
        value: What stands at the right of the title.
    """
    if value:
        value = f'<span class="value">{escape(value)}</span>'
    head = f"<figcaption>{value}{escape(title)}</figcaption>"
    return "\n".join(['<figure class="card">', head, content, *below, "</figure>"])


def grid(figures: Iterable[str], kind: str = "grid") -> str:
    """Return framed figures side by side, below each other on a phone.

    Args:
        figures: Ready HTML.
        kind: "grid", "grid rows" for equal heights in a row, or "sheets": large, in
            two columns at most.
    """
    opened = f'<div class="{kind}">'
    return "\n".join([opened, *figures, "</div>"])


def picture(data: str, size: tuple[int, int], alt: str) -> str:
    """Return a picture that fills its place, and the screen once it is selected.

    Args:
        data: Its ``data:`` address.
        size: Width and height in pixels.
        alt: What it shows.
    """
    width, height = size
    # The place keeps its height while the picture is above the page.
    return (
        f'<details class="zoom" style="aspect-ratio: {width} / {height}">'
        f'<summary title="Full size"><img src="{data}" width="{width}" '
        f'height="{height}" alt="{escape(alt)}"></summary></details>'
    )


class PictureError(UserValueError):
    """A picture cannot be shown; the message is a part of a sentence."""


def embed_file(path: Path) -> tuple[str, tuple[int, int]]:
    """Return a picture file as ``data:`` address, and its width and height.

    Beyond 1600 pixels of width or 4096 of height it is made smaller. What is not a
    PNG, JPEG or WebP, or would be smaller as WebP, becomes WebP.

    Raises:
        PictureError: It is no picture, broken or beyond 64 million pixels.
    """
    try:
        with warnings.catch_warnings():  # Pillow's, before a size that is looked at
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path) as opened:
                width, height = opened.size
                if width * height > _DECODED:
                    raise PictureError(f"has {width} x {height} pixels, too many")
                kind = _KINDS.get(opened.format or "")
                small = opened.convert("RGBA" if _is_clear(opened) else "RGB")
    except (FileNotFoundError, PictureError) as error:
        text = "does not exist" if isinstance(error, OSError) else str(error)
        raise PictureError(text) from error
    except Image.DecompressionBombError as error:
        raise PictureError("has too many pixels") from error
    except Exception as error:  # a broken file fails in any of a decoder's ways
        raise PictureError("cannot be read as a picture") from error
    small.thumbnail((_WIDTH, _HEIGHT))
    data, size = embed(small, "WEBP"), small.size
    if kind and size == (width, height):
        original = _address(path.read_bytes(), kind)
        data = min(original, data, key=len)
    return data, size


def _is_clear(image: Image.Image) -> bool:
    return image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info


def embed(image: Image.Image, kind: str = "JPEG") -> str:
    """Return a picture as ``data:`` address in a format of Pillow's."""
    stream = io.BytesIO()
    image.save(stream, kind, quality=88)
    return _address(stream.getvalue(), _KINDS[kind])


def _address(data: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def facts(rows: Iterable[tuple[str, str]]) -> str:
    """Return names and values as a two-column table."""
    lines = [
        f'<tr><th scope="row">{escape(name)}</th><td>{escape(value)}</td></tr>'
        for name, value in rows
    ]
    return "\n".join(['<table class="stack facts"><tbody>', *lines, "</tbody></table>"])


def table(
    head: Sequence[str],
    rows: Iterable[Sequence[str]],
    kinds: Sequence[str] = ("number",),
    short: bool = False,
) -> str:
    """Return a table that becomes a list on a phone.

    Args:
        head: Titles of the columns.
        rows: As many cells each; the first names the row.
        kinds: Classes of the cells from the second on: "number", "hash" or "".
        short: On a phone, the cells of a row share lines.
    """
    titles = "".join(f'<th scope="col">{escape(title)}</th>' for title in head)
    kinds = [*kinds, *[""] * len(head)]
    lines = []
    for first, *cells in rows:
        line = f'<th scope="row">{escape(first)}</th>'
        for title, cell, kind in zip(head[1:], cells, kinds, strict=False):
            label = f' data-label="{escape(title)}"'
            line += f"<td{_class(kind)}{label}>{escape(cell)}</td>"
        lines.append(f"<tr>{line}</tr>")
    return "\n".join(
        [
            f'<table class="stack{" short" * short}">',
            f"<thead><tr>{titles}</tr></thead>",
            "<tbody>",
            *lines,
            "</tbody></table>",
        ]
    )


def items(texts: Iterable[str]) -> str:
    """Return escaped texts as a list."""
    return "\n".join(["<ul>", *(f"<li>{escape(text)}</li>" for text in texts), "</ul>"])


def code(text: str) -> str:
    """Return escaped ``text`` as it stands."""
    return f"<pre><code>{escape(text)}</code></pre>"


def folded(title: str, content: str) -> str:
    """Return ready HTML behind a line that opens it."""
    return f"<details><summary>{escape(title)}</summary>{content}</details>"


def _class(kind: str) -> str:
    return f' class="{kind}"' if kind else ""


def duration(seconds: float) -> str:
    """Return seconds in words."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
