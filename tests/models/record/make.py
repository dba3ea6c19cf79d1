"""Write down what version 0.1 computes; runs in a checkout of that version only.

See README.md: ``python -m tests.models.record.make steps`` and ``... make runs``.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

import torch
from mmengine.logging import MMLogger
from mmssl_ext.engine.checkpoint_writing import wait_for_checkpoints

from ...distributed import run_ranks
from ...harness import make_runner
from . import runs, steps

# The same everywhere: checkpoints name the folder that they were written in.
NEUTRAL = Path(tempfile.gettempdir(), "version_0_1")


def on_a_rank(rank: int) -> dict:
    """The cases of two ranks, on this one."""
    _be_quiet()
    return {name: steps.run(steps.CASES[name], rank, 2) for name in steps.ON_TWO_RANKS}


def make_steps() -> None:
    """Write steps.json: by case what one rank found, and what each of two did."""
    ranks = run_ranks(on_a_rank, 2)
    found = {
        "one rank": {name: steps.run(case) for name, case in steps.CASES.items()},
        "two ranks": {name: [r[name] for r in ranks] for name in steps.ON_TWO_RANKS},
    }
    _write(Path(__file__).with_name("steps.json"), found)


def make_runs() -> None:
    """Write a checkpoint of every run, and what the run came to afterwards."""
    NEUTRAL.mkdir()
    try:
        os.chdir(NEUTRAL)
        root, states = runs.write_images(Path("images")), {}
        for name in runs.RUNS:
            record = runs.Record()
            make_runner(runs.config_of(name, root, Path(name)), record).train()
            wait_for_checkpoints()
            states[name] = {i: x for i, x in record.found.items() if i > runs.SAVED}
            runs.pack(name, NEUTRAL / name / f"iter_{runs.SAVED}.pth")
        _write(runs.FOLDER / "states.json", states)
    finally:
        shutil.rmtree(NEUTRAL)


def _write(path: Path, found: Any) -> None:
    text = json.dumps(found, indent=0, separators=(",", ":"))  # floats as repr: exact
    path.write_text(text + "\n")


def _be_quiet() -> None:
    MMLogger.get_current_instance().setLevel("ERROR")
    warnings.filterwarnings("ignore", "bn_splits=1")
    warnings.filterwarnings("ignore", "The batch of .* no multiple of bn_splits")


if __name__ == "__main__":
    _be_quiet()
    torch.set_num_threads(1)
    {"steps": make_steps, "runs": make_runs}[sys.argv[1]]()
