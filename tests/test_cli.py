"""The command mmssl-ext, and the configs that come with the package."""

from __future__ import annotations

import inspect
import os
import resource
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
from mmengine.config import Config
from mmengine.runner import Runner

from mmssl_ext import __version__, packaged
from mmssl_ext.chain.spec import read_chain
from mmssl_ext.datasets.proposals import find
from mmssl_ext.engine.config.read import RUNNER_KEYS
from mmssl_ext.errors import ConfigError
from mmssl_ext.run import cli
from mmssl_ext.run.launch import load_config
from mmssl_ext.transfer import export

REPO = Path(__file__).resolve().parents[1]
CONFIGS = REPO / "configs"
DEMO = "co2/co2_r18_demo.py"


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in a folder that is not the repository's."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


# Configs of the package


@pytest.mark.parametrize(
    ("name", "found"),
    [
        (DEMO, DEMO),
        (f"configs/{DEMO}", DEMO),
        (f"mmssl_ext::{DEMO}", DEMO),
        ("chains/demo.py", "chains/demo.py"),
        ("co2", None),
        ("co2/none.py", None),
        ("", None),
        ("mmssl_ext::", None),
        (f"mmdet::{DEMO}", None),
        ("../README.md", None),
        (f"co2/../{DEMO}", None),
        (str(CONFIGS / DEMO), None),
    ],
)
def test_names_of_packaged_configs(name: str, found: str | None) -> None:
    assert packaged.packaged_config(name) == (found and CONFIGS / found)


def test_a_local_file_comes_first(elsewhere: Path) -> None:
    write(elsewhere / DEMO, "lr = 1")
    assert load_config(DEMO).lr == 1
    assert load_config(f"mmssl_ext::{DEMO}").model.type == "CO2"


def test_what_is_not_there_is_named_with_what_is_close(elsewhere: Path) -> None:
    write(elsewhere / "mine.py", "")
    for given, words in [
        ("mines.py", r"mines\.py does not exist .* Did you mean mine\.py\?"),
        ("co2/co2_r18_dem.py", r"Did you mean mmssl_ext::co2/co2_r18_demo\.py"),
        ("co2_r50_imagenet.py", r"Did you mean .*mmssl_ext::co2/co2_r50_imagenet\.py"),
        ("mmssl_ext::mine.py", r"looked in \S*configs\)\.$"),
        ("zzz.py", r"and in the package\)\.$"),
    ]:
        with pytest.raises(ConfigError, match=words):
            load_config(given)
    write(elsewhere / "child.py", "_base_ = 'mmssl_ext::co2/gone.py'")
    with pytest.raises(ConfigError, match=r"child\.py .*no mmssl_ext::co2/gone\.py"):
        load_config("child.py")
    with pytest.raises(ConfigError, match=r"child\.py: .*no mmssl_ext::co2/gone\.py"):
        load_config("child.py", strict=True)


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize(
    "name", ["co2/co2_r50_imagenet.py", "transfer/detection/fcos_r50_fpn_coco_1x.py"]
)
def test_a_base_from_the_package_is_like_a_file(
    name: str, strict: bool, elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """mmengine's reading of the file itself is the reference: no key, no scope more."""
    monkeypatch.setattr("mmssl_ext.engine.config.read.enforce", lambda: None)
    write(elsewhere / "a.py", f"_base_ = 'mmssl_ext::{name}'\nwork_dir = 'x'")
    write(elsewhere / "b.py", f"_base_ = [r'{CONFIGS / name}']\nwork_dir = 'x'")
    plain = Config.fromfile(str(elsewhere / "b.py")).to_dict()
    plain.setdefault("default_scope", "mmssl_ext")
    assert load_config("a.py", strict=strict).to_dict() == plain
    # A variable of the base, and all that follows from it
    option = {"batch_size": 3}
    changed = load_config("a.py", option, strict).to_dict()
    assert changed == load_config("b.py", option).to_dict()
    assert changed["train_dataloader"]["batch_size"] == 3


def test_bases_of_other_packages_are_upstreams() -> None:
    name = "mmpretrain::mocov2/mocov2_resnet50_8xb32-coslr-200e_in1k.py"
    path, scope = Config._get_cfg_path(name, "x.py")
    assert scope == "mmpretrain" and Path(path).is_file()
    assert Config._get_cfg_path("b.py", "a/x.py") == ("a/b.py", None)


def test_reading_a_config_leaves_no_second_wrapper() -> None:
    before = Config._get_cfg_path
    packaged.enable_bases()
    assert Config._get_cfg_path is before


def test_a_chain_takes_from_the_package_what_is_not_here(elsewhere: Path) -> None:
    linear = "configs/transfer/classification/linear_r50_imagenet.py"
    mine = write(
        elsewhere / "chain.py",
        "_base_ = 'mmssl_ext::chains/demo_full.py'\n"
        "transfers = dict(voc=None, coco=None, cityscapes=None)",
    )
    stages = {stage.transfer: stage for stage in read_chain(mine).stages}
    assert stages["pretrain"].config == CONFIGS / "ascl/ascl_r18_demo.py"
    assert stages["linear"].config == REPO / linear
    write(elsewhere / linear, "checkpoint = None")
    stages = {stage.transfer: stage for stage in read_chain("chain.py").stages}
    assert stages["linear"].config == Path(linear)
    chain = read_chain("chains/demo.py")
    assert (chain.file, len(chain.stages)) == (CONFIGS / "chains" / "demo.py", 5)
    mine.write_text(mine.read_text() + "\nsources = dict(a='co2/co2_r18_demo.py')")
    with pytest.raises(ConfigError, match=r"sources\['a'\]: there is no file co2/"):
        read_chain(mine)  # a checkpoint is no config


def test_an_installation_without_configs_says_so(
    elsewhere: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    write(elsewhere / "site" / "configs" / "other.py", "")  # of another package
    monkeypatch.setattr(packaged, "PACKAGE", elsewhere / "site" / "mmssl_ext")
    with pytest.raises(FileNotFoundError, match=r"\.mim is missing\. Install"):
        packaged.root()
    monkeypatch.setattr(sys, "argv", ["mmssl-ext", "train", DEMO])
    assert cli.main() == 2
    assert "Install mmssl_ext again" in capsys.readouterr().err


# The command


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "ignore", *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(REPO)},
        timeout=280,
        check=False,
    )


