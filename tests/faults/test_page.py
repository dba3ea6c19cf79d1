"""docs/faults.md says what was observed, and names every fault once."""

from __future__ import annotations

import re

import pytest

from tests.faults import page
from tests.faults.suite import FAULTS


def test_ids_are_the_same_everywhere():
    ids = [f"R{i}" for i in range(1, 46)]
    assert list(FAULTS) == list(page.OURS) == list(page.observed()) == ids
    for fault, row in page.observed().items():
        assert row["fault"] == FAULTS[fault]
        assert row["outcome"] in ("pass", "partial", "fail")
        assert row["observed"] and row["versions"]


def test_every_fault_is_said_and_proved():
    assert [fault for fault, text in page.OURS.items() if not text] == []
    assert [fault for fault, files in page.proofs().items() if not files] == []


def test_the_page_is_up_to_date():
    found = page.parts()[1]
    assert found == page.table(), "Run: python -m tests.faults.page"
    rows = re.findall(r"^\| (R\d+) \|", found, re.MULTILINE)
    assert rows == list(FAULTS)


@pytest.mark.parametrize("change", ["observed", "outcome"])
def test_another_observation_shows(tmp_path, monkeypatch, change):
    text = page.RESULTS.read_text()
    row = page.observed()["R9"]
    monkeypatch.setattr(page, "RESULTS", tmp_path / "upstream.csv")
    page.RESULTS.write_text(text.replace(row[change], "something else"))
    assert page.parts()[1] != page.table()


def test_links_of_the_page_lead_somewhere():
    for link in re.findall(r"\]\(([^)#]+)\)", page.PAGE.read_text()):
        if "://" not in link:
            assert (page.PAGE.parent / link).exists(), link
