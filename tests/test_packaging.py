"""Installation: the dependency lists agree, the wheel is complete, nothing is local."""

from __future__ import annotations

import configparser
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import mmssl_ext

REPO = Path(__file__).resolve().parents[1]
TOOLS = sorted((REPO / "tools").glob("*.py"))
SETUP = configparser.ConfigParser()
SETUP.read(REPO / "setup.cfg", encoding="utf-8")


def lines(text: str) -> list[str]:
    """Return the requirement lines of a setup.cfg value or a requirements file."""
    stripped = (line.split("#")[0].strip() for line in text.splitlines())
    return [line for line in stripped if line]


def requirements_file(name: str) -> list[str]:
    return lines((REPO / "requirements" / name).read_text(encoding="utf-8"))


def extra(name: str) -> list[str]:
    return lines(SETUP["options.extras_require"][name])


INSTALL_REQUIRES = lines(SETUP["options"]["install_requires"])
PINNED = [Requirement(line) for line in requirements_file("pinned.txt")]


@pytest.mark.parametrize(
    ("file", "declared"),
    [
        ("runtime.txt", INSTALL_REQUIRES),
        ("test.txt", extra("test")),
        ("optional.txt", extra("all")),
    ],
)
def test_requirements_files_repeat_setup_cfg(file: str, declared: list[str]) -> None:
    assert sorted(requirements_file(file)) == sorted(declared)


def test_extra_all_is_the_sum_of_the_feature_extras() -> None:
    features = set(SETUP["options.extras_require"]) - {"all", "test"}
    assert sorted(extra("all")) == sorted(line for f in features for line in extra(f))


def test_dependencies_have_lower_bounds_only() -> None:
    for line in [*INSTALL_REQUIRES, *extra("all"), *extra("test")]:
        operators = [s.operator for s in Requirement(line).specifier]
        assert operators == [">="], f"'{line}' should state one lower bound, like a>=1."


def test_pinned_set_satisfies_every_bound_used_by_make() -> None:
    pinned: dict[str, str] = {}
    for requirement in PINNED:
        name = canonicalize_name(requirement.name)
        (specifier,) = requirement.specifier
        assert specifier.operator == "==", f"'{requirement}' is not pinned with ==."
        assert name not in pinned, f"'{name}' is pinned twice."
        pinned[name] = specifier.version
    needed = [*INSTALL_REQUIRES, *extra("tensorboard"), *extra("evaluation")]
    for requirement in map(Requirement, [*needed, *extra("test")]):
        assert requirement.specifier.contains(
            pinned[canonicalize_name(requirement.name)]
        )


def test_pinned_set_has_no_opencv_that_needs_a_display() -> None:
    names = {canonicalize_name(requirement.name) for requirement in PINNED}
    assert "opencv-python-headless" in names
    assert "opencv-python" not in names


def test_version_has_one_source() -> None:
    assert SETUP["metadata"]["version"] == "attr: mmssl_ext.__version__"
    citation = (REPO / "CITATION.cff").read_text(encoding="utf-8")
    assert re.findall(r"^version: (.+)$", citation, re.M) == [mmssl_ext.__version__]


@pytest.fixture(scope="module")
def help_runs() -> Iterable[dict[Path, Future[subprocess.CompletedProcess[str]]]]:
    """Start every tool with --help, two at a time: most of it is importing torch."""
    with ThreadPoolExecutor(max_workers=2) as pool:
        yield {
            tool: pool.submit(
                subprocess.run,
                [sys.executable, str(tool), "--help"],
                capture_output=True,
                text=True,
                stdin=subprocess.DEVNULL,
                cwd=REPO,
                timeout=120,
                check=False,
            )
            for tool in TOOLS
        }


@pytest.mark.parametrize("tool", TOOLS, ids=lambda tool: tool.name)
def test_tool_explains_itself(
    tool: Path, help_runs: dict[Path, Future[subprocess.CompletedProcess[str]]]
) -> None:
    done = help_runs[tool].result()
    assert done.returncode == 0, done.stderr
    assert "usage:" in done.stdout


