#!/usr/bin/env python
"""Pretrain, run every transfer from every source, and compare them in a report.

A chain file says what (see mmssl_ext/chain/spec.py). Run again, the command goes on
where it stopped: finished stages are kept, interrupted ones resumed. A signal that asks
to stop is passed on to the stages, which save what they have done; the exit code is
then 130 after Ctrl-C, else 75.
"""

import argparse
import sys
from importlib.util import find_spec
from pathlib import Path

if find_spec("mmssl_ext") is None:  # a clone that is not installed
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from mmssl_ext.interrupt import at_once

with at_once():
    from mmengine.logging import MMLogger

    from mmssl_ext.errors import Preempted
    from mmssl_ext.packaged import find_config
    from mmssl_ext.run.tool import run_tool
    from mmssl_ext.text import printable

TOOLS = Path(__file__).resolve().parent


def parse_args() -> argparse.Namespace:
    """Options of the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("chain", help="chain file")
    parser.add_argument("--work-dir", help="folder [work_dirs/<name of the chain>]")
    parser.add_argument(
        "--only",
        nargs="+",
        default=[],
        metavar="NAME",
        help="only these stages: their names, or those of transfers or sources",
    )
    parser.add_argument(
        "--rerun",
        action="store_true",
        help="run stages again whose inputs changed; what is there moves to old/",
    )
    parser.add_argument(
        "--continue-on-error",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="run the other stages after one failed",
    )
    parser.add_argument(
        "--gpus", type=int, default=1, help="GPUs per stage (or CPU processes)"
    )
    parser.add_argument(
        "--jobs", type=int, default=1, help="stages at once, on GPUs of their own [1]"
    )
    action = parser.add_mutually_exclusive_group()
    action.add_argument(
        "--dry-run", action="store_true", help="check all and say what would run"
    )
    action.add_argument(
        "--list",
        action="store_true",
        help="the same for programs: stage, what it needs or -, state, by tabs",
    )
    action.add_argument(
        "--stage", metavar="NAME", help="run this one, beside other processes"
    )
    action.add_argument(
        "--report", action="store_true", help="only write results.csv and the report"
    )
    return parser.parse_args()


def run(args: argparse.Namespace) -> int:
    """Run the command; return the exit code."""
    find_config(args.chain)  # refuses a misspelt name in a moment
    with at_once():
        from mmssl_ext.chain.results import write_csv
        from mmssl_ext.chain.run import ChainRunner
        from mmssl_ext.chain.spec import read_chain
    # A line per stage: what reading the configs has to say stands in the stages' logs.
    MMLogger.get_current_instance().setLevel("WARNING")
    chain = read_chain(args.chain)
    work_dir = Path(args.work_dir or Path("work_dirs", chain.file.stem))
    runner = ChainRunner(chain, work_dir, TOOLS, args.gpus, args.jobs, renew)
    if args.stage:
        return runner.run_alone(chain.stage(args.stage), args.rerun)
    if args.report:
        if not work_dir.is_dir():
            raise FileNotFoundError(f"There is no work dir {work_dir}.")
        runner.plan.save()
        write_csv(work_dir)
        report(work_dir)
        return 0
    stages = chain.select(args.only)
    if args.list:
        for task in runner.plan.check(stages, args.rerun):
            print(task.stage.name, task.stage.needs or "-", task.todo, sep="\t")
        return 0
    if args.dry_run:
        for task in runner.plan.check(stages, args.rerun):
            changes = f" ({'; '.join(task.changes)})" if task.changes else ""
            print(f"{task.stage.name}: {task.todo}{changes}")
        return 0
    code = runner.run(stages, args.rerun, args.continue_on_error)
    if code != Preempted.exit_code:  # else there may be little time
        report(work_dir)
    return code


def renew(work_dir: Path) -> Path:
    """Write the report of a chain that is going; return its path."""
    from mmssl_ext.chain.report import write_chain_report

    return write_chain_report(work_dir, going=True)


def report(work_dir: Path) -> None:
    """Write the report and say what it says on top."""
    from mmssl_ext.chain.report import headline, write_chain_report

    path = write_chain_report(work_dir)
    print(printable(f"{headline(work_dir)}\nReport: {path}"))


def main() -> int:
    """Run the command."""
    args = parse_args()
    codes: list[int] = []
    return run_tool(lambda: codes.append(run(args)))() or codes[0]


if __name__ == "__main__":
    sys.exit(main())
