"""The frame of the report: one HTML page with its style, no scripts, no addresses."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

_CSS = """
:root { color-scheme: light dark; --ink: #24292f; --faint: #6e7781; --page: #f6f8fa;
  --card: #fff; --line: #d8dee4; --blue: #0072b2; --orange: #c05000; --green: #007a5a;
  --pink: #a0527d; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6edf3; --faint: #9198a1; --page: #0d1117; --card: #161b22;
    --line: #30363d; --blue: #58b4f0; --orange: #f59a4a; --green: #3fcf9f;
    --pink: #e39ac3; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 66rem; padding: 1rem clamp(.75rem, 3vw, 2rem) 3rem;
  background: var(--page); color: var(--ink); line-height: 1.5;
  font: 1rem/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
h1 { font-size: 1.6rem; line-height: 1.25; margin: 0 0 .25rem; }
h2 { font-size: 1.2rem; margin: 2.25rem 0 .75rem; }
p { margin: .5rem 0; max-width: 46rem; }
.faint, th { color: var(--faint); }
.card { background: var(--card); border: 1px solid var(--line); border-radius: .6rem;
  padding: 1rem 1.1rem; min-width: 0; }
.card > p:first-child { margin-top: 0; } .card > p:last-child { margin-bottom: 0; }
.answer { padding: 1.5rem clamp(1rem, 4vw, 2rem); margin-top: .5rem; }
.answer p { font-size: 1.05rem; }
.big { display: flex; flex-wrap: wrap; align-items: baseline; gap: .2rem 1rem;
  margin: 1.1rem 0 1rem; font-weight: 700; line-height: 1.1;
  font-size: clamp(2.2rem, 9vw, 3.6rem); font-variant-numeric: tabular-nums; }
.big .before { color: var(--faint); font-weight: 500; }
.big .after { color: var(--blue); }
.big small { font-size: .95rem; font-weight: 400; color: var(--faint); width: 100%; }
.note { border-left: .3rem solid var(--orange); }
.grid { display: grid; gap: 1rem;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 26rem), 1fr)); }
.small { grid-template-columns: repeat(auto-fill, minmax(min(100%, 17rem), 1fr)); }
div.card + div.card, .grid + div.card, .grid + p, p + .grid { margin-top: 1rem; }
figure { margin: 0; }
svg { display: block; width: 100%; height: auto; }
svg text { font-family: system-ui, -apple-system, "Segoe UI", Roboto, sans-serif
  !important; }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; vertical-align: top; padding: .45rem .9rem .45rem 0;
  border-bottom: 1px solid var(--line); }
tr:last-child > * { border-bottom: 0; }
th { font-weight: 500; }
@media (min-width: 40rem) { tbody th { white-space: nowrap; } }
td { overflow-wrap: anywhere; }
td.number { font-variant-numeric: tabular-nums; font-weight: 600; white-space: nowrap; }
code, pre { font: .85rem/1.45 ui-monospace, SFMono-Regular, Menlo, monospace; }
pre { overflow-x: auto; margin: .75rem 0 0; }
summary { cursor: pointer; font-weight: 600; }
ul { padding-left: 1.2rem; margin: .5rem 0; } li { overflow-wrap: anywhere; }
@media (max-width: 40rem) {
  .stack thead { display: none; }
  .stack tr { display: block; padding: .5rem 0; border-bottom: 1px solid var(--line); }
  .stack tr:last-child { border-bottom: 0; }
  .stack th, .stack td { display: block; border: 0; padding: .1rem 0; }
  thead + tbody th { color: var(--ink); font-weight: 600; }
  .stack td[data-label]::before { content: attr(data-label) ": ";
    color: var(--faint); font-weight: 400; } }
"""


def page(title: str, body: Iterable[str]) -> str:
    """Return the whole document; ``body`` holds ready HTML."""
    return "\n".join(
        [
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
            *body,
            "</body>",
            "</html>",
            "",
        ]
    )


def section(title: str, *parts: str) -> str:
    """Return a section with its heading; ``parts`` hold ready HTML."""
    return "\n".join(["<section>", f"<h2>{escape(title)}</h2>", *parts, "</section>"])


def card(*parts: str, kind: str = "") -> str:
    """Return ready HTML in a framed box."""
    return "\n".join([f'<div class="{f"card {kind}".strip()}">', *parts, "</div>"])


def paragraph(text: str, kind: str = "") -> str:
    """Return escaped ``text`` as a paragraph."""
    return f"<p{_class(kind)}>{escape(text)}</p>"


def figures(svgs: Iterable[tuple[str, str]], kind: str = "") -> str:
    """Return (inline SVG, description) pairs as a grid of framed figures."""
    items = [
        f'<figure class="card" role="img" aria-label="{escape(label)}">{svg}</figure>'
        for svg, label in svgs
    ]
    return "\n".join([f'<div class="{f"grid {kind}".strip()}">', *items, "</div>"])


def facts(rows: Iterable[tuple[str, str]]) -> str:
    """Return names and values as a two-column table."""
    lines = [
        f'<tr><th scope="row">{escape(name)}</th><td>{escape(value)}</td></tr>'
        for name, value in rows
    ]
    return "\n".join(['<table class="stack"><tbody>', *lines, "</tbody></table>"])


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table that becomes a list on a phone; column 2 holds numbers."""
    titles = "".join(f'<th scope="col">{escape(title)}</th>' for title in head)
    lines = []
    for first, *cells in rows:
        line = f'<th scope="row">{escape(first)}</th>'
        for i, (title, cell) in enumerate(zip(head[1:], cells, strict=True)):
            number = ' class="number"' if i == 0 else ""
            line += f'<td{number} data-label="{escape(title)}">{escape(cell)}</td>'
        lines.append(f"<tr>{line}</tr>")
    return "\n".join(
        [
            '<table class="stack">',
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
