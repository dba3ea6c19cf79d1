"""What a public repository has beside its code: workflows, image, hooks, templates."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.test_packaging import REPO

GITHUB = REPO / ".github"
WORKFLOWS = sorted((GITHUB / "workflows").glob("*.yml"))
TARGETS = set(re.findall(r"^([a-z-]+):", (REPO / "Makefile").read_text(), re.MULTILINE))


def read(path: Path) -> dict:
    return yaml.load(path.read_text(), yaml.BaseLoader)  # `on` stays a word


def commands(workflow: Path) -> list[tuple[dict, str]]:
    """Each command of a workflow, once per entry of its matrix."""
    found = []
    for job in read(workflow)["jobs"].values():
        matrix = job.get("strategy", {}).get("matrix", {})
        entries = matrix.get("include") or [{}]
        for entry in entries:
            for step in job["steps"]:
                text = step.get("run", "")
                for key, value in entry.items():
                    text = text.replace("${{ matrix." + key + " }}", value)
                found += [(step, line) for line in text.splitlines() if line]
    return found


def run(*command: str | Path, folder: Path = REPO, **env: str) -> str:
    done = subprocess.run(
        list(map(str, command)),
        cwd=folder,
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.name)
def test_a_workflow_runs_what_there_is(workflow):
    known = commands(workflow)
    assert known
    for step, command in known:
        words = shlex.split(command)
        if words[0] == "make":
            assert words[1] in TARGETS and words[2:] == ["PYTHON=python"], command
            run("make", "-n", words[1])
        elif words[0] == "ruff":
            run(sys.executable, "-m", *words)
        elif words[0] == "test":
            tag = f"v{run(sys.executable, 'setup.py', '--version').split()[-1]}"
            assert step["if"] == "github.ref_type == 'tag'"
            name = words[2].replace("${GITHUB_REF_NAME#v}", tag.removeprefix("v"))
            assert name == f"dist/mmssl_ext-{tag[1:]}.tar.gz"
        else:
            pins = (REPO / "requirements" / "pinned.txt").read_text()
            start = "python -m pip install -c requirements/pinned.txt "
            assert command.startswith(start), command
            assert f"\n{command.removeprefix(start)}==" in pins


def test_all_versions_are_tested_somewhere():
    """Those of setup.cfg, and the targets for other versions of the dependencies."""
    matrix = read(GITHUB / "workflows" / "ci.yml")["jobs"]["test"]["strategy"]["matrix"]
    named = re.findall(r"Python :: (3\.\d+)\n", (REPO / "setup.cfg").read_text())
    assert set(named) <= set(matrix["python"])
    weekly = {c.split()[1] for _, c in commands(GITHUB / "workflows" / "versions.yml")}
    assert weekly == {"test-newest", "test-oldest", "test-upstream"}


@pytest.mark.skipif(
    not shutil.which("actionlint"), reason="actionlint is not installed"
)
def test_actionlint_finds_nothing():
    run("actionlint", *WORKFLOWS)


def test_templates_hold_what_is_asked():
    forms = {p.stem: read(p) for p in (GITHUB / "ISSUE_TEMPLATE").glob("*.yml")}
    assert set(forms) == {"bug", "config", "method"}
    for name in ("bug", "method"):
        fields = forms[name]["body"]
        assert all(field["attributes"]["label"] for field in fields)
        assert len({field["id"] for field in fields}) == len(fields)
    assert "make test" in (GITHUB / "PULL_REQUEST_TEMPLATE.md").read_text()


def test_hooks_and_pages_are_built_as_by_make():
    hooks = read(REPO / ".pre-commit-config.yaml")["repos"][0]["hooks"]
    recipes = run("make", "-n", "lint", "typecheck", "docs")
    for hook in hooks:
        words = hook["entry"].replace(" --fix", "")
        assert words in recipes, hook
    built = read(REPO / ".readthedocs.yaml")["build"]["commands"]
    assert built[0].split()[:2] == ["make", "docs"]
    assert built[-1].split()[2] in recipes  # the folder that is copied


def docker_steps() -> list[list[str]]:
    text = (REPO / "Dockerfile").read_text().replace("\\\n", " ")
    lines = (line.split(None, 1) for line in text.splitlines())
    return [words for words in lines if words and not words[0].startswith("#")]


def test_the_image_gets_what_the_package_is_built_of():
    copied = [
        w for word, rest in docker_steps() if word == "COPY" for w in rest.split()
    ]
    assert all((REPO / path).exists() for path in copied)
    needed = {"setup.py", "setup.cfg", "pyproject.toml", "README.md", "LICENSE"}
    assert needed | {"mmssl_ext", "configs", "tools", "model-index.yml"} <= {*copied}


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_image_is_built_step_by_step(tmp_path):
    """With a folder as the root of the image, and what this machine has of its base."""
    here = tmp_path
    for word, rest in docker_steps():
        rest = rest.replace("/opt/", f"{tmp_path}/opt/")
        if word == "WORKDIR":
            here = Path(rest) if rest.startswith(str(tmp_path)) else tmp_path
            here.mkdir(parents=True, exist_ok=True)
        elif word == "COPY":
            *sources, target = rest.split()
            for source in sources:
                if (REPO / source).is_dir():
                    ignored = shutil.ignore_patterns("__pycache__", ".mim")
                    shutil.copytree(REPO / source, here / target, ignore=ignored)
                else:
                    shutil.copy(REPO / source, here / target)
        elif word == "RUN" and "apt-get" not in rest:
            run("bash", "-c", rest, folder=here)
    steps = dict(docker_steps())
    assert (steps["ENTRYPOINT"], steps["CMD"]) == ('["mmssl-ext"]', '["--help"]')
    said = run(tmp_path / "opt/venv/bin/mmssl-ext", "--help", folder=tmp_path)
    assert "pretrain" in said


# Words of ours that a stranger stumbles over, in pages and in what the package prints
PRIVATE = re.compile(
    r"theirs / here|\barrives? whole|worth against|\bmend(s|ed|ing)?\b", re.IGNORECASE
)
PRINTED = ("*.md", "*.py", "*.html")


@pytest.mark.parametrize("folder", ["docs", "configs", "mmssl_ext", "tools", "."])
def test_english_is_plain(folder):
    files = [
        f
        for kind in PRINTED
        for f in (REPO / folder).glob("**/" * (folder != ".") + kind)
    ]
    found = [
        f"{file.relative_to(REPO)}:{number}: {line}"
        for file in files
        if not {"_build", ".mim"} & {*file.parts}
        for number, line in enumerate(file.read_text().splitlines(), 1)
        if PRIVATE.search(line)
    ]
    assert files and not found, "\n".join(found)


def test_typed():
    assert (REPO / "mmssl_ext" / "py.typed").read_text() == ""
