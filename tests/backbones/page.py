"""Tables of docs/change_the_backbone.md: ``python -m tests.backbones.page``.

One comes from the table of the package, the other from the cases of the tests: a cell
is there where a test has the case.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mmssl_ext.backbones import FAMILIES, network
from tests.harness import REPO

from . import test_pretraining, test_transfer, test_uses
from .cases import BACKBONES, METHODS, refused

PAGE = REPO / "docs/change_the_backbone.md"
MARK = "<!-- written by tests/backbones/page.py: {} -->"
END = "<!-- end -->"
USES = {"kNN": "knn", "embed, export": "export"}


def families() -> str:
    """What there is, and what follows from the name."""
    lines = [
        "| family | names | last map | pretraining | in a detector |",
        "|---|---|---|---|---|",
    ]
    for family in FAMILIES:
        known = [network(name) for name in family.examples]
        names = ", ".join(f"`{name}`" for name in family.examples)
        sizes = sorted({net["channels"] for net in known})
        optimizer = "SGD or LARS, by the method"
        if family.adamw:
            rate, decay = family.adamw
            optimizer = f"AdamW {rate:g}, decay {decay:g}"
        tuned = "as the config says"
        if family.tuned:
            tuned = "AdamW {:g}, decay {:g}".format(*family.tuned)
        if family.fresh:
            tuned += f"; fresh {', '.join(family.fresh)}"
        span = f"{sizes[0]}" if len(sizes) == 1 else f"{sizes[0]} to {sizes[-1]}"
        stride = known[0]["stride"]
        lines.append(
            f"| {family.title} | {names} | {span} channels, stride {stride} | "
            f"{optimizer} | {tuned} |"
        )
    return "\n".join(lines)


def matrix() -> str:
    """Which backbone was tried with what."""
    learns = cases(test_pretraining.test_learns)
    arrives = cases(test_transfer.test_features_are_those_of_the_pretraining)
    uses = cases(test_uses.test_features_are_those_of_the_checkpoint)
    uses |= {
        (n, "knn")
        for (n,) in cases(test_uses.test_knn_is_of_the_features_of_the_checkpoint)
    }
    transfers = test_transfer.TRANSFERS
    columns = [*METHODS, *transfers, *USES]
    lines = [
        f"| backbone | tried as | {' | '.join(columns)} |",
        "|---" * (len(columns) + 2) + "|",
    ]
    for title, name in BACKBONES.items():
        cells = [
            "refused" if refused(name, m) else _cell((name, m) in learns)
            for m in METHODS
        ]
        cells += [_cell((name, t) in arrives) for t in transfers]
        cells += [_cell((name, use) in uses) for use in USES.values()]
        lines.append(f"| {title} | `{name}` | {' | '.join(cells)} |")
    return "\n".join(lines)


def cases(test: Callable[..., Any]) -> set[tuple[Any, ...]]:
    """The cases of a parametrized test."""
    found: set[tuple[Any, ...]] = set()
    for mark in getattr(test, "pytestmark", ()):
        if mark.name == "parametrize":
            found |= {tuple(case.values) for case in mark.args[1]}
    return found


def _cell(tried: bool) -> str:
    return "yes" if tried else ""


TABLES = {"families": families, "matrix": matrix}


def written(text: str) -> str:
    """The page with its tables anew."""
    for name, table in TABLES.items():
        before, rest = text.split(MARK.format(name))
        _, after = rest.split(END, 1)
        text = f"{before}{MARK.format(name)}\n\n{table()}\n\n{END}{after}"
    return text


def main() -> None:
    """Write the tables into the page."""
    PAGE.write_text(written(PAGE.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
