#!/usr/bin/env python
"""Pretrain on a folder of images; batch, length and rate follow from it."""

import argparse
import sys
from importlib.util import find_spec
from pathlib import Path

if find_spec("mmssl_ext") is None:  # a clone that is not installed
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from mmssl_ext.interrupt import at_once

with at_once(75):
    from mmengine.config import DictAction

    from mmssl_ext.api.data import bands_named, dataset_of
    from mmssl_ext.api.methods import METHODS, method_named
    from mmssl_ext.backbones import backbone_named
    from mmssl_ext.run.tool import TRACKERS, add_trackers, run_tool


def parse_args() -> argparse.Namespace:
    """Options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("data", help="folder of images, list of paths (.txt), or folder of shards")
    add("--out", required=True, help="folder of the run")
    add("--method", help=f"{', '.join(sorted(METHODS))} [co2; with a teacher simreg]")
    add("--backbone", help="resnet50, convnext-tiny, timm:NAME, ... [by the device]")
    add("--init", metavar="FILE", help="weights or run to begin with, torchvision:NAME")
    add(
        "--teacher",
        nargs="+",
        metavar="FILE",
        help="what teaches: weights or run, torchvision:NAME, timm:NAME; or several",
    )
    text = "number of bands, or which, from 0: 5, or 3,2,1 [8-bit RGB]"
    add("--bands", metavar="N", help=text)
    text = "values that become 0 and 255, with --bands [measured]"
    add("--value-range", type=float, nargs=2, metavar=("LOW", "HIGH"), help=text)
    add("--epochs", type=int, help="length in passes over the images")
    add("--steps", type=int, help="length in batches")
    add("--batch-size", type=int)
    add("--image-size", type=int, help="side of a view in pixels")
    add("--lr", type=float, help="learning rate for this batch")
    add("--queue-len", type=int, help="keys of the queue, where there is one")
    add("--num-workers", type=int, help="processes that read images")
    add("--seed", type=int, default=0)
    add("--resume", action="store_true", help="go on with the run in the folder")
    add(
        "--overwrite",
        action="store_true",
        help="move a run that the folder holds to its folder old, and start afresh",
    )
    add_trackers(parser)
    add(
        "--cfg-options",
        dest="options",
        nargs="+",
        action=DictAction,
        metavar="KEY=VALUE",
        help="further changes of the config",
    )
    return parser.parse_args()


@run_tool
def main() -> None:
    """Run the command."""
    with at_once(75):
        args = vars(parse_args())
        if args["method"] is not None:  # slips of the pen, before torch is imported
            method_named(args["method"])
        if args["backbone"] is not None:
            backbone_named(args["backbone"])
        args["bands"] = bands_named(args["bands"])
        dataset_of(args["data"])
        args["trackers"] = [name for name in TRACKERS if args.pop(name)]
        from mmssl_ext.api.pretrain import pretrain
    pretrain(**args)


if __name__ == "__main__":
    sys.exit(main())
