"""Variables of a config are replaced in its text, and nothing else is."""

from __future__ import annotations

import os

import pytest
from mmengine.config import Config

from mmssl_ext.engine.config.variables import (
    config_files,
    read_with_variables,
    variables,
)
from mmssl_ext.errors import ConfigError
from mmssl_ext.run.launch import load_config


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a = 1; b = a + 1\nc = a * 10", dict(a=7, b=8, c=70)),
        ("c = 0; a = 1; b = a", dict(a=7, b=7, c=0)),
        ("a = b = 1\nc = b", dict(a=7, b=7, c=7)),
        ("a = 1\nb = a\na = 2\nc = a", dict(a=2, b=7, c=2)),
        ("b = 'ä'; a = 1  # comment\nc = b", dict(a=7, b="ä", c="ä")),
        ("a = (\n    1 +\n    2  # three\n)\nb = a\nc = 'x'", dict(a=7, b=7, c="x")),
        # Unicode's and ASCII's other separators end no line of Python.
        ("# one\u2028two\x0c\x1cthree\na = 1\nb = a\nc = 1", dict(a=7, b=7, c=1)),
        ('b = """\x0b\n\u2029a = 5\n"""\na = 1\nc = a', {"a": 7, "c": 7}),
        ("a = 1\r\nb = a\r\nc = 2\r\n", dict(a=7, b=7, c=2)),
    ],
)
def test_only_the_value_is_replaced(tmp_path, text, expected):
    path = tmp_path / "config.py"
    path.write_bytes(text.encode())
    assert variables(path) == {"a", "b", "c"}
    plain = Config.fromfile(path).to_dict()
    cfg = read_with_variables(path, {"a": 7}).to_dict()
    assert cfg == plain | expected


def test_a_line_cannot_be_moved_into_code(tmp_path):
    """What stands in a string before the replacement stands in one afterwards."""
    path = tmp_path / "config.py"
    path.write_text('x = "\u2028"\na = 1\ns = """\nimport os\n"""\nb = a\n')
    cfg = read_with_variables(path, {"a": 2})
    assert (cfg.b, cfg.s) == (2, "\nimport os\n")


def test_values_reach_the_bases(tmp_path):
    (tmp_path / "deep.py").write_text("a = 1\nd = [a]")
    (tmp_path / "base.py").write_text("_base_ = ['deep.py']\ne = _base_.a + 1")
    path = tmp_path / "config.py"
    path.write_text("f = 1; _base_ = 'base.py'; g = _base_.e\n")
    cfg = read_with_variables(path, {"a": 7, "f": 2})
    assert (cfg.d, cfg.e, cfg.f, cfg.g) == ([7], 8, 2, 8)
    names = [file.name for file in config_files(path)]
    assert names == ["deep.py", "base.py", "config.py"]


@pytest.mark.parametrize(
    ("base", "message"),
    [
        ("'config.py'", "base of itself"),
        ("['other.py']", "base of itself"),
        ("[f'{x}.py']", r"line 1: _base_ must be a literal"),
        ("3", "must be a literal"),
        ("[3]", "must be a literal"),
    ],
)
def test_impossible_bases_are_refused(tmp_path, base, message):
    (tmp_path / "config.py").write_text(f"_base_ = {base}\n")
    (tmp_path / "other.py").write_text("_base_ = './config.py'\n")
    with pytest.raises(ConfigError, match=message):
        config_files(tmp_path / "config.py")


@pytest.mark.parametrize(
    "folder", [r"C:\new\1", 'it\'s "here"', "a\nb", os.fsdecode(b"fa\xe7ade")]
)
def test_values_of_the_environment_are_what_they_are(tmp_path, monkeypatch, folder):
    (tmp_path / "base.py").write_text('root = "{{$MMSSL_DATA:data}}/train"\n')
    path = tmp_path / "small.py"
    path.write_text('_base_ = "base.py"\nseed = {{"$MMSSL_SEED:1"}}\n')
    assert load_config(path).root == "data/train"
    monkeypatch.setenv("MMSSL_DATA", folder)
    monkeypatch.setenv("MMSSL_SEED", "2 + 1")
    assert load_config(path).root == f"{folder}/train"
    assert load_config(path).seed == 3
    assert load_config(path, {"seed": 4}).root == f"{folder}/train"


@pytest.mark.parametrize("name", ["it's", "a\\b", os.fsdecode(b"fa\xe7ade")])
def test_the_folder_of_a_config_is_what_it_is(tmp_path, name):
    path = tmp_path / name / "small.py"
    path.parent.mkdir()
    text = "seed = 1\nhere = '{{ fileDirname }}/{{fileBasenameNoExtension}}'\n"
    path.write_text(text)
    for options in ({}, {"seed": 2}):
        assert load_config(path, options).here == f"{path.parent}/small"
