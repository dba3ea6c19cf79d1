"""docs/faults.md says what was observed, and names every fault once."""

from __future__ import annotations

import re

import pytest

from tests.faults import page, suite
from tests.faults.suite import FAULTS


def test_every_fault_is_said_observed_and_proved():
    ids = [f"R{i}" for i in range(1, 46)]
    assert list(FAULTS) == list(page.promises()) == ids
    for fault, row in suite.observed().items():
        name, promise = page.promises()[fault]
        assert name == FAULTS[fault] and len(promise) > 20
        assert row["outcome"] in ("pass", "partial", "fail")
        assert row["observed"] and row["versions"]
    assert [fault for fault, files in page.proofs().items() if not files] == []


def test_the_page_is_up_to_date():
    assert page.parts()[1] == page.table(), "Run: python -m tests.faults.page"


@pytest.mark.parametrize("change", ["observed", "outcome"])
def test_another_observation_shows(tmp_path, monkeypatch, change):
    text = suite.RESULTS.read_text()
    row = suite.observed()["R9"]
    monkeypatch.setattr(suite, "RESULTS", tmp_path / "upstream.csv")
    suite.RESULTS.write_text(text.replace(row[change], "something else"))
    assert page.parts()[1] != page.table()


def test_links_of_the_page_lead_somewhere():
    for link in re.findall(r"\]\(([^)#]+)\)", page.PAGE.read_text()):
        if "://" not in link:
            assert (page.PAGE.parent / link).exists(), link
