"""The table of docs/faults.md: ``python -m tests.faults.page`` writes it anew.

Its first three columns are written by hand, in the page. The others come from the marks
in the tests and from what was observed of upstream, in suite.RESULTS.
"""

from __future__ import annotations

import ast
import functools
from pathlib import Path

from tests.faults.suite import FAULTS, REPO, observed

PAGE = REPO / "docs/faults.md"
BEGIN = "<!-- written by tests/faults/page.py: begin -->"
END = "<!-- end -->"
MARK = "pytest.mark.fault"


@functools.cache
def proofs() -> dict[str, list[Path]]:
    """Files of the tests that are marked with each fault."""
    found: dict[str, dict[Path, None]] = {fault: {} for fault in FAULTS}
    for path in sorted((REPO / "tests").rglob("*.py")):
        if MARK not in (text := path.read_text(encoding="utf-8")):
            continue
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == MARK:
                for argument in node.args:
                    found[ast.literal_eval(argument)][path.relative_to(REPO)] = None
    return {fault: [*paths] for fault, paths in found.items()}


def promises() -> dict[str, list[str]]:
    """Fault and what this package does, by id, as the page says it."""
    rows = [x.split(" | ") for x in parts()[1].splitlines() if x.startswith("| R")]
    return {row[0].removeprefix("| "): row[1:3] for row in rows}


def table() -> str:
    """Render the table."""
    upstream, tests, versions = observed(), proofs(), dict[str, None]()
    lines = [
        "| id | fault | mmssl_ext | proved by | mmengine and mmpretrain |",
        "|---|---|---|---|---|",
    ]
    for fault, said in promises().items():
        links = [f"[{_short(path)}](../{path.as_posix()})" for path in tests[fault]]
        seen = upstream[fault]
        result = f"**{seen['outcome']}**: {seen['observed']}".replace("|", "&#124;")
        cells = [fault, *said, ", ".join(links), result]
        lines.append(f"| {' | '.join(cells)} |")
        versions |= dict.fromkeys(seen["versions"].split(", "))
    return "\n".join([*lines, "", f"Upstream as run: {', '.join(versions)}."])


def _short(path: Path) -> str:
    """A test file as it is spoken of: ``engine/guard``."""
    name = path.relative_to("tests").with_suffix("").as_posix()
    return name.replace("test_", "")


def parts() -> tuple[str, str, str]:
    """The page before the table, the table, and the page after it."""
    before, rest = PAGE.read_text(encoding="utf-8").split(BEGIN)
    inside, after = rest.split(END)
    return before, inside.strip(), after


def main() -> None:
    """Write the table into the page."""
    before, _, after = parts()
    text = f"{before}{BEGIN}\n\n{table()}\n\n{END}{after}"
    PAGE.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
