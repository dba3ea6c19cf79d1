#!/usr/bin/env python
"""Report kNN accuracy and clustering scores of a checkpoint, and write its features."""

import argparse
import sys
from importlib.util import find_spec
from pathlib import Path

if find_spec("mmssl_ext") is None:  # a clone that is not installed
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from mmssl_ext.interrupt import at_once

with at_once():
    from mmssl_ext.run.tool import add_config, run_tool, take_config
    from mmssl_ext.text import shown


def parse_args() -> argparse.Namespace:
    """Options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    add_config(parser, "config file, with default_hooks.knn")
    parser.add_argument("checkpoint", help="checkpoint file")
    parser.add_argument(
        "--encoder", choices=["query", "key", "both"], help="[as in the config]"
    )
    parser.add_argument(
        "--features",
        metavar="OUT.npz",
        help="write features, labels and paths of the query set",
    )
    parser.add_argument("--k", type=int, help="number of voters [as in the config]")
    parser.add_argument(
        "--temperature", type=float, help="sharpness of the vote [as in the config]"
    )
    # One process tests; `mim test` says so.
    parser.add_argument("--launcher", choices=["none"], help=argparse.SUPPRESS)
    return parser.parse_args()


@run_tool
def main() -> None:
    """Run the command."""
    args = vars(parse_args())
    args.pop("launcher")
    cfg = take_config(args)
    with at_once():
        from mmssl_ext.engine.monitor.knn import tag_of
        from mmssl_ext.run.evaluate import evaluate_checkpoint
    scores = evaluate_checkpoint(cfg, **args)
    for name, value in scores.items():
        print(f"{tag_of(name).replace('/', ' ')}: {value:.2f} %")
    if args["features"]:
        print(f"Features: {shown(args['features'])}")


if __name__ == "__main__":
    sys.exit(main())
