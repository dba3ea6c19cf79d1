"""With what `pip install mmssl_ext` brings and no extra, the package works."""

from __future__ import annotations

import re
import subprocess
import sys
from configparser import ConfigParser
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, packages_distributions, requires
from pathlib import Path

import pytest
from mmengine.config import Config
from packaging.requirements import Requirement

from mmssl_ext.engine.config import read
from mmssl_ext.errors import ConfigError

REPO = Path(__file__).parents[1]
# Modules for a toolbox that is an extra, which nothing else imports at the start.
FOR_EXTRAS = r"mmssl_ext\.transfer\.(detection|segmentation|coco)(\.|$)"

PROGRAM = '''\
import importlib, pkgutil, sys
lacking, images, out = set(sys.argv[1].split(",")), sys.argv[2], sys.argv[3]

class Without:
    """A finder to which some packages are not installed."""
    def __init__(self, finder):
        self.finder = finder

    def __getattr__(self, name):
        return getattr(self.finder, name)

    def find_spec(self, name, *args):
        absent = name.split(".")[0] in lacking
        return None if absent else self.finder.find_spec(name, *args)

sys.meta_path[:] = map(Without, sys.meta_path)
import mmssl_ext
failed = []
for module in pkgutil.walk_packages(mmssl_ext.__path__, "mmssl_ext.", failed.append):
    if module.name.endswith("__main__"):
        continue
    try:
        importlib.import_module(module.name)
    except ImportError as error:
        failed.append(f"{module.name}: {error}")
print("failed:", *sorted({*failed}), sep="\\n")
checkpoint = mmssl_ext.pretrain(images, out, epochs=1, image_size=32)
print("backbone:", mmssl_ext.load_backbone(checkpoint).out_channels)
'''


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def core() -> set[str]:
    """Distributions that an installation without extras brings, and theirs."""
    setup = ConfigParser()
    setup.read(REPO / "setup.cfg")
    waiting = [Requirement(x) for x in setup["options"]["install_requires"].split()]
    found: set[tuple[str, str]] = {("mmssl-ext", "")}
    while waiting:
        needed = waiting.pop()
        for extra in ("", *needed.extras):
            if (normal(needed.name), extra) in found:
                continue
            found.add((normal(needed.name), extra))
            with suppress(PackageNotFoundError):
                further = map(Requirement, requires(needed.name) or ())
                waiting += [
                    r
                    for r in further
                    if not r.marker or r.marker.evaluate({"extra": extra})
                ]
    names = {name for name, _ in found}
    return names | {"opencv-python-headless"}  # what tests have for opencv-python


def lacking() -> list[str]:
    """Modules that are installed and that the core does not bring."""
    known = core()
    return [
        module
        for module, owners in packages_distributions().items()
        if not {normal(owner) for owner in owners} & known
    ]


def test_all_works_without_the_extras(images: Path, tmp_path: Path) -> None:
    missing = lacking()
    assert "pytest" in missing
    assert not {"torch", "mmpretrain", "cv2", "mmssl_ext"} & {*missing}
    words = [",".join(missing), str(images), str(tmp_path / "run")]
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", PROGRAM, *words],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    _, _, rest = done.stdout.partition("failed:\n")
    failed = re.findall(r"^(mmssl_ext[\w.]*)", rest, re.M)
    assert [name for name in failed if not re.match(FOR_EXTRAS, name)] == []
    assert "backbone: 512" in rest


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("import nothing_of_this_name", "own_part imports nothing_of_this_name, which"),
        ("from os import nothing", "own_part cannot be imported: cannot import name"),
        ("import os.nothing", r"own_part imports os\.nothing, which is not installed"),
        ("import of_an_extra", r"of_an_extra is not installed: .*mmssl_ext\[timm\]"),
        (None, r"no module own_part\. Start from the folder"),
    ],
)
def test_a_module_that_a_config_needs_and_lacks_is_named(
    text: str | None, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setitem(read._EXTRAS, "of_an_extra", "timm")
    if text:
        (tmp_path / "own_part.py").write_text(text)
    cfg = Config({"custom_imports": {"imports": ["own_part"]}})
    with pytest.raises(ConfigError, match=said):
        read.import_modules(cfg)
    cfg.custom_imports.imports = "own_part", "other"
    with pytest.raises(ConfigError, match=r"must be a list .* Give a list"):
        read.import_modules(cfg)
