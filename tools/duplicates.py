#!/usr/bin/env python
"""List images of a folder that are nearly identical, or that two folders share."""

import argparse
import sys
from importlib.util import find_spec
from pathlib import Path

if find_spec("mmssl_ext") is None:  # a clone that is not installed
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from mmssl_ext.interrupt import at_once

with at_once():
    from mmssl_ext.run.tool import run_tool
    from mmssl_ext.text import shown


def parse_args() -> argparse.Namespace:
    """Options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("folder", help="folder of images, folder of shards, or text list of images")
    text = "such images to compare with those [those with each other]"
    add("other", nargs="?", help=text)
    text = (
        "largest one of a pair: bits of 256 [32]; with --checkpoint 1 - cosine [0.02]"
    )
    add("--distance", type=float, metavar="D", help=text)
    text = "compare the features of its backbone [a perceptual hash]"
    add("--checkpoint", metavar="FILE", help=text)
    text = "trained encoder or its momentum average [query]"
    add("--encoder", choices=["query", "key"], default="query", help=text)
    text = "processes that read images [one per processor, at most 8]"
    add("--workers", type=int, metavar="N", help=text)
    add("--out", metavar="FILE.csv", help="write the pairs, instead of printing them")
    return parser.parse_args()


@run_tool
def main() -> None:
    """Run the command."""
    args = vars(parse_args())
    with at_once():
        from mmssl_ext.api.duplicates import duplicates
    found = duplicates(**args)
    if not args["out"]:
        for path, twin, distance in found.pairs:
            print(f"{distance:.4g}\t{shown(path)}\t{shown(twin)}")
    where = f": {shown(args['out'])}" if args["out"] else ""
    print(f"{len(found.pairs):,} near copies in {len(found.groups):,} groups{where}")
    if found.unreadable:
        print(f"{len(found.unreadable):,} images could not be read; they are above.")


if __name__ == "__main__":
    sys.exit(main())