@pytest.mark.parametrize(
    "script",
    [REPO / ".ci" / "run", *sorted((REPO / "tools").glob("*.sh"))],
    ids=lambda script: script.name,
)
def test_shell_script_parses_and_is_executable(script: Path) -> None:
    assert os.access(script, os.X_OK), f"Run: chmod +x {script.relative_to(REPO)}"
    subprocess.run(["bash", "-n", str(script)], check=True)


# Paths of one machine and addresses of one network have no place in the project. A
# message or a page may name a registry to a reader; what installs must not choose one.
MACHINE_PATH = re.compile(r"(?<![\w.~)}*:<-])/(?:work|root|home|tmp)(?=[/\s\"'`]|$)")
REGISTRY = re.compile(
    r"https?://|^-[if]\s|--(?:extra-)?index-url|--find-?links|--trusted-?host"
)
INSTALLING = ("Makefile", "requirements/", ".ci/", "setup.cfg", "pyproject.toml")


def project_files() -> list[Path]:
    """Return what git would track, or all files where this is no git checkout."""
    git = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    if (REPO / ".git").exists() and shutil.which("git"):
        listed = subprocess.run(git, cwd=REPO, capture_output=True, check=True).stdout
        return [REPO / name for name in listed.decode().split("\0") if name]
    skipped = {".venv", "data", "work_dirs", "build", "dist", "__pycache__"}
    paths = (path.relative_to(REPO) for path in REPO.rglob("*"))
    return [
        REPO / path
        for path in paths
        if not any(p in skipped or p.endswith("_cache") for p in path.parts)
    ]


def test_nothing_names_one_machine_or_network() -> None:
    found = []
    for path in filter(Path.is_file, project_files()):
        name = path.relative_to(REPO).as_posix()
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:  # an image or another binary file
            continue
        for number, line in enumerate(text.splitlines(), start=1):
            if MACHINE_PATH.search(line):
                found.append(f"{name}:{number} holds a path of one machine: {line}")
            if name.startswith(INSTALLING) and REGISTRY.search(line):
                found.append(f"{name}:{number} chooses a registry: {line}")
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("pattern", "line", "found"),
    [
        (MACHINE_PATH, "cd /ro" + "ot/project", True),
        (MACHINE_PATH, "out='/tm" + "p'", True),
        (MACHINE_PATH, "cd ../work/data", False),
        (MACHINE_PATH, "${TMPDIR:-/tmp}/stage", False),
        (REGISTRY, "--extra-index-url x", True),
        (REGISTRY, "torch @ https://host/torch.whl", True),
        (REGISTRY, "pip install --no-index -r pinned.txt", False),
    ],
)
def test_the_search_for_local_names_works(
    pattern: re.Pattern[str], line: str, found: bool
) -> None:
    assert bool(pattern.search(line)) == found


def test_wheel_holds_the_whole_package_and_nothing_else(tmp_path: Path) -> None:
    pytest.importorskip("setuptools", "70.1", reason="older ones need `wheel`")
    source = tmp_path / "source"
    ignore = shutil.ignore_patterns("__pycache__", "*.pyc")
    shutil.copytree(REPO / "mmssl_ext", source / "mmssl_ext", ignore=ignore)
    shutil.copytree(REPO / "tests", source / "tests", ignore=ignore)
    for name in ("setup.cfg", "pyproject.toml", "MANIFEST.in", "LICENSE"):
        shutil.copy(REPO / name, source)
    (source / "README.md").write_text("# mmssl_ext\n", encoding="utf-8")
    build = [sys.executable, "-m", "pip", "wheel", "--no-index", "--no-deps"]
    build += ["--no-build-isolation", "--wheel-dir", str(tmp_path), str(source)]
    done = subprocess.run(build, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr

    wheel = tmp_path / f"mmssl_ext-{mmssl_ext.__version__}-py3-none-any.whl"
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
        metadata = archive.read(
            f"mmssl_ext-{mmssl_ext.__version__}.dist-info/METADATA"
        ).decode()
    package = source / "mmssl_ext"
    expected = {
        path.relative_to(source).as_posix()
        for path in package.rglob("*")
        if path.is_file()
    }
    assert names == expected, "A folder without __init__.py is left out of the wheel."
    for line in INSTALL_REQUIRES:
        assert f"Requires-Dist: {line}" in metadata
