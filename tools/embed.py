#!/usr/bin/env python
"""Write the features of the images of a folder, by the backbone of a checkpoint."""

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
    add("checkpoint", help="checkpoint or safetensors file")
    add("data", help="folder of images, folder of shards, or text list of images")
    add("--out", required=True, help="file to write: .npz, .csv or .parquet")
    text = "images in a step [128 on a GPU, 32 on a CPU]"
    add("--batch-size", type=int, metavar="N", help=text)
    text = (
        "processes that read images [1 per processor, per 2 without a GPU; at most 8]"
    )
    add("--workers", type=int, metavar="N", help=text)
    add("--size", type=int, metavar="N", help="pixels of a side [224]")
    text = "trained encoder or its momentum average [query]"
    add("--encoder", choices=["query", "key"], default="query", help=text)
    add("--device", help="such as cuda:1 or cpu [a GPU where there is one]")
    return parser.parse_args()


@run_tool
def main() -> None:
    """Run the command."""
    args = vars(parse_args())
    with at_once():
        from mmssl_ext.api.embed import embed
    found = embed(**args)
    labels = f", labels of {len(found.classes)} classes" if found.classes else ""
    n, channels = found.features.shape
    print(f"{n:,} images, {channels:,} features each{labels}: {shown(args['out'])}")
    if found.unreadable:
        print(f"{len(found.unreadable):,} images could not be read; they are above.")


if __name__ == "__main__":
    sys.exit(main())