IMPORTED = """
import sys
from mmssl_ext.run import cli
assert cli.main() == 0
print({name.split(".")[0] for name in sys.modules}, file=sys.stderr)
"""


def test_help_and_version_import_nothing_slow() -> None:
    for option, words in [("--help", "usage: mmssl-ext"), ("--version", __version__)]:
        done = run("-c", IMPORTED, option)
        assert done.returncode == 0 and words in done.stdout
        assert "'mmssl_ext'" in done.stderr
        assert not any(f"'{x}'" in done.stderr for x in ("torch", "mmengine", "numpy"))
    for name in cli.COMMANDS:
        assert f"\n  {name:<14} " in cli.usage()


def test_names_that_stand_twice_so_that_torch_is_not_needed() -> None:
    assert set(inspect.signature(Runner).parameters) <= RUNNER_KEYS
    tool = runpy.run_path(str(REPO / "tools" / "export_backbone.py"))
    assert tool["LAYOUTS"] == tuple(export.LAYOUTS)
    tool = runpy.run_path(str(REPO / "tools" / "make_proposals.py"))
    assert tool["METHODS"] == tuple(find.METHODS)


SLIPS = {
    "train gone.py": "Config gone.py does not exist",
    f"train {DEMO} --work-dirr x": "unrecognized arguments",
    f"train {DEMO} --cfg-options modle.x=1": "Did you mean model?",
    "test gone.py x.pth": "Config gone.py does not exist",
    f"visualize {DEMO} x.pth --images . --out x --kind pcaa": "invalid choice",
    f"browse {DEMO} --out x.png --cfg-options epohcs=1": "the config has no 'epohcs'",
    "chain gone.py": "Config gone.py does not exist",
    "export x.pth --layouts timmm": "invalid choice",
    "make-shards photos": "OUT is missing",
    "make-proposals photos x.json --method edges": "invalid choice",
    "embed x.pth photos": "the following arguments are required: --out",
    "duplicates photos --encoder keys": "invalid choice",
}
LOADED = """
import atexit, sys
from mmssl_ext.run import cli
atexit.register(lambda: print("with" if "torch" in sys.modules else "without", "torch"))
sys.exit(cli.main())
"""


def spent(*arguments: str) -> tuple[float, subprocess.CompletedProcess]:
    """Seconds of processor that a run of Python takes, and what it said."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = run(*arguments)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    user = after.ru_utime - before.ru_utime
    return user + after.ru_stime - before.ru_stime, done


@pytest.fixture(scope="module")
def moment() -> float:
    """0.8 seconds; on a slower processor half of what importing torch alone takes."""
    return max(0.8, 0.5 * min(spent("-c", "import torch")[0] for _ in range(2)))


@pytest.mark.alone
@pytest.mark.parametrize("command", [*(f"{x} --help" for x in cli.COMMANDS), *SLIPS])
def test_help_and_slips_take_a_moment_and_no_torch(command: str, moment: float) -> None:
    seconds = []
    while len(seconds) < 3 and min(seconds, default=9.0) > moment:
        took, done = spent("-c", LOADED, *command.split())
        seconds.append(took)
    assert done.returncode == (2 if command in SLIPS else 0), done.stderr
    assert "without torch" in done.stdout
    usage = f"usage: mmssl-ext {command.split()[0]}"
    assert SLIPS.get(command, usage) in done.stderr + done.stdout
    assert min(seconds) <= moment


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["trian"], "no command 'trian'. Did you mean 'train'?"),
        (["check_env"], "Did you mean 'check-env'?"),
        (["xyzzy"], "no command 'xyzzy'. mmssl-ext --help"),
    ],
)
def test_unknown_command(
    given: list[str],
    words: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    monkeypatch.setattr(sys, "argv", ["mmssl-ext", *given])
    assert cli.main() == 2
    assert words in capsys.readouterr().err


def test_no_command_shows_the_list(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(sys, "argv", ["mmssl-ext"])
    assert cli.main() == 2
    assert "demo-data" in capsys.readouterr().out


TOOL = """
import argparse, sys
def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("code", type=int)
    code = parser.parse_args().code
    print(parser.prog)
    if code == 6:
        sys.exit(6)
    return code
"""


@pytest.mark.parametrize("code", [0, 1, 2, 3, 4, 5, 6, 75])
def test_the_exit_code_is_the_tools(
    code: int, elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(elsewhere / "tools" / "train.py", TOOL)
    start = "import sys; from mmssl_ext.run import cli; from pathlib import Path; "
    start += "cli.root = Path.cwd; sys.exit(cli.main())"
    done = run("-c", start, "train", str(code))
    assert (done.returncode, done.stdout) == (code, "mmssl-ext train\n"), done.stderr


def test_torchrun_starts_it() -> None:
    """The sentence is the tool's, and torchrun is told its exit code."""
    torchrun = ("-m", "torch.distributed.run", "--nproc_per_node=1", "--master_port=0")
    done = run(*torchrun, "-m", "mmssl_ext", "train", "gone.py")
    assert done.returncode == 1
    assert "Error: Config gone.py does not exist" in done.stderr
    assert "exitcode  : 2" in done.stderr
