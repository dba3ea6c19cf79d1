"""What is no path is refused by name at every entrance, before any work."""

from __future__ import annotations

from pathlib import Path

import pytest

import mmssl_ext
from mmssl_ext.api.data import dataset_of
from mmssl_ext.api.graphs import export_graphs
from mmssl_ext.engine.weights.files import read_weights
from mmssl_ext.errors import UserTypeError, UserValueError
from mmssl_ext.files import path_named

ENTRANCES = {
    "load_backbone": ("checkpoint", mmssl_ext.load_backbone),
    "read_weights": ("checkpoint", read_weights),
    "stats": ("data", mmssl_ext.stats),
    "dataset_of": ("data", dataset_of),
    "embed of weights": ("checkpoint", lambda x: mmssl_ext.embed(x, ".")),
    "embed of images": ("data", lambda x: mmssl_ext.embed("a.pth", x)),
    "embed into": ("out", lambda x: mmssl_ext.embed("a.pth", ".", x or 0)),
    "duplicates": ("folder", mmssl_ext.duplicates),
    "duplicates with": ("other", lambda x: mmssl_ext.duplicates(".", x or 0)),
    "make_proposals of": ("data", lambda x: mmssl_ext.make_proposals(x, "a.json")),
    "make_proposals into": ("out", lambda x: mmssl_ext.make_proposals(".", x)),
    "export_graphs of": ("checkpoint", lambda x: export_graphs(x, "a", ())),
    "export_graphs into": ("out", lambda x: export_graphs("a.pth", x)),
}


@pytest.mark.parametrize("value", [None, b"photos", 3, [["photos"]]], ids=repr)
@pytest.mark.parametrize("entrance", ENTRANCES)
def test_what_is_no_path_is_refused_by_name(entrance, value, photo, monkeypatch):
    monkeypatch.chdir(photo)
    name, call = ENTRANCES[entrance]
    with pytest.raises(UserTypeError, match=f"^{name} is .*: it must be the path of"):
        call(value)


@pytest.fixture
def photo(tmp_path):
    """A folder of one image."""
    from PIL import Image

    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    return tmp_path


def test_paths_are_taken_as_they_are():
    assert path_named("data", "~/a b") == path_named("data", Path("~/a b")) == "~/a b"
    with pytest.raises(UserTypeError, match=r"^data is \[0, 1.{70,80} \.\.\.: it must"):
        path_named("data", list(range(1000)))
    with pytest.raises(UserValueError, match=r"^checkpoint is empty: ''\. Name a file"):
        mmssl_ext.load_backbone("")
