#!/usr/bin/env python
"""Put the images of a folder into a few large tar files, for the dataset ImageShards.

make_shards.py FOLDER OUT           convert; labels of class folders are kept
make_shards.py --verify DIR         decode every image of finished shards
"""

import argparse
import os
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
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("folder", help="folder of images, or of shards without OUT")
    add("out", nargs="?", help="folder to write shards and index into")
    text = "only the images of this list, lines `path` or `path label` [all]"
    add("--list", metavar="FILE", help=text)
    add("--shard-size", default="1G", metavar="SIZE", help="about, of a shard [1G]")
    text = "decode every image in the end, and list what cannot be read"
    add("--verify", action="store_true", help=text)
    count, text = len(os.sched_getaffinity(0)), "processes of --verify [one per CPU]"
    add("--workers", type=int, default=count, metavar="N", help=text)
    args = parser.parse_args()
    if args.out is None and not args.verify:
        parser.error("OUT is missing: the folder to write into")
    if args.list is not None and args.out is None:
        parser.error("--list belongs to a conversion, FOLDER OUT")
    return args


@run_tool
def main() -> None:
    """Run the command."""
    args = parse_args()
    with at_once():
        from mmssl_ext.datasets.shard_writer import (
            make_shards,
            read_size,
            verify_shards,
        )
        from mmssl_ext.datasets.shards import ShardIndex
    out = args.out or args.folder
    if args.out is not None:
        index = make_shards(args.folder, out, args.list, read_size(args.shard_size))
    else:
        index = ShardIndex.load(out)
    print(f"{index}: {shown(out)}")
    if args.verify:
        verify_shards(out, args.workers)
        print("Every image can be decoded.")


if __name__ == "__main__":
    sys.exit(main())
