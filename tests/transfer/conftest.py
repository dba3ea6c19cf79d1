"""What tests of the transfer share."""

from __future__ import annotations

import pytest
from mmengine.logging import MMLogger


@pytest.fixture
def log(caplog):
    """What is written to mmengine's log meanwhile."""
    MMLogger.get_current_instance().addHandler(caplog.handler)
    yield caplog
    MMLogger.get_current_instance().removeHandler(caplog.handler)
