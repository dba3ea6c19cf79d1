"""Bases beside each other, and one term on two of them: kNN on CIFAR-10.

Run, with CIFAR-10 at hand (CIFAR10_ROOT):

    python benchmarks/bases.py --jobs 2        # hours; again: goes on
    python benchmarks/bases.py --collect       # only write the result
    python benchmarks/tables.py                # and put it into the pages

MoCo v2, BYOL and SimCLR, and CO2's term on MoCo v2 and on BYOL, with two seeds, four
epochs each at a quarter of the width, on one thread. `results/cifar10_bases_cpu.csv`
has the kNN accuracy of the untrained network and after every second epoch. The settings
of a row are those of its config and of `recipe.options`.
"""

import argparse
import sys
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import common
from collect import run_rows
from methods import Run, call, folder, train_all
from recipe import options

from mmssl_ext.visualization import logs

NAME = "cifar10_bases_cpu"
BASES = {  # by name: config, and type of the model
    "mocov2": ("mocov2/mocov2_r18_cifar10.py", "MoCo"),
    "byol": ("byol/byol_r18_cifar10.py", "BYOL"),
    "simclr": ("simclr/simclr_r18_cifar10.py", "SimCLR"),
    "co2": ("co2/co2_r18_cifar10.py", "CO2"),
    "byol-co2": ("byol/byol-co2_r18_cifar10.py", "BYOL"),
}
EPOCHS = 4


def parse_args(args: list[str] | None = None) -> argparse.Namespace:
    """Options of the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--bases", nargs="+", choices=BASES, default=[*BASES])
    parser.add_argument("--jobs", type=int, default=1, help="runs at once, a core each")
    parser.add_argument("--out", type=Path, default=Path("work_dirs/bases"))
    parser.add_argument("--collect", action="store_true", help="run nothing")
    parser.add_argument(
        "--repacked",
        action="store_true",
        help="CIFAR-10 is a re-packed copy of the same pixels, of other checksums",
    )
    return parser.parse_args(args)


def settings(run: Run, repacked: bool) -> Iterator[str]:
    """Options of the config of a run."""
    given = options(NAME, {"seed": str(run[1]), "method": BASES[run[0]][1]})
    if repacked:
        given["verify_md5"] = False
    given["default_hooks.knn.before_train"] = True
    return (f"{key}={value}".replace(" ", "") for key, value in given.items())


def collect(out: Path, runs: list[Run]) -> list[dict]:
    """Rows of what has finished; say what has not."""
    rows = []
    for run in runs:
        place = folder(out, run)
        log = logs.read_run(place) if place.is_dir() else logs.RunLog()
        if any(row["epoch"] == EPOCHS for row in log.knn):
            rows += run_rows(place)
        else:
            print(f"{place} has no results yet.")
    return [{k: v for k, v in row.items() if k != "run"} for row in rows]


def main(args: argparse.Namespace) -> int:
    """Run what is asked for and write the result."""
    runs = list(product(args.bases, args.seeds))
    out = args.out.resolve()

    def train(out: Path, run: Run) -> int:
        place = folder(out, run)
        command = ["tools/train.py", f"configs/{BASES[run[0]][0]}", "--resume"]
        chosen = ["--cfg-options", *settings(run, args.repacked)]
        return call(place, [*command, "--work-dir", place, *chosen], {})

    code = 0 if args.collect else train_all(out, runs, args.jobs, train)
    rows = collect(out, runs)
    if not rows:
        print("Nothing has finished, so no result is written.")
        return code or 1
    common.write_rows(NAME, rows)
    return code


if __name__ == "__main__":
    sys.exit(main(parse_args()))
