"""The command ``mmssl-ext``: the tools of the package, from any folder.

    mmssl-ext COMMAND [options]

A tool runs in this process, with its own options and exit codes; ``mmssl-ext COMMAND
--help`` explains it. ``python -m mmssl_ext`` is the same.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

from mmssl_ext import __version__
from mmssl_ext.interrupt import at_once
from mmssl_ext.packaged import root

#: Command: (file in the folder ``tools`` or module with a function ``main``, help).
COMMANDS = {
    "pretrain": ("pretrain.py", "pretrain on a folder of images, in one line"),
    "train": ("train.py", "train a config: a pretraining, or a transfer"),
    "test": ("test.py", "kNN accuracy of a checkpoint, and its features"),
    "chain": ("chain.py", "pretrain, run every transfer, compare"),
    "embed": ("embed.py", "write the features of a folder of images"),
    "stats": ("stats.py", "measure the bands of a folder of images"),
    "duplicates": ("duplicates.py", "list images that are nearly identical"),
    "export": ("export_backbone.py", "write the backbone for other libraries"),
    "browse": ("browse_dataset.py", "draw the views that the network receives"),
    "visualize": ("visualize.py", "draw what a checkpoint has learned"),
    "make-shards": ("make_shards.py", "pack a folder of images into tar files"),
    "make-proposals": ("make_proposals.py", "find boxes that may hold an object"),
    "report": ("mmssl_ext.visualization.report", "write a run's report.html anew"),
    "check-env": ("mmssl_ext.run.check_env", "what is installed, what is wrong"),
    "demo-data": ("mmssl_ext.datasets.demo.__main__", "draw the demo scenes"),
}


def main() -> int:
    """Run the command that ``sys.argv`` names; return the exit code."""
    name, *arguments = sys.argv[1:] or [""]
    if name in ("", "-h", "--help"):
        print(usage())
        return 0 if name else 2
    if name == "--version":
        print(f"mmssl_ext {__version__}")
        return 0
    if name not in COMMANDS and name != "--path":
        near = difflib.get_close_matches(name, COMMANDS, 1)
        meant = f"Did you mean '{near[0]}'? " if near else ""
        return _refuse(f"no command '{name}'. {meant}mmssl-ext --help lists all.")
    try:
        folder = root()
    except FileNotFoundError as error:
        return _refuse(str(error))
    if name == "--path":
        print(folder)
        return 0
    target = COMMANDS[name][0]
    sys.argv = [f"mmssl-ext {name}", *arguments]  # also what argparse calls the tool
    if target.endswith(".py"):
        return _load(folder / "tools" / target).main()
    with at_once():
        module = importlib.import_module(target)
    return module.main()


def usage() -> str:
    """What ``mmssl-ext --help`` prints."""
    lines = [f"  {name:<14} {text}" for name, (_, text) in COMMANDS.items()]
    return "\n".join(
        [
            "usage: mmssl-ext COMMAND [options]",
            "",
            "Self-supervised pretraining for the OpenMMLab toolboxes.",
            "",
            *lines,
            "",
            "  --path       print the folder of configs and tools, and leave",
            "  --version    print the version, and leave",
            "",
            "mmssl-ext COMMAND --help explains a command. A config that is no file is",
            "taken from the package: mmssl-ext train co2/co2_r18_demo.py",
        ]
    )


def _load(path: Path) -> ModuleType:
    """Import a tool, which is a script that stands in no package."""
    name = f"mmssl_ext_tools_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _refuse(text: str) -> int:
    print(f"mmssl-ext: {text}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
