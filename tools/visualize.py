#!/usr/bin/env python
"""Draw what a checkpoint has learned, from a folder of images."""

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
    from mmssl_ext.visualization.pictures import LEARNED, METHOD


def parse_args() -> argparse.Namespace:
    """Options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    add_config(parser, "config file of the pretraining")
    parser.add_argument("checkpoint", help="checkpoint file")
    parser.add_argument(
        "--images", required=True, metavar="FOLDER", help="any folder of images"
    )
    parser.add_argument(
        "--out",
        required=True,
        metavar="FILE.png|FOLDER",
        help="picture to write; for several kinds a folder",
    )
    parser.add_argument(
        "--kind",
        nargs="+",
        default=[METHOD],
        choices=[METHOD, *LEARNED, "all"],
        dest="kinds",
        metavar="KIND",
        help=f"{METHOD}: what a method such as DenseCL does to its views [default]; "
        f"{', '.join(LEARNED)}; or all",
    )
    parser.add_argument(
        "--num", type=int, help=f"images shown [4 for {METHOD}, else 6, spread evenly]"
    )
    parser.add_argument(
        "--max-images",
        type=int,
        default=1000,
        dest="most",
        metavar="N",
        help="images searched for neighbours and embedded, at most [1000]",
    )
    parser.add_argument(
        "--size",
        type=int,
        metavar="PX",
        help="short side of the images that become maps [2 or 3 times the crop's]",
    )
    parser.add_argument(
        "--patch",
        type=float,
        nargs=2,
        default=(0.5, 0.5),
        metavar=("X", "Y"),
        help="similarity: place of the cell in the image, 0 to 1 [0.5 0.5]",
    )
    parser.add_argument(
        "--compare",
        choices=["random"],
        help="pca, filters: show the untrained network too",
    )
    parser.add_argument("--seed", type=int, default=0, help="of all that is random [0]")
    return parser.parse_args()


@run_tool
def main() -> None:
    """Run the command."""
    args = vars(parse_args())
    cfg = take_config(args)
    with at_once():
        from mmssl_ext.visualization.pictures.learned import write_pictures
    for file in write_pictures(cfg, **args):
        print(f"Picture: {shown(file)}")


if __name__ == "__main__":
    sys.exit(main())
