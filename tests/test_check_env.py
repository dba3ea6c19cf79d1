import copy
import importlib
import json
import subprocess
import sys

import pytest

from mmssl_ext.run import check_env, env_probe
from mmssl_ext.run.check_env import diagnose, main, render

MISMATCH = "operator torchvision::nms does not exist"


def package(version=None, error=None, missing=False, **distributions):
    return {
        "version": version,
        "distributions": {k.replace("_", "-"): v for k, v in distributions.items()},
        "missing": missing,
        "error": error,
    }


def absent(name):
    error = f"ModuleNotFoundError: No module named {name!r}"
    return package(error=error, missing=True)


GOOD = {
    "python": "3.11.7",
    "os": "Linux",
    "cpu_cores": 8,
    "shm_gib": 16.0,
    "nvidia_driver": True,
    "packages": {
        "torch": package("2.11.0+cu130", torch="2.11.0"),
        "torchvision": package("0.26.0+cu130", torchvision="0.26.0"),
        "mmengine": package("0.10.12", onedl_mmengine="0.10.12"),
        "mmcv": package("2.3.6", onedl_mmcv="2.3.6"),
        "mmpretrain": package("1.3.6", onedl_mmpretrain="1.3.6"),
        "numpy": package("2.4.6", numpy="2.4.6"),
        "cv2": package("4.12.0", opencv_python="4.12.0"),
        "PIL": package("12.0", pillow="12.0"),
        "matplotlib": package("3.10", matplotlib="3.10"),
        "rich": package("14.0", rich="14.0"),
        "safetensors": package("0.5", safetensors="0.5"),
        "filelock": package("3.30", filelock="3.30"),
        "jinja2": package("3.1.6", jinja2="3.1.6"),
        **{name: absent(name) for name in check_env.OPTIONAL},
    },
    "torch": {
        "cuda": "13.0",
        "rocm": None,
        "cudnn": 91900,
        "nccl": "2.28.9",
        "archs": ["sm_75", "sm_80", "sm_90", "compute_90"],
        "gpus": [
            {"name": "H100", "capability": "9.0", "memory_gib": 79.2, "covered": True}
        ],
    },
    "torchvision_ops": {"error": None},
    "mmcv_ops": {"compiled": False, "cuda": None, "error": None},
}


@pytest.fixture
def facts():
    return copy.deepcopy(GOOD)


def only(problems):
    (problem,) = problems
    return problem


def test_sound_environment(facts):
    assert diagnose(facts) == []
    text = render(facts, [])
    assert text.endswith("Everything needed for pretraining is there.")
    assert "[onedl-mmcv 2.3.6]" in text
    assert "optional: detection transfer" in text
    assert "H100, 79.2 GiB, compute capability 9.0: covered" in text


def test_missing_mmcv_is_named_once_although_others_fail_with_it(facts):
    packages = facts["packages"]
    packages["mmcv"] = absent("mmcv")
    packages["mmpretrain"] = package(
        error=packages["mmcv"]["error"], onedl_mmpretrain="1.3.6"
    )
    facts["mmcv_ops"] = None
    problem = only(diagnose(facts))
    assert problem.text == "mmcv is not installed."
    assert problem.blocks
    assert problem.command == 'pip install "onedl-mmcv>=2.3.6"'


def test_two_distributions_of_one_name(facts):
    facts["packages"]["mmengine"]["distributions"]["mmengine"] = "0.10.7"
    problem = only(diagnose(facts))
    assert "onedl-mmengine and mmengine" in problem.text
    assert problem.blocks
    assert problem.command == (
        "pip uninstall -y onedl-mmengine mmengine && pip install onedl-mmengine"
    )
    text = render(facts, [problem])
    assert "1. 2 distributions provide" in text
    assert "Everything needed" not in text


def test_torch_mismatch_names_the_right_torchvision(facts):
    packages = facts["packages"]
    packages["torch"] = package("2.11.0+cpu", torch="2.11.0+cpu")
    packages["torchvision"] = package("0.27.0", torchvision="0.27.0")
    facts.update(nvidia_driver=False)
    facts["torchvision_ops"] = {"error": f"RuntimeError: {MISMATCH}"}
    facts["torch"].update(cuda=None, cudnn=None, nccl=None, archs=[], gpus=[])
    problem = only(diagnose(facts))
    assert "does not fit torch 2.11.0+cpu" in problem.text
    assert problem.blocks
    assert '"torchvision==0.26.*"' in problem.command
    assert problem.command.endswith("--index-url https://download.pytorch.org/whl/cpu")


def test_uncovered_gpu_blocks(facts):
    facts["torch"]["gpus"] = [
        {"name": "V100", "capability": "7.0", "memory_gib": 32, "covered": False}
    ] * 2
    problem = only(diagnose(facts))
    assert "no code for the V100 (compute capability 7.0)" in problem.text
    assert problem.blocks
    assert "whl/cu126" in problem.command


