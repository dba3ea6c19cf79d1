"""The documentation builds without a warning, works offline, and holds together."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

REPOSITORY = Path(__file__).parents[2]
DOCS = REPOSITORY / "docs"
NEEDED = ("sphinx", "myst_parser", "furo", "sphinx_copybutton", "latex2mathml")
LACKING = [name for name in NEEDED if importlib.util.find_spec(name) is None]

pytestmark = pytest.mark.skipif(
    bool(LACKING), reason=f"the documentation needs {', '.join(LACKING)}"
)

REMOTE = re.compile(r"^(?:[a-z][a-z0-9+.-]*:)?//", re.IGNORECASE)
# What a browser fetches by itself, as opposed to what a reader may click.
FETCHED = {"script", "img", "iframe", "source", "video", "audio", "embed", "object"}


@dataclass
class Page(HTMLParser):
    """Links, fetched addresses and anchors of one page."""

    text: str
    links: list[str] = field(default_factory=list)
    fetched: list[str] = field(default_factory=list)
    anchors: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        super().__init__()
        self.feed(self.text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        named = {name: value or "" for name, value in attrs}
        if "id" in named:
            self.anchors.add(named["id"])
        if tag == "a" and "href" in named:
            self.links.append(named["href"])
        if tag == "link" and named.get("rel") not in ("canonical", "author"):
            self.fetched.append(named.get("href", ""))
        if tag in FETCHED:
            self.fetched += [named[key] for key in ("src", "data") if key in named]
        if "srcset" in named:
            self.fetched += [x.split()[0] for x in named["srcset"].split(",")]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site; warnings are errors, as in `make docs`."""
    out = tmp_path_factory.mktemp("site")
    built = subprocess.run(
        [
            *(sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html"),
            *("-d", str(out / "doctrees"), str(DOCS), str(out / "html")),
        ],
        cwd=REPOSITORY,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert built.returncode == 0, built.stderr[-4000:]
    return out / "html"


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[Path, Page]:
    return {path: Page(path.read_text("utf-8")) for path in site.rglob("*.html")}


def local(links: list[str], path: Path) -> Iterator[tuple[str, Path, str]]:
    """Each link to this site: as written, the file, the anchor."""
    for link in links:
        parts = urlsplit(link)  # style sheets have a query: their version
        if not (parts.scheme or parts.netloc):
            file = path.parent / unquote(parts.path) if parts.path else path
            yield link, file.resolve(), unquote(parts.fragment)


def test_nothing_is_fetched_from_elsewhere(site: Path, pages: dict[Path, Page]) -> None:
    remote = [(path.name, x) for path, page in pages.items() for x in page.fetched]
    assert len(remote) > 10 * len(pages) / 2  # style sheets and scripts were seen
    assert not [x for x in remote if REMOTE.match(x[1])]
    styles = [*site.rglob("*.css"), *site.rglob("*.html"), *site.rglob("*.svg")]
    fetching = re.compile(r"""(?:@import\s+|url\(\s*)["']?(?:https?:)?//[^"')\s]+""")
    found = {p.name: fetching.findall(p.read_text("utf-8")) for p in styles}
    assert not {name: x for name, x in found.items() if x}


def test_every_link_resolves(pages: dict[Path, Page]) -> None:
    anchors = {path.resolve(): page.anchors for path, page in pages.items()}
    dead = []
    for path, page in pages.items():
        for link, file, anchor in local(page.links + page.fetched, path):
            if not file.is_file():
                dead.append((path.name, link, "no file"))
            elif anchor and file in anchors and anchor not in anchors[file]:
                dead.append((path.name, link, "no anchor"))
    assert not dead


def test_every_page_is_reached_from_the_index(
    site: Path, pages: dict[Path, Page]
) -> None:
    made = {path.resolve(): page for path, page in pages.items()}
    reached, todo = set(), [(site / "index.html").resolve()]
    while todo:
        path = todo.pop()
        if path in made and path not in reached:
            reached.add(path)
            todo += [file for _, file, _ in local(made[path].links, path)]
    helpers = {(site / f"{name}.html").resolve() for name in ("search", "genindex")}
    helpers.add((site / "py-modindex.html").resolve())
    unreached = set(made) - reached - helpers
    assert not {p.name for p in unreached if "_modules" not in p.parts}
    sources = [p for p in DOCS.rglob("*.md") if "_build" not in p.parts]
    assert len(sources) > 15
    for source in sources:
        page = (site / source.relative_to(DOCS)).with_suffix(".html").resolve()
        assert page in reached, source


def test_formulas_are_mathml(site: Path, pages: dict[Path, Page]) -> None:
    concepts = pages[site / "concepts.html"].text
    assert concepts.count("<math ") >= 7
    assert (
        '<math xmlns="http://www.w3.org/1998/Math/MathML" display="block">' in concepts
    )
    for path, page in pages.items():
        visible = re.sub(
            r"<(pre|code|script)\b.*?</\1>", "", page.text, flags=re.DOTALL
        )
        assert "$$" not in visible, path.name
        assert not re.search(r"\\(?:frac|sum|log|mathcal|tau)\b", visible), path.name
        assert not [x for x in page.fetched if "mathjax" in x.lower()], path.name


@pytest.mark.parametrize(
    ("latex", "reason"),
    [
        (r"\frac{a", "arguments"),
        (r"a + b}", "stray }"),
        (r"\nosuch x", r"\nosuch"),
        (r"x_", "MissingSuperScript"),
        (r"a &= b", "not well-formed"),
    ],
)
def test_a_wrong_formula_is_refused(
    latex: str, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(DOCS / "_ext"))
    from mathml import to_mathml

    with pytest.raises(ValueError, match=re.escape(reason)):
        to_mathml(latex, "inline")


def test_aligned_formulas_have_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(DOCS / "_ext"))
    from mathml import to_mathml

    latex = r"\begin{aligned} a &= b \\ c &= d \end{aligned}"
    assert to_mathml(latex, "block").count("<mtd") == 4


def test_links_are_rewritten_for_the_page(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(DOCS / "_ext"))
    from repository import rewrite

    shown = {
        "README.md": "docs/index.md",
        "configs/co2/README.md": "docs/algorithms/co2.md",
    }

    def seen(text: str) -> str:
        return rewrite(text, "configs/detco/README.md", "docs/algorithms/d.md", shown)

    assert seen("[a](x.py)") == "[a](../../configs/detco/x.py)"
    assert seen("![a](x.png)") == "![a](../../configs/detco/x.png)"
    assert seen("[a](../co2/README.md#results)") == "[a](co2.md#results)"
    assert seen("[a](../../README.md#gone)") == "[a](../index.md)"
    assert seen("[a](../../docs/faults.md#x)") == "[a](../faults.md#x)"
    assert seen("[`configs/co2`](../co2)") == "`configs/co2`"
    assert seen("[a](../co2)") == "a (`configs/co2`)"
    assert seen("[a](../../benchmarks/README.md)") == "a (`benchmarks/README.md`)"
    for same in ("[a](https://arxiv.org/x)", "[a](#b)", "`[a](x.py)`"):
        assert seen(same) == same
    code = "```bash\n[a](x.py)\n```\n"
    assert seen(code + "[a](x.py)") == code + "[a](../../configs/detco/x.py)"
