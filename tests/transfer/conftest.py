"""What tests of the transfer share."""

from __future__ import annotations

import pytest
from mmengine.logging import MMLogger

from mmssl_ext.datasets.demo import make_demo


@pytest.fixture
def log(caplog):
    """What is written to mmengine's log meanwhile."""
    MMLogger.get_current_instance().addHandler(caplog.handler)
    yield caplog
    MMLogger.get_current_instance().removeHandler(caplog.handler)


@pytest.fixture(scope="session")
def demo(tmp_path_factory):
    """48 + 16 scenes of 64 pixels in every layout."""
    out = tmp_path_factory.mktemp("data") / "demo"
    return make_demo(out, train=48, test=16, size=64, progress=False)
