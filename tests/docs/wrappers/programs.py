"""What stands for python, mmssl-ext, make, pip and Slurm in the blocks of the pages.

Every command runs with the options that the page gives. Only then trainings are cut to
their last steps (:mod:`.shorten`). In blocks that need a cluster or ImageNet, commands
end where their options have been read and the models built (:mod:`.check`). Nothing is
installed, submitted or downloaded.
"""

from __future__ import annotations

import argparse
import configparser
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

from tests.warm import client, interpreter
from tests.warm.interpreter import Refusal, start

ROOT = Path(__file__).resolve().parents[3]
# Installed by hand, or not required by any file.
WELL_KNOWN = {"pip", "setuptools", "wheel", "openmim", "opencv-python-headless"}
STUB = '#!/bin/sh\nexec {program} "$@"\n'
ACTIVATE = """VIRTUAL_ENV={folder}; export VIRTUAL_ENV
deactivate() {{ unset VIRTUAL_ENV; }}
"""


def run(program: str, argv: list[str]) -> int | None:
    """Run a command of a block; return its exit code."""
    sys.executable = str(Path(os.environ["DOCS_BIN"], "python"))
    os.environ.pop("PYTHONPYCACHEPREFIX", None)
    try:
        return PROGRAMS[program](argv)
    except Refusal as refusal:
        print(f"{program}: {refusal}", file=sys.stderr)
        return 2


def checking() -> bool:
    """Whether commands are to be checked only."""
    return os.environ["DOCS_MODE"] == "check"


def python(argv: list[str]) -> int | None:
    """Python's command line."""
    return interpreter.python(argv, MODULES, tool)


def tool(name: str, argv: list[str]) -> int | None:
    """Run a file or module, shortened, or check its options."""
    from . import check, shorten

    sys.argv = [name, *argv]
    launches = name == "torch.distributed.run" or Path(name).name == "torchrun.py"
    if checking() and launches:
        from torch.distributed.run import parse_args

        args = parse_args(argv)
        module = ["-m"] if args.module else []
        return python([*module, args.training_script, *args.training_script_args])
    if checking():
        return check.check_tool(name)
    if not name.startswith("torch."):
        check.provide_missing(name)
        sys.argv = [name, *argv]
    shorten.install()
    if "demo" in name or "demo-data" in argv:
        shorten.install_scenes()
    if Path(name).stem in ("visualize", "browse_dataset"):
        shorten.install_sheets()
    start(name)
    return 0


def mmssl_ext(argv: list[str]) -> int | None:
    """The console script of the package."""
    return tool("mmssl_ext.run.cli", argv)


def make(argv: list[str]) -> int:
    """The targets and variables exist; make says what it would do."""
    text = Path("Makefile").read_text()
    for word in argv:
        name, equals, _ = word.partition("=")
        if equals and not re.search(rf"^{name} *[?:]?=|\$[({{]{name}\b", text, re.M):
            raise Refusal(f"the Makefile does not read the variable {name}")
    # Without the programs of this folder
    env = os.environ | {"PATH": os.environ["DOCS_PATH"]}
    command = ["/usr/bin/env", "make", "-n", *argv]
    return subprocess.run(command, env=env, stdout=subprocess.DEVNULL).returncode


def setup() -> configparser.ConfigParser:
    """setup.cfg of the repository."""
    parser = configparser.ConfigParser(interpolation=None)
    parser.read(ROOT / "setup.cfg")
    return parser


def normal(name: str) -> str:
    """The name of a distribution in the form that pip compares."""
    return re.sub(r"[-_.]+", "-", name).lower()


def requirements() -> set[str]:
    """Every distribution that setup.cfg and requirements/ name."""
    cfg = setup()
    lines = cfg["options"]["install_requires"].splitlines()
    for extra in cfg["options.extras_require"].values():
        lines += extra.splitlines()
    for file in (ROOT / "requirements").glob("*.txt"):
        lines += file.read_text().splitlines()
    names = (re.match(r"[A-Za-z0-9][\w.-]*", line.strip()) for line in lines)
    return {normal(name[0]) for name in names if name}


def pip(argv: list[str]) -> int:
    """Its options, and that what is to be installed exists."""
    from pip._internal.cli.main_parser import parse_command
    from pip._internal.commands import create_command

    if argv == ["--version"]:
        return 0
    name, rest = parse_command(argv)
    options, targets = create_command(name).parse_args(rest)
    if name == "uninstall":  # of what should not be there, whatever it is
        return 0
    for file in [*getattr(options, "requirements", ()),
                 *getattr(options, "constraints", ())]:  # fmt: skip
        if not Path(file).is_file():
            raise Refusal(f"there is no file {file}")
    for target in [*targets, *getattr(options, "editables", ())]:
        pip_target(target)
    return 0


def pip_target(target: str) -> None:
    """A distribution that the project names, or a path with extras that it has."""
    place, _, extras = target.partition("[")
    for extra in filter(None, extras.rstrip("]").replace(" ", "").split(",")):
        if extra not in setup()["options.extras_require"]:
            raise Refusal(f"setup.cfg has no extra '{extra}'")
    if place.endswith("/*.whl"):  # a folder that `pip download` fills for users
        return
    if place.endswith(".whl"):
        if not re.search(r"(^|/)mmssl_ext-[^/]*\.whl$", place):
            raise Refusal(f"'{place}' is no wheel of this package")
    elif place.startswith((".", "/")):
        if not Path(place, "setup.cfg").is_file():
            raise Refusal(f"there is nothing to install in '{place}'")
    else:
        found = re.match(r"[A-Za-z0-9][\w.-]*", place)
        if not found or normal(found[0]) not in requirements() | WELL_KNOWN:
            raise Refusal(f"no requirement of this project is called '{place}'")


