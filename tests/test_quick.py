"""What `make test-quick` leaves out."""

from __future__ import annotations

import ast
from pathlib import Path
from types import SimpleNamespace

import pytest

from . import quick
from .quick import LIST, Quick, choose, read

REPO = Path(__file__).resolve().parents[1]


def test_the_list_names_tests_that_exist():
    lines = LIST.read_text().split()
    assert lines == sorted(set(lines)) and len(lines) > 50
    for line in lines:
        file, _, function = line.partition("::")
        tree = ast.parse((REPO / file).read_text())
        names = {x.name for x in ast.walk(tree) if isinstance(x, ast.FunctionDef)}
        assert not function or function in names, line


def test_long_functions_and_files_are_chosen():
    seconds = {
        "tests/a.py::test_one[1]": 0.1,
        "tests/a.py::test_one[2]": 1.0,  # all cases of a function
        "tests/a.py::test_two": 0.7,
        # A file of which hardly anything would be left
        "tests/b.py::test_one": 2.0,
        "tests/b.py::test_two[x::y]": 2.0,
        "tests/b.py::test_three": 2.0,
        "tests/b.py::test_four": 0.1,
        # A file with as much that is short
        "tests/c.py::test_one": 2.0,
        **{f"tests/c.py::test_two[{i}]": 0.5 for i in range(6)},
    }
    chosen = ["tests/a.py::test_one", "tests/b.py", "tests/c.py::test_one"]
    assert choose(seconds) == chosen


def test_a_report_is_read_by_the_names_of_the_tests(tmp_path):
    case = '<testcase classname="tests.docs.test_x" name="test_y[a.b]" time="{}"/>'
    files = [tmp_path / "a.xml", tmp_path / "b.xml"]
    for file, seconds in zip(files, (1.25, 0.5), strict=True):
        file.write_text(f"<testsuites><a>{case.format(seconds)}</a></testsuites>")
    assert read(*files) == {"tests/docs/test_x.py::test_y[a.b]": 1.25}


@pytest.mark.parametrize("asked", [True, False])
def test_what_the_list_names_is_deselected_where_that_is_asked_for(
    asked, tmp_path, monkeypatch
):
    (tmp_path / "long.txt").write_text("tests/a.py::test_one\ntests/b.py\n")
    monkeypatch.setattr(quick, "LIST", tmp_path / "long.txt")
    dropped = []
    config = SimpleNamespace(
        getoption={"--quick": asked}.get,
        hook=SimpleNamespace(pytest_deselected=lambda items: dropped.extend(items)),
    )
    ids = ["a.py::test_one[1]", "a.py::test_one_more", "b.py::test_one", "c.py::test_b"]
    items = [SimpleNamespace(nodeid=f"tests/{name}") for name in ids]
    Quick().pytest_collection_modifyitems(config, items)
    names = [item.nodeid for item in items]
    if asked:
        assert names == ["tests/a.py::test_one_more", "tests/c.py::test_b"]
        assert len(dropped) == 2
    else:
        assert len(names) == 4 and not dropped
