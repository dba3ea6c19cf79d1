"""The oldest and the newest versions that `make test-oldest` and `test-newest` try."""

from __future__ import annotations

import configparser
import sys
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

REPO = Path(__file__).resolve().parents[1]
SETUP = configparser.ConfigParser()
SETUP.read(REPO / "setup.cfg", encoding="utf-8")

# Stand-ins and omissions of requirements/pinned.txt, which says why.
REPLACED = {"opencv-python": "opencv-python-headless"}
LEFT_OUT = {"imaug"}


def requirements(text: str) -> dict[str, Requirement]:
    """Requirements by name; a package that is named twice is named alike."""
    found: dict[str, Requirement] = {}
    for line in text.splitlines():
        if line.strip() and not line.lstrip().startswith("#"):
            requirement = Requirement(line)
            name = canonicalize_name(requirement.name)
            assert found.setdefault(name, requirement) == requirement, line
    return found


def of_file(name: str) -> dict[str, Requirement]:
    return requirements((REPO / "requirements" / f"{name}.txt").read_text("utf-8"))


DECLARED = requirements(
    "\n".join(
        [
            SETUP["options"]["install_requires"],
            *SETUP["options.extras_require"].values(),
        ]
    )
)


@pytest.mark.parametrize("name", DECLARED)
def test_oldest_is_the_lower_bound_of_setup_cfg(name: str) -> None:
    (bound,) = DECLARED[name].specifier
    (pin,) = of_file("oldest")[name].specifier
    assert (bound.operator, pin.operator) == (">=", "==")
    # `==1.26.0` contains 1.26, and no other release.
    assert pin.contains(bound.version), f"{name}: {pin} is not the lowest of {bound}"


def test_oldest_is_exact() -> None:
    for name, requirement in of_file("oldest").items():
        (pin,) = requirement.specifier
        assert pin.operator == "==" and not pin.version.endswith("*"), name


def test_newest_has_no_upper_bound() -> None:
    newest = of_file("newest")
    assert newest.keys() >= DECLARED.keys()
    operators = {s.operator for r in newest.values() for s in r.specifier}
    assert operators == {">="}
    # Without a bound, pip could answer a conflict with a torch of years ago.
    for name in ("torch", "torchvision"):
        pinned = next(iter(of_file("pinned")[name].specifier)).version
        assert not newest[name].specifier.contains(pinned), name


@pytest.mark.parametrize("file", ["oldest", "newest"])
def test_names_what_packages_installed_without_dependencies_need(file: str) -> None:
    named = of_file(file)
    for package in (name for name in named if name.startswith("onedl-")):
        try:
            needed = [Requirement(line) for line in metadata.requires(package) or []]
        except metadata.PackageNotFoundError:
            pytest.skip(f"{package} is not installed")
        for requirement in needed:
            if requirement.marker and not requirement.marker.evaluate({"extra": ""}):
                continue
            name = canonicalize_name(requirement.name)
            name = REPLACED.get(name, name)
            assert name in named or name in LEFT_OUT, f"{package} needs {requirement}"


def test_environment_holds_what_its_file_says() -> None:
    file = Path(sys.prefix).name
    if file not in ("oldest", "newest"):
        pytest.skip("neither `make test-oldest` nor `make test-newest`")
    for name, requirement in of_file(file).items():
        version = metadata.version(name)
        assert requirement.specifier.contains(version), f"{name} {version}"
