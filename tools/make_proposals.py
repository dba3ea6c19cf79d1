#!/usr/bin/env python
"""Find boxes that may hold an object, without labels, and write them as COCO's JSON.

make_proposals.py IMAGES OUT.json      the same command goes on where it was stopped
"""

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

METHODS = ("superpixels", "selective-search")


def parse_args() -> argparse.Namespace:
    """Options of the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("data", help="folder of images, folder of shards, or text list of images")
    add("out", metavar="OUT.json", help="file to write")
    text = "selective-search needs opencv-contrib-python-headless [superpixels]"
    add("--method", choices=METHODS, default=METHODS[0], help=text)
    add("--max-boxes", type=int, default=50, metavar="N", help="of an image [50]")
    text = "root of the area that a box must exceed, in pixels [20]"
    add("--min-side", type=float, default=20.0, metavar="N", help=text)
    text = "longer side over shorter side, at most [3]"
    add("--max-aspect", type=float, default=3.0, metavar="R", help=text)
    text = "of two boxes that overlap by more, one is dropped at random [0.5]"
    add("--iou", type=float, default=0.5, help=text)
    text = "look at a copy of so many pixels, where the image is larger [the image]"
    add("--long-side", type=int, metavar="N", help=text)
    add("--seed", type=int, default=0, help="of the scores, which are random [0]")
    text = "processes [one for each processor]"
    add("--workers", type=int, metavar="N", help=text)
    return parser.parse_args()


@run_tool
def main() -> None:
    """Run the command."""
    args = vars(parse_args())
    with at_once():
        from mmssl_ext.api.proposals import make_proposals
    found = make_proposals(**args)
    print(f"{found.boxes:,} boxes in {found.images:,} images: {shown(found.path)}")
    if found.empty:
        print(f"{found.empty:,} images have none; they are listed without a box.")
    if found.unreadable:
        print(f"{len(found.unreadable):,} images could not be read:")
        for name, reason in found.unreadable:
            print(f"  {shown(name)}: {reason}")


if __name__ == "__main__":
    sys.exit(main())
