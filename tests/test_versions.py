"""The dependency lists agree: of setup.cfg, pinned, the oldest and the newest."""

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
# It takes the place of the OpenCV that every environment here has.
APART = "proposals"


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
            *(x for n, x in SETUP["options.extras_require"].items() if n != APART),
        ]
    )
)


EXTRAS = {
    name: requirements(text) for name, text in SETUP["options.extras_require"].items()
}
INSTALL = requirements(SETUP["options"]["install_requires"])


def test_requirements_files_repeat_setup_cfg() -> None:
    assert of_file("runtime") == INSTALL
    assert of_file("test") == EXTRAS["test"]
    assert of_file("optional") == EXTRAS["all"]
    assert of_file(APART) == EXTRAS[APART]
    features = [EXTRAS[name] for name in EXTRAS.keys() - {"all", "test", APART}]
    assert EXTRAS["all"] == {k: v for found in features for k, v in found.items()}


def test_pinned_set_satisfies_every_bound_used_by_make() -> None:
    pinned = of_file("pinned")
    for name, requirement in pinned.items():
        (pin,) = requirement.specifier
        assert pin.operator == "==", name
    # The other OpenCV needs a display.
    assert "opencv-python-headless" in pinned and "opencv-python" not in pinned
    needed = INSTALL | EXTRAS["tensorboard"] | EXTRAS["evaluation"] | EXTRAS["test"]
    for name, requirement in needed.items():
        (pin,) = pinned[name].specifier
        assert requirement.specifier.contains(pin.version), name


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
