"""The cluster of these tests: nothing of it stays."""

from __future__ import annotations

import time

import pytest

from tests.slurm.cluster import Cluster, processes, running_cluster


@pytest.mark.slurm
@pytest.mark.timeout(120)
def test_nothing_stays_behind(cluster: Cluster) -> None:
    with running_cluster() as second:  # two do not disturb one another
        assert second.folder != cluster.folder
        job = ("--partition=main", "--nodes=2", "--output=/dev/null")
        second.call("sbatch", *job, "--wrap=srun sleep 1000")
        while len(second.call("squeue", "--noheader", "--steps").splitlines()) < 2:
            time.sleep(0.1)
        # munged, slurmctld, 2 slurmd, steps, srun, sleep
        assert len(processes(second.folder)) >= 8
    assert not processes(second.folder) and not second.folder.exists()
    assert cluster.call("sinfo", "--noheader", "--format=%D").split() == ["2"]