def venv(argv: list[str]) -> int:
    """A folder that looks like a virtual environment, of the wrappers."""
    folder = Path(argv[-1]) if argv else None
    if folder is None or argv[-1].startswith("-"):
        raise Refusal("name the folder of the environment")
    environment(folder, Path(os.environ["DOCS_BIN"]))
    return 0


def environment(folder: Path, programs: Path) -> None:
    """Make such a folder."""
    (folder / "bin").mkdir(parents=True, exist_ok=True)
    for name in ("python", "pip", "mmssl-ext"):
        path = folder / "bin" / name
        path.write_text(STUB.format(program=programs / name))
        path.chmod(0o755)
    (folder / "bin" / "activate").write_text(ACTIVATE.format(folder=folder.absolute()))


def mim(argv: list[str]) -> int | None:
    """`mim train mmssl_ext CONFIG ...` is tools/train.py with a packaged config."""
    command, package, *rest = [*argv, "", ""]
    if command in ("install", "uninstall"):
        return pip([word for word in argv if word])
    if command not in ("train", "test") or package != "mmssl_ext":
        raise Refusal("expected: mim train|test mmssl_ext CONFIG ...")
    rest = [word for word in rest if word]
    if command == "test" and "--checkpoint" in rest:  # there it is an option
        rest.remove("--checkpoint")
    return tool(str(ROOT / "tools" / f"{command}.py"), rest)


def sbatch(argv: list[str]) -> int:
    """The script of a job, from a file or the standard input, starts at once."""
    parser = argparse.ArgumentParser("sbatch")
    for name in ("--job-name", "--partition", "--output", "--wrap"):
        parser.add_argument(name)
    options, others = parser.parse_known_args(argv)
    words = [word for word in others if not word.startswith("-")]
    script = options.wrap
    if script is not None:  # a stage of a chain, whose configs `--list` has loaded
        script = f"bash -n <<< {shlex.quote(script)}"
    else:
        script = Path(words[0]).read_text() if words else sys.stdin.read()
    arguments = words[1:]
    job = {
        **{"SLURM_JOB_ID": "1", "SLURM_JOB_NODELIST": "n1", "SLURM_NTASKS": "1"},
        **{"SLURM_JOB_NUM_NODES": "1", "SLURM_NTASKS_PER_NODE": "1"},
    }
    done = subprocess.run(["bash", "-se", *arguments], input=script, text=True,
                          env=os.environ | job, stdout=sys.stderr)  # fmt: skip
    if done.returncode == 0:
        print("1" if "--parsable" in argv else "Submitted batch job 1")
    return done.returncode


def srun(argv: list[str]) -> int:
    """The command of a step, once."""
    words = list(argv)
    while words and words[0].startswith("-"):
        word = words.pop(0)
        if re.fullmatch(r"-[a-zA-Z]", word):
            words.pop(0)
    if not words:
        raise Refusal("srun needs a command")
    ranks = {"SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NTASKS": "1"}
    return subprocess.run(words, env=os.environ | ranks).returncode


def git(argv: list[str]) -> int:
    """`git clone` gives the workspace again."""
    if argv[:1] == ["clone"]:
        words = [word for word in argv[1:] if not word.startswith("-")]
        name = words[1] if len(words) > 1 else Path(words[0]).stem
        Path(name).symlink_to(os.environ["DOCS_ROOT"])
    return 0


def nothing(argv: list[str]) -> int:
    """A program that needs a network, a cluster or the administrator."""
    if not checking():
        raise Refusal(f"mark this block: {shlex.join(argv)}")
    if "hostnames" in argv:  # scontrol
        print("n1")
    return 0


def page(argv: list[str]) -> int:
    """The interpreter of a page; no program on the PATH."""
    from . import page as interpreter

    return interpreter.serve(argv)


def inline(argv: list[str]) -> int:
    """Check commands from the text of a page: `LINE COMMAND LINE COMMAND ...`."""
    from . import check

    os.environ["DOCS_MODE"] = "check"
    wrong = 0
    for line, text in zip(argv[::2], argv[1::2], strict=True):
        if (failure := check.check_inline(text)) is not None:
            wrong += 1
            print(f"{line}: `{text}`: {failure.strip()}.", file=sys.stderr)
    return min(wrong, 1)


MODULES = {"pip": pip, "venv": venv}
ELSEWHERE = (
    "salloc scancel squeue sinfo sacct scontrol wget curl ssh scp rsync apt apt-get "
    "sudo docker conda unzip tensorboard pytest virtualenv"
)
PROGRAMS = dict.fromkeys(ELSEWHERE.split(), nothing) | {
    **{"python": python, "python3": python, "mmssl-ext": mmssl_ext, "make": make},
    **{"pip": pip, "pip3": pip, "mim": mim, "git": git, "page": page, "inline": inline},
    **{"sbatch": sbatch, "srun": srun},
    "torchrun": lambda argv: python(["-m", "torch.distributed.run", *argv]),
}


def install(folder: Path) -> None:
    """Write the wrappers into a folder that is to be first on the PATH."""
    for name in PROGRAMS:
        command = shlex.join([sys.executable, "-I", "-S", client.__file__, name])
        path = folder / name
        path.write_text(f'#!/bin/sh\nexec {command} "$@"\n')
        path.chmod(0o755)
