#!/usr/bin/env python
"""Put the images of a folder into a few large tar files, for the dataset ImageShards.

make_shards.py FOLDER OUT           convert; labels of class folders are kept
make_shards.py --index-only DIR     use the tar files that are there
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
    parser.add_argument("folder", help="folder of images, or of shards without OUT")
    parser.add_argument("out", nargs="?", help="folder to write shards and index into")
    parser.add_argument(
        "--list",
        metavar="FILE",
        help="only the images of this list, lines `path` or `path label` [all]",
    )
    parser.add_argument(
        "--shard-size", default="1G", metavar="SIZE", help="about, of a shard [1G]"
    )
    parser.add_argument(
        "--verify",
        action="store_true",
        help="decode every image in the end, and list what cannot be read",
    )
    parser.add_argument(
        "--workers",
        type=int,
        default=len(os.sched_getaffinity(0)),
        metavar="N",
        help="processes of --verify [one per CPU]",
    )
    parser.add_argument(
        "--index-only",
        action="store_true",
        help="write the index of existing tar files, which stay as they are",
    )
    parser.add_argument(
        "--tar-is-folder",
        action="store_true",
        help="with --index-only: the images of n01440764.tar belong to the class "
        "n01440764, as in ImageNet's own archives",
    )
    args = parser.parse_args()
    if args.out is None and not (args.index_only or args.verify):
        parser.error("OUT is missing: the folder to write into")
    if args.out is not None and args.index_only:
        parser.error("--index-only takes one folder, that of the tar files")
    if args.list is not None and args.out is None:
        parser.error("--list belongs to a conversion, FOLDER OUT")
    if args.tar_is_folder and not args.index_only:
        parser.error("--tar-is-folder belongs to --index-only")
    return args


@run_tool
def main() -> None:
    """Run the command."""
    args = parse_args()
    with at_once():
        from mmssl_ext.datasets.shard_index import index_shards
        from mmssl_ext.datasets.shard_writer import (
            make_shards,
            read_size,
            verify_shards,
        )
        from mmssl_ext.datasets.shards import ShardIndex
    out = args.out or args.folder
    if args.index_only:
        index = index_shards(out, args.tar_is_folder)
    elif args.out is not None:
        size = read_size(args.shard_size)
        index = make_shards(args.folder, out, args.list, size)
    else:
        index = ShardIndex.load(out)
    print(f"{index}: {shown(out)}")
    if args.verify:
        verify_shards(out, args.workers)
        print("Every image can be decoded.")


if __name__ == "__main__":
    sys.exit(main())
