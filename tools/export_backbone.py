#!/usr/bin/env python
"""Write the backbone of a checkpoint for mm, torchvision, timm and detectron2."""

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

LAYOUTS = ("mm", "torchvision", "timm", "detectron2", "safetensors")  # as in export.py


def parse_args() -> argparse.Namespace:
    """Options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", help="checkpoint or safetensors file")
    parser.add_argument(
        "--out",
        metavar="START",
        help="path and beginning of the names to write [the checkpoint's, no suffix]",
    )
    parser.add_argument(
        "--layouts",
        nargs="+",
        choices=LAYOUTS,
        default=LAYOUTS,
        help="[all of them]",
    )
    parser.add_argument(
        "--encoder",
        choices=["query", "key"],
        default="query",
        help="trained encoder or its momentum average [query]",
    )
    parser.add_argument(
        "--prefix", help="what stands before its names [found by itself]"
    )
    parser.add_argument(
        "--trust",
        action="store_true",
        help="let code stored in the checkpoint run; only where its origin is certain",
    )
    return parser.parse_args()


@run_tool
def main() -> None:
    """Run the command."""
    args = vars(parse_args())
    with at_once():
        from mmssl_ext.engine.weights.download import local_path
        from mmssl_ext.engine.weights.files import read_weights
        from mmssl_ext.engine.weights.origin import origin_lines
        from mmssl_ext.transfer.export import export_backbone
    out = args.pop("out") or local_path(args["checkpoint"]).with_suffix("")
    written = export_backbone(out=out, **args)
    for layout, path in written.items():
        print(f"{layout:<12} {shown(path)}  (written, read back, equal)")
    # From what was written, which holds tensors and plain data alone.
    found = (read_weights(path).origin for path in written.values())
    for line in origin_lines(next(filter(None, found), None)):
        print(shown(line))


if __name__ == "__main__":
    sys.exit(main())
