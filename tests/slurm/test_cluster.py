"""The cluster of these tests: what it needs and that nothing of it stays."""

from __future__ import annotations

import os
import subprocess
import time

import pytest

from tests.slurm import install
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
        assert (
            len(processes(second.folder)) >= 8
        )  # munged, slurmctld, 2 slurmd, steps, srun, sleep
    assert not processes(second.folder) and not second.folder.exists()
    assert cluster.call("sinfo", "--noheader", "--format=%D").split() == ["2"]


@pytest.mark.parametrize(
    ("lacking", "root", "apt", "words"),
    [
        ([], True, True, ""),
        (["sbatch"], True, True, "(sbatch not found): make test-slurm installs it"),
        (["sbatch"], False, True, "only root can install it: sudo apt-get install"),
        (["munged"], True, False, "there is no apt-get to install it"),
    ],
)
def test_says_why_slurm_is_not_here(
    monkeypatch: pytest.MonkeyPatch,
    lacking: list[str],
    root: bool,
    apt: bool,
    words: str,
) -> None:
    called: list[tuple[str, ...]] = []
    monkeypatch.setattr(install, "missing", lambda: lacking)
    monkeypatch.setattr(os, "geteuid", lambda: 0 if root else 1000)
    monkeypatch.setattr(install.shutil, "which", lambda _: "/x" if apt else None)
    monkeypatch.setattr(subprocess, "run", lambda command, **_: called.append(command))
    assert words in install.why_not() and bool(words) == bool(install.why_not())
    install.install()
    assert bool(called) == bool(lacking and root and apt)
    if called:
        assert called[-1][-len(install.PACKAGES) :] == install.PACKAGES
