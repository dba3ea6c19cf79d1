"""docs/change_the_backbone.md says what the tests try."""

from __future__ import annotations

from . import page
from .cases import BACKBONES


def test_the_page_is_up_to_date():
    text = page.PAGE.read_text(encoding="utf-8")
    assert text == page.written(text), "Run: python -m tests.backbones.page"


def test_a_case_less_shows(monkeypatch):
    before = page.matrix()
    assert before.count("| yes |") > 5 * len(BACKBONES) // 2
    monkeypatch.setattr(page.test_pretraining.test_learns, "pytestmark", [])
    assert page.matrix() != before
