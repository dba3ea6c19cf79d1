#!/usr/bin/env python
"""Train a self-supervised model from a config."""

import argparse
import os
import sys
from importlib.util import find_spec
from pathlib import Path

if find_spec("mmssl_ext") is None:  # a clone that is not installed
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from mmssl_ext.interrupt import at_once

with at_once(75):
    from mmssl_ext.run.tool import add_config, add_trackers, run_tool, take_config


def parse_args() -> argparse.Namespace:
    """Options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    add_config(parser, "config file")
    parser.add_argument(
        "--work-dir", help="folder of checkpoints and logs [work_dirs/<config name>]"
    )
    parser.add_argument(
        "--init-from",
        metavar="FILE",
        help="weights that the backbone starts from, or torchvision:NAME",
    )
    parser.add_argument(
        "--resume",
        nargs="?",
        const=True,
        default=False,
        metavar="CKPT",
        help="continue from CKPT, or from the newest checkpoint of the work dir",
    )
    parser.add_argument(
        "--allow-other-data",
        action="store_true",
        help="resume although the training data are not those of the checkpoint",
    )
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="move a run that the work dir holds to its folder old, and start afresh",
    )
    parser.add_argument("--amp", action="store_true", help="mixed precision on a GPU")
    parser.add_argument(
        "--auto-scale-lr",
        action="store_true",
        help="scale the learning rate by the true batch over the config's base batch",
    )
    add_trackers(parser)
    parser.add_argument(
        "--launcher", choices=["none", "pytorch", "slurm", "mpi"], default="none"
    )
    parser.add_argument("--local-rank", "--local_rank", type=int, default=0)
    return parser.parse_args()


@run_tool
def main() -> None:
    """Run the command."""
    with at_once(75):
        args = vars(parse_args())
        os.environ.setdefault("LOCAL_RANK", str(args.pop("local_rank")))
        cfg = take_config(args)
        from mmssl_ext.run.launch import train
    train(cfg, **args)


if __name__ == "__main__":
    sys.exit(main())
