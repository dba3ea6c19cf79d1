"""One cluster for all tests that need one."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.slurm.cluster import Cluster, missing, running_cluster


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """A Slurm cluster of two nodes, n1 and n2, on this machine."""
    if lacking := ", ".join(missing()):
        pytest.skip(
            f"Slurm is not installed ({lacking} not found): apt-get install munge "
            "slurm-client slurmctld slurmd, or make test-slurm as root"
        )
    with running_cluster() as running:
        yield running
