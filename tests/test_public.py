"""docs/api/public.md lists what may be imported, and the modules agree."""

from __future__ import annotations

import importlib
import re
import warnings
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[1] / "docs/api/public.md"
ROW = re.compile(r"^\| `(mmssl_ext[\w.]*)` \| [^|]+ \| (.+) \|$", re.MULTILINE)
PUBLIC = {
    module: re.findall(r"`(\w+)`", names)
    for module, names in ROW.findall(PAGE.read_text(encoding="utf-8"))
}


@pytest.mark.parametrize("module", PUBLIC)
def test_the_page_and_the_module_name_the_same_and_all_of_it_is_there(module):
    found = importlib.import_module(module)
    with warnings.catch_warnings():
        # Of this package's own names; what it imports may warn of its own.
        warnings.filterwarnings("error", ".*mmssl_ext", DeprecationWarning)
        for name in PUBLIC[module]:
            getattr(found, name)
    assert PUBLIC[module] == sorted(found.__all__, key=str.lower)


def test_the_page_has_what_a_user_needs():
    """The names that issue and docs promise, in the modules that they name."""
    assert {"load_config", "prepare", "train", "build_runner"} <= {
        *PUBLIC["mmssl_ext.run.launch"]
    }
    assert {"PretrainedBackbone", "fingerprint"} <= {*PUBLIC["mmssl_ext.transfer"]}
    assert PUBLIC["mmssl_ext.transfer.export"] == ["export_backbone"]


DOCS = [*PAGE.parents[1].glob("*.md"), *(PAGE.parents[2] / "projects").rglob("*.py")]
IMPORT = re.compile(r"^from (mmssl_ext[\w.]*) import (.+)$", re.MULTILINE)
TAUGHT = sorted(
    {
        (module, name.strip())
        for file in DOCS
        for module, names in IMPORT.findall(file.read_text(encoding="utf-8"))
        for name in names.split(",")
    }
)


@pytest.mark.parametrize(("module", "name"), TAUGHT)
def test_what_the_docs_import_is_public(module, name):
    assert name in PUBLIC[module]
