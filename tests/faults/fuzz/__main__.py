"""Damage files at random and read them: ``python -m tests.faults.fuzz --count 9999``.

Exit code 1 if an input did anything but succeed or be refused by a sentence; such
inputs are written to a folder with the command that repeats them.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from .readers import READERS
from .run import Report, jobs, run


def parse_args() -> argparse.Namespace:
    """Options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--count", type=int, default=10_000, help="of inputs [10000]")
    parser.add_argument("--seed", type=int, default=0, help="[0]")
    parser.add_argument("--reader", nargs="+", choices=READERS, default=[])
    parser.add_argument("--only", type=int, metavar="N", help="repeat input N alone")
    parser.add_argument("--processes", type=int, default=1, help="[1]")
    parser.add_argument(
        "--out", default="work_dirs/fuzz", help="for failing inputs [work_dirs/fuzz]"
    )
    return parser.parse_args()


def write_faults(report: Report, seed: int, folder: Path) -> None:
    """Write each failing input beside what it did, and say how to repeat it."""
    for fault in report.faults:
        name = f"{fault.reader}-{seed}-{fault.number}"
        folder.mkdir(parents=True, exist_ok=True)
        data, mutation = READERS[fault.reader].input(seed, fault.number)
        suffix = Path(READERS[fault.reader].file).suffix
        (folder / f"{name}{suffix}").write_bytes(data)
        again = (
            f"python -m tests.faults.fuzz --seed {seed} --reader {fault.reader} "
            f"--only {fault.number}"
        )
        text = f"{again}\n{fault.outcome} after {mutation}\n\n{fault.detail}\n"
        (folder / f"{name}.txt").write_text(text, errors="backslashreplace")
        last = fault.detail.strip().splitlines()[-1:] or [""]
        print(f"{fault.outcome}: {again}\n    {mutation}: {last[0][:200]}")


def main() -> int:
    """Run the command."""
    args = parse_args()
    start = time.monotonic()
    if args.only is None:
        todo = jobs(args.count, args.seed, args.reader)
    else:
        todo = [(name, args.seed, args.only) for name in args.reader]
    report = run(todo, args.processes)
    write_faults(report, args.seed, Path(args.out))
    print(report.table())
    print(
        f"{len(report.faults)} faults; at most {report.megabytes:.0f} MB for one input;"
        f" {time.monotonic() - start:.0f} s."
    )
    return bool(report.faults)


if __name__ == "__main__":
    sys.exit(main())
