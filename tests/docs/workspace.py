"""Where the blocks of a page run: a small copy of the repository, with data.

A page has a folder of its own, and its blocks run there in their order, each bash block
in a new shell, the Python blocks in one interpreter. What a reader has is there:

* ``data/demo``: the demo scenes, few. ``data/imagenet`` (train, val),
  ``data/VOCdevkit``, ``data/coco`` and ``data/cityscapes`` lead to them.
* ``photos/``: images without labels; ``list.txt``: their names.
* ``data/cells``: a VOC layout with the classes RBC, WBC and Platelets.

Names in capitals stand for what the reader has:

* ``CONFIG``: configs/co2/co2_r18_demo.py; ``FOLDER``: photos; ``WORK_DIR``: a finished
  run of CONFIG.
* ``CHECKPOINT``, and ``epoch_<N>.pth`` where nothing of this name is there: an
  untrained checkpoint that the config of the command accepts. In a folder it is one of
  the config that a page trains into this folder, or whose name the folder has below
  ``work_dirs``, and the number must be one that this training writes.
* ``/scratch`` and ``/local`` are folders of the workspace.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import threading
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

from tests.machine import locked
from tests.warm.client import send
from tests.warm.commands import address

from .blocks import ROOT, Block, PageError, pages, read_page
from .wrappers.programs import environment
from .wrappers.programs import install as install_wrappers
from .wrappers.shorten import SCENES

COPIED = (
    *("configs", "tools", "projects", "benchmarks", "docs", "requirements"),
    *("Makefile", "README.md", "setup.cfg", "setup.py", "pyproject.toml"),
    *("model-index.yml", "LICENSE", "CITATION.cff", "CHANGELOG.md", "SECURITY.md"),
)
CELLS = ("RBC", "WBC", "Platelets")
LIMIT = 240  # seconds for a block
PHOTOS = 24
# bash tells where a block failed; the scripts that it starts keep quiet.
TRAP = "unset BASH_ENV; trap 'echo \"@line $LINENO\" >&2' ERR\n"
STANDS_FOR = {"CONFIG": "configs/co2/co2_r18_demo.py", "FOLDER": "photos"}
STRIPPED = re.compile(
    r"\w+_ROOT$|SLURM_|MASTER_|PET_|PYTHONPATH$|PORT$|GPUS|VIRTUAL_ENV"
)


def clean_environment() -> dict[str, str]:
    """The variables of this process that say nothing of data, clusters or display."""
    kept = {k: v for k, v in os.environ.items() if not STRIPPED.match(k)}
    return kept | {
        **{"OMP_NUM_THREADS": "1", "MPLBACKEND": "Agg", "CUDA_VISIBLE_DEVICES": ""},
        **{"PYTHONWARNINGS": "ignore", "NO_COLOR": "1", "COLUMNS": "100"},
    }


class Outcome:
    """How a block ended: the sentence of its failure, or None, and what it printed."""

    def __init__(self, failure: str | None, output: str = "") -> None:
        self.failure, self.output = failure, output

    def check(self) -> None:
        """Fail with the sentence and the last lines of the output."""
        if self.failure is not None:
            tail = "\n".join(self.output.rstrip().split("\n")[-40:])
            raise AssertionError(f"{self.failure}\n{tail}")


class Workspaces:
    """The folders of the pages, and what they have in common.

    Args:
        folder: Where they are, for all workers of the test run.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        self.folder = folder
        self.server = address()
        self.bin = folder / "bin"
        self.template = folder / "template"
        self.runs = trained_runs()
        self._pages: dict[str, PageRun] = {}
        with locked(folder / "lock"):
            if not (folder / "filled").exists():
                self._fill()
                (folder / "filled").touch()

    def close(self) -> None:
        """End all processes."""
        for page in self._pages.values():
            page.close()

    def page(self, name: str, blocks: list[Block]) -> PageRun:
        """The folder of a page."""
        if name not in self._pages:
            folder = self._copy(Path(f"{os.getpid()}", re.sub(r"\W+", "_", name)))
            self._pages[name] = PageRun(self, folder, blocks)
        return self._pages[name]

    def finished_run(self, name: str, config: str, words: list[str]) -> Path:
        """The folder of a run, as the training of a reader leaves it."""
        own = Path("runs", re.sub(r"\W+", "_", name))
        with locked(self.folder / "lock"):
            folder = self.folder / own
            if not folder.exists():
                page = PageRun(self, self._copy(own), [])
                words = words if "--work-dir" in words else [*words, "--work-dir", name]
                command = shlex.join(["python", "tools/train.py", config, *words])
                try:
                    page.bash(Block("workspace", 1, "bash", "run", command)).check()
                except BaseException:
                    shutil.rmtree(folder)  # whoever asks next is told why, too
                    raise
        return folder / name

    def _copy(self, name: Path) -> Path:
        """A copy of the template, its images by hard links: nobody writes into them."""
        folder = self.folder / name
        shutil.copytree(self.template, folder, symlinks=True, copy_function=link)
        return folder

    def _fill(self) -> None:
        from mmssl_ext.datasets.demo import make_demo

        self.bin.mkdir()
        install_wrappers(self.bin)
        self.template.mkdir()
        skip = shutil.ignore_patterns("__pycache__", "_build", "*.pyc")
        for name in COPIED:
            source, target = ROOT / name, self.template / name
            if source.is_dir():
                shutil.copytree(source, target, ignore=skip)
            elif source.is_file():
                shutil.copy(source, target)
        for name in (".tmp", ".home", "scratch/shards", "local"):
            (self.template / name).mkdir(parents=True)
        (self.template / ".tmp" / "runs.json").write_text(json.dumps(self.runs))
        data = self.template / "data"
        make_demo(data / "demo", **SCENES, progress=False)
        for name in ("VOCdevkit", "coco", "cityscapes"):
            (data / name).symlink_to(Path("demo", name))
        (data / "imagenet").mkdir()
        for name, split in (("train", "train"), ("val", "test")):
            (data / "imagenet" / name).symlink_to(Path("..", "demo", "imagenet", split))
        images = sorted((data / "demo" / "imagenet" / "train").glob("*/*"))
        (self.template / "photos").mkdir()
        for i, image in enumerate(images[:PHOTOS]):
            shutil.copy(image, self.template / "photos" / f"IMG_{i:04}{image.suffix}")
        (self.template / "FOLDER").symlink_to("photos")
        photos = sorted(path.name for path in (self.template / "photos").iterdir())
        (self.template / "list.txt").write_text("\n".join(photos) + "\n")
        draw_cells(data / "demo" / "VOCdevkit" / "VOC2007", data / "cells" / "VOC2007")
        environment(self.template / ".venv", self.bin)


