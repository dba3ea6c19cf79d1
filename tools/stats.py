#!/usr/bin/env python
"""Print mean, deviation and range of the bands of images, also as lines of a config."""

import argparse
import sys
from importlib.util import find_spec
from pathlib import Path

if find_spec("mmssl_ext") is None:  # a clone that is not installed
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from mmssl_ext.interrupt import at_once

with at_once():
    from mmssl_ext.api.data import bands_named
    from mmssl_ext.run.tool import run_tool
    from mmssl_ext.text import shown


def parse_args() -> argparse.Namespace:
    """Options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("data", help="folder of images, folder of shards, or text list of images")
    text = "number of bands, or which, from 0: 5, or 3,2,1 [RGB, or all that there are]"
    add("--bands", metavar="N", help=text)
    text = "values that become 0 and 255 [8 bits: 0 255; else the percentiles]"
    add("--value-range", type=float, nargs=2, metavar=("LOW", "HIGH"), help=text)
    text = "take these percentiles of each band for it [1 99]"
    add("--percentile", type=float, nargs=2, metavar=("LOW", "HIGH"), help=text)
    text = "read only so many images, evenly spread"
    add("--max-images", type=int, metavar="N", help=text)
    text = "processes that read images [one per processor, at most 8]"
    add("--workers", type=int, metavar="N", help=text)
    return parser.parse_args()


@run_tool
def main() -> None:
    """Run the command."""
    args = vars(parse_args())
    args["bands"] = bands_named(args["bands"])
    with at_once():
        from mmssl_ext.api.stats import stats
    found = stats(**args)
    print(f"{found.images:,} images, values of {found.kind} (mean and std: 0 to 255)")
    print(found.table())
    print(f"\nFor a config:\n{found.config()}")
    if found.unreadable:
        print(f"\n{len(found.unreadable):,} images could not be read:")
        for path, reason in found.unreadable:
            print(f"  {shown(path)}: {reason}")


if __name__ == "__main__":
    sys.exit(main())
