#!/usr/bin/env python
"""Draw what a checkpoint has learned, from a folder of images."""

import argparse
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

if find_spec("mmssl_ext") is None:  # a clone that is not installed
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from mmssl_ext.interrupt import at_once

with at_once():
    from mmengine.config import DictAction

    from mmssl_ext.run.launch import load_config, run_tool
    from mmssl_ext.text import shown
    from mmssl_ext.visualization.pictures import KINDS, METHOD
    from mmssl_ext.visualization.pictures.learned import write_pictures


OPTIONS: dict[str, dict[str, Any]] = {
    "--images": {
        "required": True,
        "metavar": "FOLDER",
        "help": "any folder of images",
    },
    "--out": {
        "required": True,
        "metavar": "FILE.png|FOLDER",
        "help": "picture to write; for several kinds a folder",
    },
    "--kind": {
        "nargs": "+",
        "default": [METHOD],
        "choices": [METHOD, *KINDS, "all"],
        "dest": "kinds",
        "metavar": "KIND",
        "help": f"{METHOD}: what DenseCL, RegionCL or DetCo does to its views "
        f"[default]; {', '.join(KINDS)}; or all",
    },
    "--num": {
        "type": int,
        "help": f"images shown [4 for {METHOD}, else 6, spread evenly]",
    },
    "--max-images": {
        "type": int,
        "default": 1000,
        "dest": "most",
        "metavar": "N",
        "help": "images searched for neighbours and embedded, at most [1000]",
    },
    "--size": {
        "type": int,
        "metavar": "PX",
        "help": "short side of the images that become maps [2 or 3 times the crop's]",
    },
    "--patch": {
        "type": float,
        "nargs": 2,
        "default": (0.5, 0.5),
        "metavar": ("X", "Y"),
        "help": "similarity: place of the cell in the image, 0 to 1 [0.5 0.5]",
    },
    "--method": {
        "choices": ["tsne", "umap"],
        "default": "tsne",
        "help": "embedding [tsne]",
    },
    "--bank": {
        "action": "store_true",
        "help": "embedding: of InterCLR's bank; --images is the training folder then",
    },
    "--compare": {
        "choices": ["random"],
        "help": "pca, filters: show the untrained network too",
    },
    "--seed": {"type": int, "default": 0, "help": "of all that is random [0]"},
    "--strict-config": {
        "action": "store_true",
        "help": "take the config for data: refuse what could run code",
    },
    "--cfg-options": {
        "nargs": "+",
        "action": DictAction,
        "metavar": "KEY=VALUE",
        "help": "override settings",
    },
}


def parse_args() -> argparse.Namespace:
    """Options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config", help="config file of the pretraining")
    parser.add_argument("checkpoint", help="checkpoint file")
    for name, option in OPTIONS.items():
        parser.add_argument(name, **option)
    return parser.parse_args()


@run_tool
def main() -> None:
    """Run the command."""
    args = vars(parse_args())
    cfg = load_config(
        *(args.pop(x) for x in ("config", "cfg_options", "strict_config"))
    )
    for file in write_pictures(cfg, **args):
        print(f"Picture: {shown(file)}")


if __name__ == "__main__":
    sys.exit(main())