class PageRun:
    """Runs the blocks of a page in their order, each once."""

    def __init__(self, owner: Workspaces, folder: Path, blocks: list[Block]) -> None:
        self.owner, self.folder, self.blocks = owner, folder, blocks
        self._outcomes: dict[str, Outcome] = {}
        self._python: PythonRun | None = None

    def outcome(self, block: Block) -> Outcome:
        """How a block ends, after those before it."""
        for other in self.blocks[: self.blocks.index(block)]:
            self._once(other)
        return self._once(block)

    def checked(self, block: Block) -> Outcome:
        """How a block ends that is only checked, whatever stands before it."""
        return self._once(block)

    def _once(self, block: Block) -> Outcome:
        if block.name not in self._outcomes:
            run = self.python if block.language == "python" else self.bash
            self._outcomes[block.name] = run(block)
        return self._outcomes[block.name]

    def close(self) -> None:
        """End the interpreter of the page."""
        if self._python is not None:
            self._python.close()

    def environment(self, mode: str) -> dict[str, str]:
        """Variables of a block: ``mode`` is run or check."""
        path = os.defpath + os.pathsep + os.environ["PATH"]
        return clean_environment() | {
            "PATH": f"{self.owner.bin}{os.pathsep}{path}",
            "HOME": str(self.folder / ".home"),
            "TMPDIR": str(self.folder / ".tmp"),
            "WARM_SERVER": self.owner.server,
            "WARM_RUN": "tests.docs.wrappers.programs",
            "DOCS_BIN": str(self.owner.bin),
            "DOCS_PATH": path,
            "DOCS_ROOT": str(self.folder),
            "DOCS_MODE": mode,
        }

    def bash(self, block: Block) -> Outcome:
        """Run a block of commands; where it is marked, only check them."""
        failure = unread_variables(block) or None
        if failure:
            return Outcome(failure)
        self._provide(block)
        state = self.folder / ".tmp"
        script, trap = state / f"line_{block.line}.sh", state / "trap"
        script.write_text(substituted(block.text, self.folder) + "\n")
        trap.write_text(TRAP)
        mode = "run" if block.kind == "run" else "check"
        command = ["bash", "-eE", "-o", "pipefail", str(script)]
        with (state / f"line_{block.line}.log").open("w+") as log:
            process = subprocess.Popen(
                command,
                cwd=self.folder,
                env=self.environment(mode) | {"BASH_ENV": str(trap)},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                preexec_fn=os.setpgrp,  # what it starts can be ended with it
            )
            try:
                code: int | None = process.wait(LIMIT)
            except subprocess.TimeoutExpired:
                code = None
            finally:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
            if (clone := self.folder / "mmssl_ext").is_symlink():  # by `git clone`
                clone.unlink()
            log.seek(0)
            output = log.read()
        if code == 0:
            return Outcome(None, output)
        lines = re.findall(r"^@line (\d+)$", output, re.M)
        where = (
            f"{block.page}:{block.first + int(lines[0]) - 1 if lines else block.line}"
        )
        if code is None:
            return Outcome(f"{where}: not finished after {LIMIT} s.", output)
        return Outcome(f"{where}: exit code {code}.", output)

    def inline(self, commands: list[Block]) -> Outcome:
        """Check the commands in the text of the page."""
        words = [word for c in commands for word in (c.name, c.text)]
        script = shlex.join([str(self.owner.bin / "inline"), *words])
        return self._once(Block(commands[0].page, 0, "bash", "cluster", script))

    def python(self, block: Block) -> Outcome:
        """Run a block of Python, or write the file that it shows."""
        if block.file is not None:
            path = self.folder / block.file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.unlink(missing_ok=True)  # it may be a link to the template
            path.write_text(substituted(block.text, self.folder) + "\n")
            if "_base_" not in block.text:
                return self._compiled(block)
        if self._python is None:
            self._python = PythonRun(self)
        return self._python.run(block)

    def _compiled(self, block: Block) -> Outcome:
        try:
            compile(block.text, block.name, "exec")
        except SyntaxError as error:
            line = block.first + (error.lineno or 1) - 1
            return Outcome(f"{block.page}:{line}: {error.msg}.")
        return Outcome(None)

    def _provide(self, block: Block) -> None:
        """Put a run where the block expects one that the page has not made."""
        runs = self.owner.runs if block.kind == "run" else {}
        for name, found in runs.items():
            if (self.folder / name).exists() or Path(name).stem + ".py" in block.text:
                continue
            whole = rf"(?<![\w$/-]){name}(?![\w=-]|/\w+/|/[\w.]+\.pth)"  # not one file
            made_here = rf"--work-dir[ =]{name}(?![\w/])"
            named = re.search(whole, block.text)
            if named and not re.search(made_here, block.text):
                source = self.owner.finished_run(name, *found[-1])
                shutil.copytree(source, self.folder / name)


