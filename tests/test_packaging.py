"""Installation: the wheel is complete, works, and nothing in it is local.

The wheel is installed into an environment outside of the repository, and used there.
"""

from __future__ import annotations

import configparser
import os
import re
import shutil
import stat
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest

import mmssl_ext

REPO = Path(__file__).resolve().parents[1]
TOOLS = sorted((REPO / "tools").glob("*.py"))
VERSION = mmssl_ext.__version__
WHEEL = f"mmssl_ext-{VERSION}-py3-none-any.whl"
SETUP = configparser.ConfigParser()
SETUP.read(REPO / "setup.cfg", encoding="utf-8")


def test_version_has_one_source() -> None:
    assert SETUP["metadata"]["version"] == "attr: mmssl_ext.__version__"
    citation = (REPO / "CITATION.cff").read_text(encoding="utf-8")
    assert re.findall(r"^version: (.+)$", citation, re.M) == [mmssl_ext.__version__]


@pytest.mark.parametrize(
    "script",
    [REPO / ".ci" / "run", *sorted((REPO / "tools").glob("*.sh")), *TOOLS],
    ids=lambda script: script.name,
)
def test_script_parses_and_is_executable(script: Path) -> None:
    assert os.access(script, os.X_OK), f"Run: chmod +x {script.relative_to(REPO)}"
    if script.suffix != ".py":
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
    skipped = {".venv", ".mim", "data", "work_dirs", "build", "dist", "__pycache__"}
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
            line = line.replace("https://github.com/OWNER/mmssl_ext", "the project")
            if name.startswith(INSTALLING) and REGISTRY.search(line):
                found.append(f"{name}:{number} chooses a registry: {line}")
    assert not found, "\n".join(found)


def test_the_search_for_local_names_works() -> None:
    for line in ("cd /ro" + "ot/project", "out='/tm" + "p'"):
        assert MACHINE_PATH.search(line)
    for line in ("cd ../wo" + "rk/data", "${TMPDIR:-/tmp}/stage"):
        assert not MACHINE_PATH.search(line)
    for line in ("--extra-index-url x", "torch @ https://host/torch.whl"):
        assert REGISTRY.search(line)
    assert not REGISTRY.search("pip install --no-index -r pinned.txt")


def run(*command: str | Path, **options: object) -> str:
    """Run a command that must succeed; return what it prints."""
    done = subprocess.run(
        list(map(str, command)),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        text=True,
        check=False,
        **options,
    )
    assert done.returncode == 0, (
        f"{command} ended with {done.returncode}:\n{done.stdout}"
    )
    return done.stdout


PIP = (sys.executable, "-m", "pip", "-q", "--disable-pip-version-check")
# Its setup is silent: setuptools prints every file that it copies.
SDIST = """
import contextlib, os, sys
from setuptools import build_meta
with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
    build_meta.build_sdist(sys.argv[1])
"""
OFFLINE = ("--no-index", "--no-deps", "--no-build-isolation")


@pytest.fixture(scope="session")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project, so that no build leaves anything in the repository."""
    pytest.importorskip("setuptools", "70.1", reason="older ones need `wheel`")
    folder = tmp_path_factory.mktemp("source")
    for path in filter(Path.is_file, project_files()):
        target = folder / path.relative_to(REPO)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    return folder


@pytest.fixture(scope="session")
def wheel(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of a clone, in which something was built before and then deleted."""
    folder = tmp_path_factory.mktemp("wheel")
    for left in ("mmssl_ext/gone.py", "mmssl_ext/.mim/configs/gone.py"):
        (source / "build/lib" / left).parent.mkdir(parents=True, exist_ok=True)
        (source / "build/lib" / left).write_text("")
    run(*PIP, "wheel", *OFFLINE, "--wheel-dir", folder, source)
    return folder / WHEEL


def content(wheel: Path) -> dict[str, tuple[bytes, int]]:
    """Bytes and permissions of the files in a wheel, by name."""
    with zipfile.ZipFile(wheel) as archive:
        return {
            info.filename: (archive.read(info), stat.S_IMODE(info.external_attr >> 16))
            for info in archive.infolist()
        }


def test_wheel_holds_package_configs_and_tools_and_nothing_else(
    source: Path, wheel: Path
) -> None:
    files = content(wheel)
    names = {name for name in files if ".dist-info/" not in name}
    package = {p.relative_to(source) for p in (source / "mmssl_ext").rglob("*")}
    carried = {p.relative_to(source) for p in (source / "configs").rglob("*")}
    carried = {p for p in carried if p.suffix in (".py", ".yml", ".md")}
    carried |= {Path("tools", p.name) for p in (source / "tools").glob("*.*")}
    expected = {p.as_posix() for p in package if (source / p).is_file()}
    expected |= {f"mmssl_ext/.mim/{p.as_posix()}" for p in carried}
    # A folder of modules without __init__.py would be left out.
    assert names == expected | {"mmssl_ext/.mim/model-index.yml"}
    for path in carried | {Path("model-index.yml")}:
        data, mode = files[f"mmssl_ext/.mim/{path.as_posix()}"]
        assert data == (source / path).read_bytes()
        assert bool(mode & 0o111) == (path.parts[0] == "tools"), path
    for name, (data, _) in files.items():
        assert not MACHINE_PATH.search(data.decode()), f"{name} names a local path."
    metadata = files[f"mmssl_ext-{VERSION}.dist-info/METADATA"][0].decode()
    for line in filter(None, SETUP["options"]["install_requires"].splitlines()):
        assert f"Requires-Dist: {line}" in metadata


