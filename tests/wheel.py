"""The wheel in an empty environment outside of the repository: ``make test-wheel``.

    python -m tests.wheel

Builds the sdist and from it the wheel, installs it with its dependencies (3 GB) in the
versions of requirements/pinned.txt, pretrains the demo config for an epoch, evaluates
it, exports the backbone, and does what README's three lines of Python do. Everything is
in a temporary folder, which goes in the end.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.test_packaging import REPO, SDIST, project_files

PIP = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input", "-q")
CONFIG = "co2/co2_r18_demo.py"
SHORT = ("--cfg-options", "max_epochs=1", "batch_size=16", "queue_len=128")
CHECKPOINT = "work_dirs/co2_r18_demo/epoch_1.pth"
THREE_LINES = """\
import mmssl_ext, torch
photos = "demo/imagenet/train"
checkpoint = mmssl_ext.pretrain(photos, "runs/photos", epochs=1, image_size=32)
backbone = mmssl_ext.load_backbone(checkpoint)
(maps,) = backbone(torch.zeros(2, 3, 64, 64))
assert maps.shape == (2, 512, 2, 2), maps.shape
"""


def run(*command: str | Path, folder: Path, **env: str) -> None:
    """Run a command that must succeed, and say how long it took."""
    start = time.monotonic()
    kept = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    words = [str(word) for word in command]
    done = subprocess.run(words, cwd=folder, env={**kept, **env}, check=False)
    name = " ".join(Path(word).name for word in words if not word.startswith("-"))
    if done.returncode != 0:
        sys.exit(f"FAILED with exit code {done.returncode}: {name}")
    print(f"== {time.monotonic() - start:.0f} s: {name[:80]}", flush=True)


def main() -> None:
    """Run the check."""
    with tempfile.TemporaryDirectory(prefix="mmssl-wheel-") as name:
        root = Path(name)
        home, bin_ = root / "home", root / "venv" / "bin"
        home.mkdir()
        for path in filter(Path.is_file, project_files()):
            target = root / "source" / path.relative_to(REPO)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, target)
        run(sys.executable, "-W", "ignore", "-c", SDIST, root, folder=root / "source")
        (sdist,) = root.glob("*.tar.gz")
        build = ("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", root)
        run(*PIP, *build, sdist, folder=root)
        (wheel,) = root.glob("*.whl")
        run(sys.executable, "-m", "venv", "--without-pip", root / "venv", folder=root)
        pins = ("--constraint", REPO / "requirements" / "pinned.txt")
        install = ("--python", bin_ / "python", "install", "--no-compile", *pins)
        run(*PIP, *install, wheel, folder=root)

        def tool(*arguments: str | Path) -> None:
            path = f"{bin_}:{os.environ['PATH']}"
            run(
                bin_ / "mmssl-ext", *arguments, folder=home, PATH=path, DEMO_ROOT="demo"
            )

        tool("check-env")
        tool("demo-data", "--out", "demo", "--train", "64", "--test", "32")
        tool("train", CONFIG, *SHORT)
        tool("test", CONFIG, CHECKPOINT, *SHORT)
        tool("export", CHECKPOINT, "--out", "backbone")
        run(bin_ / "python", "-c", THREE_LINES, folder=home)
        size = sum(f.stat().st_size for f in root.rglob("*") if not f.is_symlink())
        print("The wheel trains, evaluates, exports and does three lines of Python.")
        print(f"Disk: {size / 1e9:.1f} GB.")


if __name__ == "__main__":
    main()
