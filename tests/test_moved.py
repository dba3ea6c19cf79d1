"""Modules of version 0.1 are found by the names of that time, with a warning."""

import sys
from importlib import import_module

import pytest

from mmssl_ext.moved import MOVED, PACKAGE
from tests.warm import python


def test_every_name_leads_to_a_module_of_now():
    for old, new in MOVED.items():
        assert old != new
        sys.modules.pop(old, None)
        with pytest.warns(DeprecationWarning, match=f"^{old} is {new} now"):
            found = import_module(old)
        assert found is import_module(new)
        assert found.__name__ == new


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("engine.checkpoint.find_resumable", "engine.checkpoint.read.find_resumable"),
        ("engine.UserError", "errors.UserError"),
        ("engine.SSLRunner", "run.runner.SSLRunner"),
        ("engine.hooks.ReportHook", "visualization.hooks.ReportHook"),
        ("transfer.data_check.check_data", "transfer.data_check.check.check_data"),
    ],
)
def test_names_of_packages(old, new):
    def get(path):
        module, _, name = f"{PACKAGE}.{path}".rpartition(".")
        return getattr(import_module(module), name)

    with pytest.warns(DeprecationWarning, match=f"{new} now"):
        assert get(old) is get(new)


def test_other_names_are_missing_as_ever():
    with pytest.raises(ModuleNotFoundError, match=r"mmssl_ext\.engine\.nonsense"):
        import_module("mmssl_ext.engine.nonsense")
    with pytest.raises(ImportError, match="cannot import name 'nonsense'"):
        from mmssl_ext.engine.hooks import nonsense  # noqa: F401


def test_the_package_itself_uses_none_of_them():
    code = (
        "import warnings\n"
        "warnings.filterwarnings('error', r'mmssl_ext', DeprecationWarning)\n"
        "import mmssl_ext.run.launch, mmssl_ext.chain.run, mmssl_ext.models"
    )
    done = python("-c", code)
    assert done.returncode == 0, done.stderr
