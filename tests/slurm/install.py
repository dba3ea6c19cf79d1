"""Install what the tests on a Slurm cluster need: ``python -m tests.slurm.install``.

Does nothing where it is there. Else Debian's and Ubuntu's packages are installed by
apt-get, which needs root; their services are not started. Where that cannot be, it says
so and the tests are skipped.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

from tests.slurm.cluster import missing

PACKAGES = ("munge", "slurm-client", "slurmctld", "slurmd")


def why_not() -> str:
    """Why Slurm is not here and how to get it; empty where it is."""
    lacking = ", ".join(missing())
    if not lacking:
        return ""
    text = f"Slurm is not installed ({lacking} not found)"
    if shutil.which("apt-get") is None:
        return f"{text} and there is no apt-get to install it: install Slurm and munge"
    if os.geteuid() != 0:
        return (
            f"{text} and only root can install it: sudo apt-get install "
            f"{' '.join(PACKAGES)}, or make test-slurm as root"
        )
    return f"{text}: make test-slurm installs it where apt-get finds its packages"


def install() -> None:
    """Install the packages where they are missing and this process may."""
    if not missing() or os.geteuid() != 0 or shutil.which("apt-get") is None:
        return
    # No runlevel: then Debian's scripts start no service.
    env = os.environ | {"DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}
    options = ("--yes", "--quiet", "--no-install-recommends")
    for command in (("update", "--quiet"), ("install", *options, *PACKAGES)):
        subprocess.run(("apt-get", *command), env=env, stdout=sys.stderr, check=False)


if __name__ == "__main__":
    install()
    print(why_not() or "Slurm is installed.")
