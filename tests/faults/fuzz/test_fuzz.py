"""Damaged files end in a result or in a sentence; the harness sees what does not."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from mmssl_ext.errors import ConfigError

from . import readers
from .readers import READERS, Reader
from .run import jobs, run

# A few hundred inputs in `make test`; other numbers than those of the long run.
FEW, MANY = 400, 10_000


def check(count: int, seed: int, processes: int = 1) -> None:
    todo = jobs(count, seed)
    assert len(todo) >= count
    report = run(todo, processes)
    print(report.table())
    assert [
        f"{f.reader} {f.number} {f.outcome}: {f.detail}" for f in report.faults
    ] == []
    assert sum(c.total() for c in report.counts.values()) == len(todo)
    totals = [report.counts[name] for name in READERS]
    assert all(count.total() for count in totals)
    # Damage is neither too light nor too heavy to prove anything.
    read = sum(count["read"] for count in totals)
    assert 0.1 * len(todo) < read < 0.9 * len(todo)


@pytest.mark.fault("R19", "R20")
@pytest.mark.timeout(300)
def test_a_few_damaged_files():
    check(FEW, seed=1)


@pytest.mark.slow
@pytest.mark.fault("R19", "R20")
@pytest.mark.timeout(900)
def test_ten_thousand_damaged_files():
    check(MANY, seed=0, processes=2)


def test_inputs_follow_from_their_numbers():
    for name, reader in READERS.items():
        assert reader.input(3, 7) == reader.input(3, 7), name
    numbers = [reader.input(seed, 7)[0] for seed in (3, 4)]
    assert numbers[0] != numbers[1]
    assert len(jobs(MANY, 0)) >= MANY


BAD = {
    "error": lambda folder: {}["x"],
    "error without the name": lambda folder: _refuse("nothing is said about the file"),
    "crash": lambda folder: os.abort(),
    "hang": lambda folder: time.sleep(60),
    "memory": lambda folder: _fill(2_300),
    "code": lambda folder: (folder / "CANARY").touch(),
    "code by audit": lambda folder: os.system("true"),
}


def _refuse(text: str) -> None:
    raise ConfigError(text)


def _fill(megabytes: int) -> None:
    import mmap

    mmap.mmap(-1, megabytes << 20).write(b"x" * (megabytes << 20))


def install_bad_readers() -> None:
    """In the process that reads: readers with every fault, silent on valid files."""

    def faulty(fault):
        def read(folder: Path) -> None:
            if (folder / "x").read_bytes() != b"valid":
                fault(folder)

        return read

    damage = [lambda rng, data: b"broken"]
    for name, fault in BAD.items():
        valid, read = (lambda: [b"valid"]), faulty(fault)
        READERS[name] = Reader(name, "x", damage, (ConfigError,), valid, read)


@pytest.mark.timeout(200)
def test_the_harness_sees_every_kind_of_fault(monkeypatch):
    """Also what ends the process: the next input is read by another one."""
    monkeypatch.setattr("tests.faults.fuzz.run.SECONDS", 3.0)
    monkeypatch.setattr("tests.faults.fuzz.run._serve", _serve_bad)
    monkeypatch.setattr(readers, "READERS", dict(READERS))
    todo = [(name, 0, 0) for name in BAD]
    report = run(todo)
    assert [f.reader for f in report.faults] == list(BAD)
    found = {f.reader: f.outcome for f in report.faults}
    expected = {name: name.split(" ")[0] for name in BAD}
    # Where the limit of the address space comes first it is an error.
    assert found.pop("memory") in ("memory", "error")
    del expected["memory"]
    assert found == expected


def _serve_bad(*args) -> None:
    from . import run

    install_bad_readers()
    run._serve(*args)
