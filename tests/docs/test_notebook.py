"""The notebook runs from its first cell to its last."""

import json
import re

from tests.harness import REPO, write_images

NOTEBOOK = REPO / "docs" / "own_images.ipynb"


def cells(kind):
    book = json.loads(NOTEBOOK.read_text("utf-8"))
    assert (book["nbformat"], book["nbformat_minor"]) == (4, 4)
    return [cell for cell in book["cells"] if cell["cell_type"] == kind]


def test_it_is_kept_without_what_was_printed():
    for cell in cells("code"):
        assert not cell["outputs"] and cell["execution_count"] is None


def test_its_links_lead_to_pages():
    text = "".join(line for cell in cells("markdown") for line in cell["source"])
    links = re.findall(r"\]\(([^)]+)\)", text)
    assert len(links) >= 3
    for link in links:
        assert (
            link.startswith("https://github.com/OWNER/mmssl_ext")
            or (NOTEBOOK.parent / link).is_file()
        )


def test_every_cell_runs(tmp_path, monkeypatch, capsys):
    write_images(tmp_path / "photos", 2, 12)
    monkeypatch.chdir(tmp_path)
    parts = ["".join(cell["source"]) for cell in cells("code")]
    parts[0], count = re.subn(r"^steps = \d+", "steps = 2", parts[0], flags=re.M)
    assert count == 1
    names = {}
    for part in parts:
        exec(part, names)
    said = capsys.readouterr().out
    assert said.count("is most like") == 5
    assert said.count("channels in") == 1