class PythonRun:
    """The interpreter of a page's Python blocks."""

    def __init__(self, page: PageRun) -> None:
        self.page = page
        requests, self._requests = os.pipe()
        self._answers, answers = os.pipe()
        self._log = (page.folder / ".tmp" / "python.log").open("w+")
        request = {
            "run": "tests.docs.wrappers.programs",
            "program": "page",
            "argv": [],
            "cwd": str(page.folder),
            "env": page.environment("run"),
            "group": 0,
        }
        streams = [requests, answers, self._log.fileno()]
        self._connection, self._pid = send(page.owner.server, request, streams)
        os.close(requests)
        os.close(answers)
        self._reader = os.fdopen(self._answers)

    def run(self, block: Block) -> Outcome:
        """Execute a block in the namespace of the page."""
        start = self._log.seek(0, os.SEEK_END)
        request: dict[str, Any] = {
            "page": block.page,
            "line": block.first,
            "code": substituted(block.text, self.page.folder),
            "file": block.file or f"block_{block.line}.py",
        }
        os.write(self._requests, (json.dumps(request) + "\n").encode())
        timer = threading.Timer(LIMIT, os.kill, (self._pid, signal.SIGKILL))
        timer.start()
        answer = self._reader.readline()
        timer.cancel()
        self._log.seek(start)
        output = self._log.read()
        if not answer:
            return Outcome(f"{block.name}: the interpreter ended.", output)
        failure = json.loads(answer)
        return Outcome(failure, output)

    def close(self) -> None:
        """End the interpreter."""
        os.close(self._requests)
        self._reader.read()
        self._reader.close()
        self._connection.close()
        self._log.close()


