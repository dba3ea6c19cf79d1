"""All methods beside each other: the demo chain of every method, with several seeds.

Run, with the scenes of `make demo` at hand, and CCOP's proposals in them:

    python tools/make_proposals.py data/demo/imagenet data/demo/imagenet/proposals.json
    python benchmarks/methods.py --seeds 0 1 2 --jobs 2    # hours; again: goes on
    python benchmarks/methods.py --few --seeds 0 1         # kNN and linear probe only
    python benchmarks/methods.py --collect                 # only write the result
    python benchmarks/tables.py                            # and put it into the pages

Every combination is a run of `configs/chains/demo_methods.py` in a folder of its own,
OUT/<method>-seed<seed>, on one thread. `results/demo_methods_seeds_cpu.csv` then has a
row for each method, seed and transfer that has finished; rows of runs that are not in
OUT stay.
"""

import argparse
import csv
import functools
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path

import common

from mmssl_ext.errors import Preempted

CHAIN = "configs/chains/demo_methods.py"
NAME = "demo_methods_seeds_cpu"
METHODS = (
    *("random", "mocov2", "mocov2_112", "co2", "densecl", "regionclm", "detco"),
    *("interclr", "byol", "byol_112", "simclr", "simsiam", "ascl", "ressl", "mochi"),
    "xmoco",
    *("unmix_mocov2", "unmix_byol", "msf", "cmsf-2q", "cmsf-km", "ifnd", "tkc"),
    *("pixpro", "pixcontrast", "lcloss_mocov2", "lcloss_byol", "lcloss_simsiam"),
    *("densesiam", "dsc-pm", "dsc-km", "bgswaps", "ccop", "propos"),
    *("swav", "mira", "dino", "scfs"),
)
COLUMNS = (
    *("method", "transfer", "seed", "metric", "value", "recipe", "source_recipe"),
    *("seconds", "memory_mb", "device", "torch", "onedl-mmengine"),
    *("threads", "commit"),
)
Run = tuple[str, int]


def parse_args(args: list[str] | None = None) -> argparse.Namespace:
    """Options of the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    parser.add_argument("--jobs", type=int, default=1, help="runs at once, a core each")
    parser.add_argument("--out", type=Path, default=Path("work_dirs/methods"))
    parser.add_argument("--few", action="store_true", help="kNN and linear probe only")
    parser.add_argument("--collect", action="store_true", help="run nothing")
    return parser.parse_args(args)


def folder(out: Path, run: Run) -> Path:
    """Folder of one run."""
    return out / f"{run[0]}-seed{run[1]}"


def train(out: Path, run: Run, transfers: str = "all") -> int:
    """Run the chain of one method with one seed, or go on with it."""
    place = folder(out, run)
    command = ["tools/chain.py", CHAIN, "--work-dir", place]
    chosen = {"METHOD": run[0], "SEED": str(run[1]), "TRANSFERS": transfers}
    return call(place, command, chosen)


def call(
    place: Path, command: Sequence[str | Path], environment: dict[str, str]
) -> int:
    """Run a tool on one thread, with its output in a log beside its folder."""
    name, start = place.name, time.monotonic()
    with place.with_name(f"{name}.commit").open("a") as file:
        file.write(common.commit() + "\n")
    print(f"{name}: started", flush=True)
    with place.with_name(f"{name}.log").open("a") as log:
        code = subprocess.call(
            [sys.executable, *command],
            cwd=common.REPOSITORY,
            stdout=log,
            stderr=log,
            env=os.environ
            | environment
            | {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"},
        )
    minutes = (time.monotonic() - start) / 60
    said = "finished" if code == 0 else f"ended with code {code}, see {log.name}"
    print(f"{name}: {said} after {minutes:.0f} min", flush=True)
    return code


def train_all(
    out: Path, runs: list[Run], jobs: int, one_run: Callable[[Path, Run], int] = train
) -> int:
    """Run all; a preemption ends it, another failure only its own run."""
    out.mkdir(parents=True, exist_ok=True)
    preempted = threading.Event()

    def one(run: Run) -> int:
        code = Preempted.exit_code if preempted.is_set() else one_run(out, run)
        if code == Preempted.exit_code:
            preempted.set()
        return code

    with ThreadPoolExecutor(jobs) as pool:
        codes = list(pool.map(one, runs))
    return Preempted.exit_code if preempted.is_set() else max(codes)


def collect(out: Path, runs: list[Run]) -> list[dict]:
    """Rows of what has finished; say what has not."""
    from collect import CHAIN_TABLE, chain_rows

    rows = []
    for run in runs:
        if (folder(out, run) / CHAIN_TABLE).is_file():
            found = chain_rows(folder(out, run))
            own = {"method": run[0], "threads": 1}
            rows += [row | own for row in found]
        else:
            print(f"{folder(out, run)} has no results yet.")
    return [{key: row[key] for key in COLUMNS} for row in rows]


def others(table: Path, rows: list[dict]) -> list[dict]:
    """Rows of the table that these do not measure again."""
    if not table.is_file():
        return []

    def measured(row: dict) -> tuple[str, ...]:
        return row["method"], str(row["seed"]), row["transfer"]

    again = set(map(measured, rows))
    with table.open(newline="") as file:
        known = [row for row in csv.DictReader(file) if measured(row) not in again]
    machine = common.describe_machine()  # a column may be newer than a row
    return [row | {k: row.get(k, "") for k in machine} for row in known]


def main(args: argparse.Namespace) -> int:
    """Run what is asked for and write the result."""
    runs = [(method, seed) for seed, method in product(args.seeds, args.methods)]
    out = args.out.resolve()
    one_run = functools.partial(train, transfers="few" if args.few else "all")
    code = 0 if args.collect else train_all(out, runs, args.jobs, one_run)
    rows = collect(out, runs)
    if not rows:
        print("Nothing has finished, so no result is written.")
        return code or 1
    common.write_rows(NAME, others(common.RESULTS / f"{NAME}.csv", rows) + rows)
    return code


if __name__ == "__main__":
    sys.exit(main(parse_args()))
