"""A few photographs: what pretraining adds to a detector of blood cells.

    python -m benchmarks.efficientnet_lite lite0.pth
    BCCD_ROOT=DIR python benchmarks/bccd_run.py --teacher lite0.pth
    python benchmarks/tables.py

Four pretrainings, each in its folder of OUT: `co2_demo`, CO2 on drawn scenes;
`distilled`, `bccd_simreg.py` on the 292 training photographs; `co2` and `byol`, which
go on from the distilled weights on the same photographs, as `mmssl-ext pretrain`
chooses for them. Then `bccd.py`, the chain of detectors, from each and from random
weights. A second start goes on where the first one stopped.

`results/bccd_voc_cpu.csv` gets a row per detector.
"""

import argparse
import os
import subprocess
import sys
from pathlib import Path

import collect
import common

from mmssl_ext.engine.checkpoint.run_folder import find_run

NAME = "bccd_voc_cpu"
TOOL = (sys.executable, "-m", "mmssl_ext")
FURTHER = ("co2", "byol")


def photographs(out: Path) -> Path:
    """A folder with links to the training images."""
    voc = Path(os.environ["BCCD_ROOT"], "VOCdevkit/VOC2007").absolute()
    folder = out / "photographs"
    folder.mkdir(parents=True, exist_ok=True)
    for name in (voc / "ImageSets/Main/trainval.txt").read_text().split():
        link = folder / f"{name}.jpg"
        if not link.is_symlink():
            link.symlink_to(voc / f"JPEGImages/{name}.jpg")
    return folder


def commands(out: Path, teacher: Path) -> dict[str, list[str]]:
    """What makes each pretraining, by its name."""
    images = photographs(out)
    found = {"co2_demo": ["train", "co2/co2_r18_demo.py"]}
    given = [f"teacher_checkpoint={teacher.absolute()}", f"photographs={images}"]
    found["distilled"] = ["train", "benchmarks/bccd_simreg.py", "--cfg-options", *given]
    for method in FURTHER:
        start = ["--init", str(out / "distilled.pth"), "--backbone", "resnet18-w32"]
        found[method] = ["pretrain", str(images), "--method", method, *start]
    return found


def pretrain(out: Path, name: str, command: list[str]) -> None:
    """Run one to its end, and name its weights."""
    weights, folder = out / f"{name}.pth", out / name
    if weights.exists():
        return
    where = "--work-dir" if command[0] == "train" else "--out"
    words = [*TOOL, *command[:2], where, str(folder), "--overwrite", *command[2:]]
    subprocess.run(words, check=True, cwd=common.REPOSITORY)
    run = find_run(folder)
    assert run is not None
    weights.symlink_to(run.newest.absolute())


def main() -> None:
    """Pretrain, train the detectors, write the result."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--teacher", type=Path, required=True, help="of benchmarks.efficientnet_lite")
    add("--out", type=Path, default=Path("work_dirs/bccd"))
    add("--only", nargs="+", help="pretrain these, and no detectors")
    args = parser.parse_args()
    out = args.out.absolute()
    for name, command in commands(out, args.teacher).items():
        if not args.only or name in args.only:
            pretrain(out, name, command)
    if args.only:
        return
    os.environ["BCCD_RUNS"] = str(out)
    chain = [sys.executable, "tools/chain.py", "benchmarks/bccd.py"]
    chain += ["--work-dir", str(out / "chain"), "--jobs", "2"]
    subprocess.run(chain, check=True, cwd=common.REPOSITORY)
    collect.main(str(out / "chain"), name=NAME)


if __name__ == "__main__":
    main()