def test_sdist_builds_the_same_wheel(source: Path, wheel: Path, tmp_path: Path) -> None:
    run(sys.executable, "-W", "ignore", "-c", SDIST, tmp_path, cwd=source)
    sdist = tmp_path / f"mmssl_ext-{VERSION}.tar.gz"
    run(*PIP, "wheel", *OFFLINE, "--wheel-dir", tmp_path, sdist)
    assert content(tmp_path / WHEEL) == content(wheel)


@dataclass
class Environment:
    """An environment that holds the wheel, and a folder to work in; no clone is near.

    The dependencies are those of this interpreter: a .pth file names their folder. What
    .pth files there say does not count, so an editable installation stays unseen.
    """

    folder: Path
    home: Path

    @property
    def python(self) -> Path:
        return self.folder / "bin" / "python"

    def run(self, command: str, *arguments: str | Path, **env: str) -> str:
        """Run a program of the environment in its folder to work in."""
        kept = {
            k: v
            for k, v in os.environ.items()
            if k not in ("PYTHONPATH", "VIRTUAL_ENV")
        }
        path = f"{self.folder / 'bin'}:{os.environ['PATH']}"
        env = {**kept, "PATH": path, "DEMO_ROOT": "demo", **env}
        return run(command, *arguments, cwd=self.home, env=env)


def environment(folder: Path, *install: str | Path) -> Environment:
    run(sys.executable, "-m", "venv", "--without-pip", folder / "venv")
    (site,) = (folder / "venv/lib").glob("python*/site-packages")
    packages = [p for p in sys.path if p.endswith(("site-packages", "dist-packages"))]
    (site / "dependencies.pth").write_text("\n".join(packages) + "\n")
    python = folder / "venv" / "bin" / "python"
    run(*PIP, "--python", python, "install", *OFFLINE, "--no-compile", *install)
    home = folder / "home"
    home.mkdir()
    return Environment(folder / "venv", home)


@pytest.fixture(scope="session")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    return environment(tmp_path_factory.mktemp("installed"), wheel)


QUICK = ("--cfg-options", "max_epochs=1", "batch_size=8", "queue_len=64")


@pytest.fixture(scope="session")
def trained(installed: Environment) -> Environment:
    """The same after a short pretraining, by a config whose base is in the package."""
    installed.run("mmssl-ext", "demo-data", "--out", "demo", "--train=16", "--test=8")
    config = installed.home / "mine" / "mine.py"
    config.parent.mkdir()
    config.write_text('_base_ = "mmssl_ext::co2/co2_r18_demo.py"\n')
    said = installed.run(
        "mmssl-ext", "train", "mine/mine.py", "--strict-config", *QUICK
    )
    assert str(REPO) not in said.replace(sys.prefix, "")
    return installed


def test_the_wheel_trains_by_a_base_from_the_package(trained: Environment) -> None:
    """What it writes is evaluated and exported by ``make test-wheel``."""
    run_dir = trained.home / "work_dirs" / "mine"
    assert (run_dir / "epoch_1.pth").is_file()
    assert (run_dir / "report.html").is_file()


def test_the_wheel_finds_what_its_chain_names(trained: Environment) -> None:
    chain = trained.home / "mine" / "chain.py"
    chain.write_text(
        '_base_ = "mmssl_ext::chains/demo_full.py"\n'
        "transfers = dict(voc=None, coco=None, cityscapes=None)\n"  # seconds of imports
    )
    said = trained.run("mmssl-ext", "chain", "mine/chain.py", "--dry-run")
    names = ["knn-random", "knn-ascl", "linear-random", "linear-ascl"]
    stages = ["pretrain", *(f"{name}-seed0" for name in names)]
    assert re.findall(r"^(\S+): to run$", said, re.M) == stages


def test_launchers_run_from_the_wheel(installed: Environment) -> None:
    tools = Path(installed.run("mmssl-ext", "--path").strip()) / "tools"
    assert installed.folder in tools.parents
    said = installed.run(tools / "dist_train.sh", "co2/co2_r18_demo.py", "1", "--help")
    assert "usage: train.py" in said
    for script in ("slurm_train.sh", "slurm_chain.sh"):
        usage = f"'{tools}/{script}' || [ $? = 2 ]"
        assert f"Usage: {tools}/{script}" in installed.run("bash", "-c", usage)


def test_editable_installation_links_to_the_clone(source: Path, tmp_path: Path) -> None:
    shutil.copytree(source, tmp_path / "clone", ignore=shutil.ignore_patterns("build"))
    there = environment(tmp_path, "--editable", tmp_path / "clone")
    mim = tmp_path / "clone" / "mmssl_ext" / ".mim"
    for name in ("configs", "tools", "model-index.yml"):
        assert (mim / name).is_symlink()
        assert (mim / name).resolve() == tmp_path / "clone" / name
    assert there.run("mmssl-ext", "--path").strip() == str(mim)
    name = "co2/co2_r50_imagenet.py"
    find = f"from mmssl_ext.packaged import *; print(packaged_config('{name}'))"
    config = tmp_path / "clone" / "configs" / name
    assert there.run(there.python, "-c", find).strip() == str(config)


def test_a_clone_on_the_path_needs_no_installation(
    source: Path, installed: Environment
) -> None:
    assert not (source / "mmssl_ext" / ".mim").exists()
    command = (installed.python, "-m", "mmssl_ext", "--path")
    assert installed.run(*command, PYTHONPATH=str(source)).strip() == str(source)
