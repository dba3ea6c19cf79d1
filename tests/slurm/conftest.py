"""One cluster for all tests that need one."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.slurm.cluster import Cluster, running_cluster
from tests.slurm.install import why_not


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """A Slurm cluster of two nodes, n1 and n2, on this machine."""
    if reason := why_not():
        pytest.skip(reason)
    with running_cluster() as running:
        yield running