def substituted(text: str, folder: Path) -> str:
    """Put what the reader has for the names in capitals and the disks of a cluster."""
    for name, value in (*STANDS_FOR.items(), ("CHECKPOINT", "CHECKPOINT.pth")):
        text = re.sub(rf"(?<![\w$./{{-]){name}(?![\w=.-])", value, text)
    return re.sub(r"(?<![\w.])/(scratch|local)(?=[/\s\"'])", rf"{folder}/\1", text)


def trained_runs() -> dict[str, list[tuple[str, list[str]]]]:
    """Folder: config and options of each pretraining that leaves checkpoints there."""
    files = sorted((ROOT / "configs").glob("[!t]*/*_*.py"))  # not those of transfer
    runs = {f"work_dirs/{f.stem}": [(str(f.relative_to(ROOT)), [])] for f in files}
    demo = (STANDS_FOR["CONFIG"], [])
    runs |= {"WORK_DIR": [demo], "work_dirs/demo/pretrain": [demo]}
    for path in pages():
        try:
            blocks, _ = read_page(path)
        except PageError:
            continue
        scripts = [b.text for b in blocks if b.language == "bash"]
        for line in "\n".join(scripts).replace("\\\n", " ").split("\n"):
            found = re.search(r"tools/train\.py (configs/(?!transfer)\S+\.py)", line)
            if found:
                words = shlex.split(line[found.end() :], comments=True)
                at = words.index("--work-dir") + 1 if "--work-dir" in words else 0
                folder = words[at] if at else f"work_dirs/{Path(found[1]).stem}"
                runs.setdefault(folder, []).append((found[1], words))
    return runs


def unread_variables(block: Block) -> str | None:
    """A variable that a block sets and nothing of this project reads."""
    for i, line in enumerate(block.text.split("\n")):
        for name in re.findall(r"(?:^|[\s;])([A-Z][A-Z0-9_]+)=", line.split(" #")[0]):
            if name.startswith(("CUDA_", "NCCL_", "OMP_", "TORCH_", "SLURM_", "MKL_")):
                continue
            uses = len(re.findall(rf"\${{?{name}\b", block.text))
            if not uses and name not in variables_read():
                return f"{block.page}:{block.first + i}: nothing reads {name}."
    return None


@functools.cache
def variables_read() -> set[str]:
    """Variables that tools, configs, Makefile and package read."""
    files = [ROOT / "Makefile", *(ROOT / "tools").iterdir()]
    for name in ("configs", "mmssl_ext", "benchmarks"):
        files += [*(ROOT / name).rglob("*.py"), *(ROOT / name).rglob("*.sh")]
    text = "\n".join(file.read_text() for file in files if file.is_file())
    return set(re.findall(r"(?:\$[{(]?|environ[\[.\w(]+[\"'])([A-Z][A-Z0-9_]+)", text))


def link(source: str, target: str) -> None:
    """Link to an image; copy what a block may write to."""
    if Path(source).suffix in (".jpg", ".jpeg", ".png"):
        os.link(source, target)
    else:
        shutil.copy(source, target)


def draw_cells(scenes: Path, cells: Path) -> None:
    """Blood cells: the demo scenes with other names for their classes."""
    shutil.copytree(scenes, cells, copy_function=link)
    names: dict[str, str] = {}
    for file in sorted((cells / "Annotations").glob("*.xml")):
        tree = ET.parse(file)
        for node in tree.iter("name"):
            node.text = names.setdefault(node.text, CELLS[len(names) % len(CELLS)])
        file.unlink()
        tree.write(file)
    for file in (cells / "ImageSets" / "Main").glob("*_*.txt"):  # of the old classes
        file.unlink()
