"""Put the measured figures of results/*.csv into the pages, or check the pages.

    python benchmarks/tables.py            # rewrite what is between the markers
    python benchmarks/tables.py --check    # print a diff and fail where that is old

In README.md, docs and the READMEs of configs a comment names what follows it:

    <!-- table: queue_loss -->             a table of TABLES, with its caption
    <!-- /table -->
    <!-- table: demo_methods:co2 -->       rows of one method beside MoCo and random
    <!-- /table -->
    <!-- value: checkpoint_cpu scope=hook stall_ratio -->0.16<!-- /value -->

A value is CSV, conditions, column and, where two decimals do not suit, a format.
"""

from __future__ import annotations

import argparse
import difflib
import os
import re
import sys
from pathlib import Path

import rows
from rows import NOT_RECORDED, REPOSITORY, ROOT, read, value
from table_list import INSTEAD, TABLES, Table

TABLE = re.compile(r"(<!-- table: (\S+) -->\n).*?(<!-- /table -->)", re.DOTALL)
VALUE = re.compile(r"(<!-- value: ([^>]+) -->).*?(<!-- /value -->)")


def pages() -> list[Path]:
    """The pages that may hold figures."""
    found = [REPOSITORY / "README.md"]
    for folder in ("docs", "configs", "projects"):
        found += sorted((REPOSITORY / folder).rglob("*.md"))
    return [page for page in found if "_build" not in page.parts]


def render(name: str, page: Path) -> str:
    """Return a table with its caption, as a page shows it.

    Raises:
        KeyError: There is no table of that name, or no row for it.
    """
    base, _, method = INSTEAD.get(name, name).partition(":")
    if base not in TABLES:
        raise KeyError(f"There is no table '{base}'; there are {', '.join(TABLES)}.")
    table = TABLES[base]
    cells = table.cells(*table.results, **({"method": method} if method else {}))
    up = os.path.relpath(REPOSITORY, page.parent)
    lines = ["| " + " | ".join(row) + " |" for row in cells]
    lines = [line.replace(ROOT, "" if up == "." else f"{up}/") for line in lines]
    lines.insert(1, "|" + "---|" * len(cells[0]))
    caption = table.caption if isinstance(table.caption, str) else table.caption()
    links = ", ".join(link(name, page) for name in table.results)
    return "\n".join(
        ["", *lines, "", *wrap(f"{caption} {links}; {machine(table)}."), ""]
    )


def link(name: str, page: Path) -> str:
    """Link from a page to a CSV."""
    path = os.path.relpath(rows.RESULTS / f"{name}.csv", page.parent)
    return f"[{name}.csv]({Path(path).as_posix()})"


def machine(table: Table) -> str:
    """Hardware, version of torch and code of a table's rows."""
    own = [row for name in table.results for row in read(name)]

    def said(row: dict[str, str], name: str) -> str:
        return row.get(name, "").replace(NOT_RECORDED, "")

    units = [said(row, "vector_units") for row in own]
    cpus = dict.fromkeys(
        f"{row['cpu']} with {unit}" if unit else row["cpu"]
        for row, unit in zip(own, units, strict=True)
    )
    versions = dict.fromkeys(row["torch"].split("+")[0] for row in own)
    found = f"{', '.join(cpus)}, torch {', '.join(versions)}"
    commits = sorted({c for row in own for c in said(row, "commit").split()})
    return f"{found}, commit {', '.join(commits)}" if commits else found


def wrap(text: str, width: int = 88) -> list[str]:
    """Lines of a caption; a link is never broken."""
    lines = [""]
    for word in re.findall(r"\[[^]]*\]\S*|\S+", text):
        if lines[-1] and len(lines[-1]) + 1 + len(word) > width:
            lines.append("")
        lines[-1] += f" {word}" if lines[-1] else word
    return lines


def fill(text: str, page: Path) -> str:
    """Return the text of a page with all its figures up to date."""
    text = TABLE.sub(lambda m: f"{m[1]}{render(m[2], page)}{m[3]}", text)
    return VALUE.sub(lambda m: f"{m[1]}{value(m[2])}{m[3]}", text)


def main(check: bool) -> int:
    """Rewrite the pages, or compare."""
    old = 0
    for page in pages():
        text = page.read_text(encoding="utf-8")
        try:
            new = fill(text, page)
        except KeyError as error:
            sys.exit(f"{page.relative_to(REPOSITORY)}: {error.args[0]}")
        if new == text:
            continue
        old += 1
        name = str(page.relative_to(REPOSITORY))
        if check:
            lines = text.splitlines(), new.splitlines()
            print(
                "\n".join(difflib.unified_diff(*lines, name, "results", "", "", 1, ""))
            )
        else:
            page.write_text(new, encoding="utf-8")
            print(f"{name}: figures rewritten")
    if check and old:
        print("Run `python benchmarks/tables.py`.")
    return int(check and old > 0)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true", help="print a diff, fail")
    sys.exit(main(parser.parse_args().check))
