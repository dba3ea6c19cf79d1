"""Command line of the demo data."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from mmssl_ext.interrupt import explained

from . import make_demo


@explained
def main(argv: Sequence[str] | None = None) -> int:
    """Draw the scenes; return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m mmssl_ext.datasets.demo" if __name__ == "__main__" else None,
        description="Draw scenes of textured objects in ImageNet, VOC, COCO and "
        "Cityscapes layout, deterministic from a seed.",
    )
    parser.add_argument("--out", required=True, help="output folder")
    parser.add_argument("--train", type=int, default=3000, help="training scenes")
    parser.add_argument("--test", type=int, default=600, help="test scenes")
    parser.add_argument("--size", type=int, default=96, help="image side in pixels")
    parser.add_argument("--seed", type=int, default=0, help="seed of all scenes")
    args = vars(parser.parse_args(argv))
    try:
        folder = make_demo(**args)
    except (FileExistsError, ValueError) as error:
        print(error, file=sys.stderr)
        return 2
    print(f"The demo scenes are in '{folder}'.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