@pytest.mark.parametrize(
    ("name", "distribution", "version", "words"),
    [
        ("mmengine", "onedl-mmengine", "0.10.11", "broken release"),
        ("mmcv", "onedl-mmcv", "2.3.5", "2.3.5 is too old"),
        ("torch", "torch", "2.3.1", "2.3.1 is too old"),
        ("mmpretrain", "onedl-mmpretrain", "1.3", "1.3 is too old"),
    ],
)
def test_version_too_low(facts, name, distribution, version, words):
    entry = facts["packages"][name]
    entry.update(version=version, distributions={distribution: version})
    problem = only(diagnose(facts))
    assert words in problem.text
    assert problem.blocks
    assert "--upgrade" in problem.command
    assert ">=" in problem.command


def test_upstream_family_is_accepted_but_resume_is_warned_about(facts):
    for name in ("mmengine", "mmcv", "mmpretrain"):
        entry = facts["packages"][name]
        entry.update(version="0.10.7", distributions={name: "0.10.7"})
    problem = only(diagnose(facts))
    assert "do not resume" in problem.text
    assert not problem.blocks
    facts["packages"]["torch"].update(version="2.5.1", distributions={"torch": "2.5.1"})
    assert diagnose(facts) == []


def test_hints_do_not_block(facts, monkeypatch, capsys):
    facts["shm_gib"] = 0.0625
    facts["torch"].update(cuda=None, gpus=[])
    facts["packages"]["mmdet"] = package(error="ImportError: x", onedl_mmdetection="3")
    facts["mmcv_ops"] = {"compiled": True, "cuda": "12.8", "error": "on cuda: no image"}
    problems = diagnose(facts)
    assert len(problems) == 4
    assert not any(problem.blocks for problem in problems)
    text = render(facts, problems)
    assert "4. " in text
    assert text.endswith("Everything needed for pretraining is there.")
    monkeypatch.setattr(check_env, "collect", lambda names: facts)
    assert main([]) == 0 and "4. " in capsys.readouterr().out
    assert main(["--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["can_pretrain"] is True and len(answer["problems"]) == 4


@pytest.mark.parametrize(
    ("archs", "capability", "expected"),
    [
        (["sm_86"], (8, 9), True),  # a later minor of the same major
        (["sm_89"], (8, 6), False),
        (["sm_90"], (8, 0), False),
        (["sm_90", "compute_90"], (12, 0), True),  # portable code
        (["sm_90a"], (9, 0), True),
        (["sm_100a"], (10, 3), False),  # 'a' code does not move on
        (["sm_100f"], (10, 3), True),
        (["sm_120"], (12, 0), True),
        ([], (9, 0), False),
    ],
)
def test_which_gpus_an_architecture_list_covers(archs, capability, expected):
    assert env_probe.covers(archs, capability) is expected


def test_this_machine(capsys):
    """The environment that runs the tests can pretrain."""
    assert main(["--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["can_pretrain"] is True
    import torch

    assert answer["packages"]["torch"]["version"] == str(torch.__version__)
    assert answer["packages"]["mmcv"]["distributions"]
    assert answer["torchvision_ops"] == {"error": None}
    assert render(answer, []).count("\n") > 15


def test_broken_imports_are_reported_not_raised(monkeypatch, capsys):
    real = importlib.import_module

    def fake(name, *args):
        if name == "torch":
            raise ModuleNotFoundError("No module named 'torch'", name="torch")
        if name in ("torchvision", "mmcv", "mmengine", "mmpretrain"):
            raise ModuleNotFoundError("No module named 'torch'", name="torch")
        if name == "cv2":
            raise ImportError("libGL.so.1: cannot open shared object file")
        return real(name, *args)

    monkeypatch.setattr(env_probe.importlib, "import_module", fake)
    providers = {
        "mmcv": ["onedl-mmcv", "onedl-mmcv"],
        "mmengine": ["onedl-mmengine"],
        "mmpretrain": ["onedl-mmpretrain", "mmpretrain"],
        "torchvision": ["torchvision"],
        "cv2": ["opencv-python"],
        "numpy": ["numpy"],
    }
    metadata = env_probe.importlib.metadata
    monkeypatch.setattr(metadata, "packages_distributions", lambda: providers)
    monkeypatch.setattr(metadata, "version", lambda name: "9.9")
    assert main([]) == 1
    out = capsys.readouterr().out
    wrong = out[out.index("What is wrong") :]
    assert "1. torch is not installed." in wrong
    assert "cannot be imported (ImportError: libGL" in wrong
    assert (
        "pip uninstall -y opencv-python && pip install opencv-python-headless" in wrong
    )
    assert "provide the import name mmpretrain" in wrong
    assert "mmcv" not in wrong
    assert "torchvision does not fit" not in wrong
    assert check_env.main(["--json"]) == 1
    assert json.loads(capsys.readouterr().out)["can_pretrain"] is False


def test_starts_without_any_package():
    """``-S`` hides site-packages; the tool must start and say what is missing."""
    code = "import sys; from mmssl_ext.run.check_env import main; sys.exit(main([]))"
    done = subprocess.run(
        [sys.executable, "-S", "-c", code], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1, done.stderr
    assert "torch is not installed." in done.stdout
