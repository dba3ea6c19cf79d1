"""What every test gets: plots without a display and the same random start."""

from __future__ import annotations

import os
import random
import sys

import numpy as np
import pytest

os.environ.setdefault("MPLBACKEND", "Agg")


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """Seed the global generators, so that a test does not depend on its order."""
    random.seed(0)
    np.random.seed(0)
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)
