#!/usr/bin/env python
"""Draw the views of training images exactly as the network receives them."""

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
    add_config(parser, "config file of a pretraining")
    parser.add_argument(
        "--out", required=True, metavar="FILE.png", help="picture to write"
    )
    parser.add_argument(
        "--num", type=int, default=8, help="number of images, evenly spaced [8]"
    )
    parser.add_argument("--seed", type=int, help="of the run [as in the config]")
    parser.add_argument(
        "--epoch", type=int, default=1, help="of the run, as its log counts [1]"
    )
    parser.add_argument(
        "--images", metavar="FOLDER", help="take these instead of the training set"
    )
    return parser.parse_args()


@run_tool
def main() -> None:
    """Run the command."""
    args = vars(parse_args())
    cfg = take_config(args)
    with at_once():
        from mmssl_ext.visualization.pictures.browse import browse
    print(f"Picture: {shown(browse(cfg, **args))}")


if __name__ == "__main__":
    sys.exit(main())
