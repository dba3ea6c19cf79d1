"""Checkpoints of short pretrainings, made when a test asks for one."""

from __future__ import annotations

from pathlib import Path

import pytest

from mmssl_ext.engine.checkpoint.write import wait_for_checkpoints
from tests.engine.test_exact_resume import images
from tests.harness import RunHarness, stop_at

from .cases import short_run

__all__ = ["images"]


@pytest.fixture(scope="session")
def pretrained(images, tmp_path_factory):
    """A checkpoint of one step of MoCo with a backbone, made at the first use."""
    made: dict[str, Path] = {}

    def make(name: str) -> Path:
        if name not in made:
            folder = tmp_path_factory.mktemp("pretrained")
            cfg = short_run("MoCo", name, images, folder, every=1)
            RunHarness.of(cfg).train(stop_at(1), stops=True)
            wait_for_checkpoints()
            made[name] = folder / "iter_1.pth"
        return made[name]

    return make
