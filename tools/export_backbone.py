#!/usr/bin/env python
"""Write the backbone of a checkpoint for other libraries, or as a graph."""

import argparse
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

if find_spec("mmssl_ext") is None:  # a clone that is not installed
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from mmssl_ext.interrupt import at_once

with at_once():
    from mmssl_ext.errors import UserError
    from mmssl_ext.run.tool import run_tool
    from mmssl_ext.text import shown

LAYOUTS = ("mm", "torchvision", "timm", "detectron2", "safetensors")  # as in export.py
GRAPHS = ("onnx", "torchscript")  # as in graphs.py


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
        "--to",
        "--layouts",
        nargs="+",
        choices=(*LAYOUTS, *GRAPHS),
        default=LAYOUTS,
        help=f"layouts of the weights, or graphs that compute [{' '.join(LAYOUTS)}]",
    )
    parser.add_argument(
        "--size",
        type=int,
        default=224,
        help="of a graph: side of the images that it is traced with, pixels [224]",
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
        "--neck",
        dest="part",
        action="store_const",
        const="neck",
        default="backbone",
        help="write the FPN that was pretrained with it, by --to mm safetensors",
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
    size, to = args.pop("size"), args.pop("to")
    graphs = [kind for kind in to if kind in GRAPHS]
    layouts = [kind for kind in to if kind in LAYOUTS]
    if graphs and (args["trust"] or args["prefix"] is not None):
        raise UserError(
            f"--prefix and --trust do not serve --to {' '.join(graphs)}: export by "
            "--to mm with them first, and then the file that this writes."
        )
    if graphs and args["part"] == "neck":
        raise UserError(
            "--neck writes weights; leave onnx and torchscript out of --to."
        )
    with at_once():
        from mmssl_ext.engine.weights.download import local_path
    out = args.pop("out") or local_path(args["checkpoint"]).with_suffix("")
    if layouts:
        _export_weights(out, layouts, args)
    if graphs:
        with at_once():
            from mmssl_ext.api.graphs import export_graphs
        found = export_graphs(args["checkpoint"], out, graphs, args["encoder"], size)
        for kind, graph in found.items():
            print(f"{kind:<12} {shown(graph.path)}  ({graph.line()})")


def _export_weights(out: str | Path, layouts: list[str], args: dict[str, Any]) -> None:
    with at_once():
        from mmssl_ext.engine.weights.files import read_weights
        from mmssl_ext.engine.weights.origin import origin_lines
        from mmssl_ext.transfer.export import export_backbone
    written = export_backbone(out=out, layouts=layouts, **args)
    for layout, path in written.items():
        print(f"{layout:<12} {shown(path)}  (written, read back, equal)")
    # From what was written, which holds tensors and plain data alone.
    found = (read_weights(path).origin for path in written.values())
    for line in origin_lines(next(filter(None, found), None)):
        print(shown(line))


if __name__ == "__main__":
    sys.exit(main())
