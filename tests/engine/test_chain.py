"""Chains of stages that are real processes, but train nothing and take no time."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mmssl_ext.chain.results import read_records
from mmssl_ext.chain.run import ChainRunner
from mmssl_ext.chain.spec import read_chain
from mmssl_ext.engine.resilience.lock import Lock
from mmssl_ext.engine.resilience.processes import is_alive
from mmssl_ext.errors import ConfigError, UserError
from mmssl_ext.files import sha256
from tests.harness import REPO, config, loader, write_images
from tests.warm import Command, client, python
from tests.warm.commands import address

# Stands for tools/train.py: "trains" by writing its arguments and a result.
TRAIN = """
import json, os, pathlib, runpy, sys, time
cfg = runpy.run_path(sys.argv[1])
folder = pathlib.Path(sys.argv[3])
with open(folder / "calls.txt", "a") as file:
    file.write(" ".join(sys.argv[4:]) + ".")
model = cfg["model"]
(folder / "seen.json").write_text(json.dumps([model, repr(model)]))
if model["fails"] in ("always", folder.name):
    (folder / "iter_1.pth").write_text("half")
    print("Traceback\\nRuntimeError: out of paper")
    sys.exit(1)
if model["fails"] == "meets":
    (folder / "here").write_text(os.environ["OMP_NUM_THREADS"])
    while len(list(folder.parent.glob("*/here"))) < 2:
        time.sleep(0.05)
if model["fails"] == "hangs":
    time.sleep(60)
if model["fails"] in ("saves", "is told") and "--resume" not in sys.argv:
    import signal
    def save(number, _):
        time.sleep(0.4)
        (folder / "iter_1.pth").write_text(f"saved on {number}")
        sys.exit(75)
    signal.signal(signal.SIGTERM, save)
    (folder / "waits").write_text("")
    if model["fails"] == "is told":
        os.kill(os.getpid(), signal.SIGTERM)
    for _ in range(600):  # a signal just before one long sleep would be missed
        time.sleep(0.1)
(folder / "iter_2.pth").write_text(f"weights {model['score']}")
found = {"AP50": 60.5, "zAP": model["score"] + cfg["randomness"]["seed"]}
metrics = {name: found[name] for name in cfg["metrics"]}
(folder / "result.json").write_text(json.dumps({
    "metrics": metrics, "headline": next(iter(metrics)), "seconds": 2, "memory_mb": 3,
    "seed": cfg["randomness"]["seed"], "checkpoint": str(folder / "iter_2.pth"),
    "versions": {"torch": "2.x"}, "device": "none"}))
"""
CONFIG = """
checkpoint = None
score = 40
fails = ""
pair = ()
model = dict(type="Toy", checkpoint=checkpoint, score=score, fails=fails, pair=pair)
randomness = dict(seed=0)
default_scope = "mmengine"
metrics = {"zAP": 1, "AP50": 2}
"""
CHAIN = """
pretrain = dict(config="toy.py", options=dict(score=70))
sources = {"random": None, "pretrained": "pretrain"}
transfers = dict(
    voc=dict(config="toy.py", title="VOC detection"),
    city=dict(config="toy.py", options={"pair": (1, "a b"), "model.type": "Other"}),
)
"""


# tools/chain.py with other tools for its stages
CHAIN_TOOL = """
import runpy, sys
tool = runpy.run_path({chain!r})
tool["main"].__globals__["TOOLS"] = __import__("pathlib").Path({tools!r})
sys.exit(tool["main"]())
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tools").mkdir()
    (tmp_path / "tools" / "train.py").write_text(TRAIN)
    (tmp_path / "toy.py").write_text(CONFIG)
    (tmp_path / "small.py").write_text(CHAIN)
    return tmp_path


def voc_fails(how):
    options = f'"toy.py", options={{"fails": "{how}"}}, title'
    return CHAIN.replace('"toy.py", title', options)


def chain_tool(folder, fails, *options):
    """The tool itself, with the folder of fake tools."""
    (folder / "small.py").write_text(voc_fails(fails))
    chain = str(REPO / "tools" / "chain.py")
    code = CHAIN_TOOL.format(chain=chain, tools=str(folder / "tools"))
    return Command("-c", code, "small.py", "--work-dir", "wd", *options, cwd=folder)


def wait_for_files(process, *paths):
    end = time.monotonic() + 60
    while not all(path.exists() for path in paths):
        assert time.monotonic() < end, process.text
        time.sleep(0.02)


def run(folder, text=None, only=(), jobs=1, page=None, **options):
    if text is not None:
        (folder / "small.py").write_text(text)
    chain = read_chain("small.py")
    runner = ChainRunner(chain, "wd", folder / "tools", jobs=jobs, page=page)
    return runner.run(chain.select(list(only)), **options)


def calls(folder):
    """How often each stage was started, with '--resume' where it was resumed."""
    return {
        path.parent.name: path.read_text() for path in folder.glob("wd/*/calls.txt")
    }


def seen(folder, stage):
    return json.loads((folder / "wd" / stage / "seen.json").read_text())


def rows(folder):
    with (folder / "wd" / "results.csv").open() as file:
        return {row["stage"]: row for row in csv.DictReader(file)}


def test_runs_every_combination_once(folder, capsys):
    assert run(folder) == 0
    out = capsys.readouterr().out
    names = ["pretrain", "voc-random-seed0", "voc-pretrained-seed0"]
    names += ["city-random-seed0", "city-pretrained-seed0"]
    assert calls(folder) == dict.fromkeys(names, ".")
    lines = [line.split() for line in out.splitlines()]
    assert [x[1] for x in lines if x[0].startswith("[")] == [f"{n}:" for n in names]
    assert [x[1] for x in lines if x[0][2] == ":"] == names
    assert "[2/5] voc-random-seed0: zAP 40.00, " in out
    assert seen(folder, "voc-random-seed0")[0]["checkpoint"] is None
    given = folder / "wd" / "pretrain" / "iter_2.pth"
    assert seen(folder, "voc-pretrained-seed0")[0]["checkpoint"] == str(given)
    assert "(1, 'a b')" in seen(folder, "city-random-seed0")[1]  # a tuple still
    assert seen(folder, "city-random-seed0")[0]["type"] == "Other"

    found = rows(folder)
    assert list(found) == names
    row = found["voc-pretrained-seed0"]
    assert (row["transfer"], row["source"], row["seed"]) == ("voc", "pretrained", "0")
    assert (row["metric"], row["value"], row["AP50"]) == ("zAP", "40", "60.5")
    assert row["source_sha256"] == found["pretrain"]["output_sha256"] == sha256(given)
    assert len(row["config_sha256"]) == 64
    assert found["voc-random-seed0"]["source_sha256"] == ""
    assert row["torch_version"] == "2.x"
    assert row["status"] == "finished"

    assert run(folder) == 0  # nothing is left to do
    assert calls(folder) == dict.fromkeys(names, ".")
    assert "0 of 5 stages to run, 5 finished before" in capsys.readouterr().out


def test_stages_at_once_wait_for_the_pretraining_only(folder, monkeypatch, capsys):
    """Each transfer waits for another one to run beside it."""
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    assert run(folder, CHAIN + 'options = dict(fails="meets")\n', jobs=2) == 0
    out = capsys.readouterr().out
    assert (out.count(" starts\n"), out.count("/5] ")) == (5, 5)
    assert {row["status"] for row in rows(folder).values()} == {"finished"}
    pretrained = rows(folder)["pretrain"]["output_sha256"]
    assert rows(folder)["voc-pretrained-seed0"]["source_sha256"] == pretrained
    assert (folder / "wd" / "voc-random-seed0" / "here").read_text() == "3"


def test_the_page_is_renewed_after_every_stage(folder, capsys):
    shown = []

    def page(work_dir):
        states = [record.status for record in read_records(work_dir)]
        shown.append(states.count("finished"))
        if len(shown) == 4:
            raise OSError("no room")
        return work_dir / "page.html"

    assert run(folder, page=page) == 0
    assert shown == [0, 1, 2, 3, 4, 5]
    out = capsys.readouterr().out
    assert out.index("after every stage: wd/page.html") < out.index("pretrain starts")
    assert out.count("The page could not be renewed: no room") == 1
    assert run(folder, page=page) == 0 and len(shown) == 6  # nothing to run


def test_stages_at_once_have_gpus_of_their_own(folder, monkeypatch):
    chain = read_chain(folder / "small.py")
    runner = ChainRunner(chain, folder / "wd", folder / "tools", gpus=2, jobs=2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,6,7")
    found = [runner.processes.environment(slot) for slot in (0, 1)]
    assert [x["CUDA_VISIBLE_DEVICES"] for x in found] == ["4,5", "6,7"]


def test_a_comment_changes_nothing_but_a_value_does(folder, capsys):
    run(folder, only=["voc", "pretrain"])
    (folder / "toy.py").write_text(CONFIG.replace("score = 40", "# best\nscore = 40"))
    run(folder, only=["voc"])
    assert calls(folder)["voc-random-seed0"] == "."
    (folder / "toy.py").write_text(CONFIG.replace("score = 40", "score = 41"))
    with pytest.raises(UserError) as caught:
        run(folder)
    text = str(caught.value)
    assert "voc-random-seed0: score: 40 -> 41; model.score: 40 -> 41\n" in text
    assert "pretrain:" not in text  # its score is an option
    assert "--rerun" in text
    assert "city" not in " ".join(calls(folder))  # nothing at all was started

    assert run(folder, rerun=True) == 0
    old = folder / "wd" / "old" / "voc-random-seed0.1"
    assert json.loads((old / "result.json").read_text())["metrics"]["zAP"] == 40
    assert rows(folder)["voc-random-seed0"]["zAP"] == "41"
    assert calls(folder)["pretrain"] == "."


def test_a_new_pretraining_renews_what_starts_from_it(folder):
    run(folder)
    changed = CHAIN.replace("score=70", "score=71")
    with pytest.raises(UserError, match="voc-pretrained-seed0: the pretraining that"):
        run(folder, changed)
    assert run(folder, changed, rerun=True) == 0
    aside = {path.name for path in (folder / "wd" / "old").iterdir()}
    renewed = ("pretrain", "voc-pretrained-seed0", "city-pretrained-seed0")
    assert aside == {f"{name}.1" for name in renewed}
    found = rows(folder)
    digest = found["pretrain"]["output_sha256"]
    assert found["voc-pretrained-seed0"]["source_sha256"] == digest
    # A checkpoint of a finished stage that was replaced is noticed without any option.
    (folder / "wd" / "pretrain" / "iter_2.pth").write_text("others")
    with pytest.raises(UserError, match=r"checkpoint: SHA-256 \w{8} -> "):
        run(folder)


def test_a_failed_stage_leaves_the_others_and_goes_on_later(folder, capsys):
    text = CHAIN + 'options = dict(fails="voc-random-seed0")\n'
    assert run(folder, text) == 1
    out = capsys.readouterr().out
    assert (
        "  voc-random-seed0: RuntimeError: out of paper (log: "
        f"{Path('wd', 'voc-random-seed0', 'chain.log')})\n"
    ) in out
    found = rows(folder)
    assert found["voc-random-seed0"]["status"] == "failed"
    assert found["voc-random-seed0"]["reason"] == "RuntimeError: out of paper"
    assert [row["status"] for row in found.values()].count("finished") == 4
    run(folder)
    assert calls(folder)["voc-random-seed0"] == ".--resume."
    assert calls(folder)["voc-pretrained-seed0"] == "."


def test_a_mended_config_just_runs_where_no_training_is_lost(folder):
    broken = CHAIN + 'options = dict(fails="always")\n'
    name = "voc-random-seed0"
    assert run(folder, broken, only=[name]) == 1
    with pytest.raises(UserError, match="voc-random-seed0: fails: 'always' -> ''"):
        run(folder, CHAIN, only=[name])
    (folder / "wd" / name / "iter_1.pth").unlink()  # else it could be resumed
    assert run(folder, CHAIN, only=[name]) == 0
    assert (folder / "wd" / "old" / f"{name}.1" / "chain.log").is_file()
    assert calls(folder)[name] == "."


def test_failed_pretraining_spares_random_initialisation_only(folder, capsys):
    text = CHAIN.replace("score=70", 'fails="always"')
    assert run(folder, text) == 1
    states = {name: row["status"] for name, row in rows(folder).items()}
    assert states == {
        "pretrain": "failed",
        "voc-random-seed0": "finished",
        "voc-pretrained-seed0": "skipped",
        "city-random-seed0": "finished",
        "city-pretrained-seed0": "skipped",
    }
    assert "voc-pretrained-seed0: not run, because pretrain failed" in (
        capsys.readouterr().out
    )
    assert run(folder, keep_going=False) == 1
    with pytest.raises(UserError, match="Run the stage pretrain first"):
        run(folder, only=["voc-pretrained-seed0"])


def test_a_stage_whose_chain_was_killed_counts_by_its_result(folder):
    run(folder, only=["pretrain"])
    path = folder / "wd" / "pretrain" / "stage.json"
    state = json.loads(path.read_text())
    for key in ("output", "output_sha256", "seconds"):
        del state[key]
    path.write_text(json.dumps(state | {"status": "started"}))
    assert run(folder, only=["pretrain"]) == 0
    assert calls(folder)["pretrain"] == "."
    assert json.loads(path.read_text())["output_sha256"]


MISTAKES = [  # what takes whose place in the chain, and what is said of it
    ("pretrain = ", "pretrian = ", "a chain has no 'pretrian'. Did you mean"),
    ('toy.py", title', 'tyo.py", title', "there is no file tyo.py"),
    ("score=70", "scroe=70", "Stage pretrain: --cfg-options scroe: the config"),
    ('"pretrain"}', '"gone.pth"}', "sources['pretrained']: there is no file gone"),
    ('"pretrain"}', '"tools"}', "tools is a folder; name a file in it."),
    ("title=", "titel=", "transfers.voc: 'titel' is none of"),
    ("voc=", "**{'a b': 1}, voc=", "use letters, digits"),
    ('"random": None', '"random": 3', "must be None, 'pretrain', 'start' or"),
    ("pretrain = ", "note = 3\npretrain = ", "note must be a text, not 3."),
    ("score=70", "checkpoint=object", "must be a plain Python value"),
    ("pair", "checkpoint", "the chain sets the option checkpoint"),
    ("pretrain = ", "seeds = (1, 1)\npretrain = ", "seeds must be different"),
    ("pretrain = ", "seeds = (0.5,)\npretrain = ", "seeds must be different"),
    ("pretrain = ", "seeds = ([1],)\npretrain = ", "seeds must be different"),
    ('"model.type"', '"modle.type"', "Stage city-random-seed0: --cfg-options modl"),
]


@pytest.mark.parametrize(("old", "new", "sentence"), MISTAKES)
def test_mistakes_are_found_before_anything_starts(folder, old, new, sentence):
    assert old in CHAIN
    with pytest.raises(ConfigError) as caught:
        run(folder, CHAIN.replace(old, new, 1))
    assert sentence in str(caught.value)
    assert not calls(folder)


def test_configs_are_checked_before_anything_starts(folder):
    cfg = config(folder / "images", folder)
    cfg.model.momentun = 0.9
    (folder / "real.py").write_text("checkpoint = None\n" + cfg.pretty_text)
    text = CHAIN.replace('config="toy.py", title', 'config="real.py", title')
    with pytest.raises(ConfigError, match=r"Stage voc-random-seed0: model\.momentun"):
        run(folder, text)
    assert not calls(folder)


@pytest.mark.parametrize("kind", ["knn_r50_imagenet", "svm_r50_voc07"])
@pytest.mark.parametrize("gone", ["test_dataloader", "test_cfg.train_dataloader"])
def test_images_of_transfers_are_looked_for_before_anything_starts(folder, kind, gone):
    """Those of this package, which no toolbox's checks know."""
    options = {"data_root": "data"}
    if gone != "test_dataloader":
        write_images(folder / "images" / "a")
        options["test_dataloader.dataset"] = {
            "_delete_": True,
            "type": "ImageFolder",
            "root": "images",
        }
    config = str(REPO / f"configs/transfer/classification/{kind}.py")
    chain = CHAIN.replace("voc=dict(", f"voc=dict(options={options}, ")
    said = rf"{gone}\.dataset: .* 'data/.* does not exist\. Correct `root`"
    with pytest.raises(ConfigError, match=rf"^Stage voc-\w+-seed0: {said}"):
        run(
            folder,
            chain.replace('config="toy.py", title="V', f'config="{config}", title="V'),
        )
    assert not calls(folder)


def test_names_of_transfers_and_sources_select_stages(folder):
    chain = read_chain("small.py")
    names = [stage.name for stage in chain.select(["random"])]
    assert names == ["voc-random-seed0", "city-random-seed0"]
    assert [s.name for s in chain.select(["pretrain"])] == ["pretrain"]
    with pytest.raises(ConfigError, match=r"no stage 'vco-r.*'\. Did you mean voc-r"):
        chain.select(["vco-random-seed0"])


def test_seeds_and_a_checkpoint_file_as_source(folder):
    (folder / "given.pth").write_text("x")
    text = 'sources = {"given": "given.pth"}\nseeds = (0, 5)\n'
    text += 'transfers = dict(voc=dict(config="toy.py"))\n'
    assert run(folder, text) == 0
    found = rows(folder)
    assert {name: row["zAP"] for name, row in found.items()} == {
        "voc-given-seed0": "40",
        "voc-given-seed5": "45",
    }
    assert found["voc-given-seed5"]["source_sha256"] == sha256("given.pth")
    (folder / "moved").mkdir()
    (folder / "given.pth").rename(folder / "moved" / "given.pth")
    run(folder, text.replace("given.pth", "moved/given.pth"))  # the content counts
    assert calls(folder)["voc-given-seed0"] == "."


def test_two_chains_in_one_folder(folder):
    used = pytest.raises(UserError, match=f"wd is in use by process {os.getpid()} on ")
    with Lock(folder / "wd" / "chain.lock", "x").held(), used:
        run(folder)
    assert not calls(folder)


def test_a_stage_that_outlives_its_chain_holds_its_lock(folder):
    process = chain_tool(folder, "hangs", "--only", "voc-random-seed0")
    lock = folder / "wd" / "locks" / "voc-random-seed0"
    wait_for_files(process, folder / "wd" / "voc-random-seed0" / "seen.json")
    process.send_signal(signal.SIGKILL)
    process.wait(60)
    child = json.loads(lock.read_text())["pid"]
    used = pytest.raises(UserError, match=f"It is in use by process {child} on ")
    try:
        with used, Lock(lock, "It").held():
            pass
    finally:
        os.kill(child, signal.SIGKILL)
    while is_alive(child):
        time.sleep(0.01)
    for path in (lock, folder / "wd" / "chain.lock"):
        with Lock(path, "It").held():  # gone with it, and so is the chain's
            pass


def test_a_run_that_no_chain_has_started_is_kept(folder, capsys):
    mine = folder / "wd" / "pretrain"
    mine.mkdir(parents=True)
    (mine / "epoch_7.pth").write_text("mine")
    with pytest.raises(UserError, match=r"its folder holds a run \(epoch_7\.pth"):
        run(folder)
    assert (mine / "epoch_7.pth").read_text() == "mine"
    assert run(folder, rerun=True) == 0
    assert (folder / "wd" / "old" / "pretrain.1" / "epoch_7.pth").read_text() == "mine"
    assert calls(folder)["pretrain"] == "."


@pytest.mark.fault("R8")
@pytest.mark.parametrize(
    ("number", "expected"),
    [(signal.SIGTERM, 75), (signal.SIGUSR1, 75), (signal.SIGINT, 130)],
)
def test_a_signal_lets_the_stages_save(folder, number, expected):
    """Two at once; what comes after them is not started."""
    process = chain_tool(folder, "saves", "--jobs", "2", "--only", "voc", "pretrain")
    names = ["voc-pretrained-seed0", "voc-random-seed0"]
    wait_for_files(process, *(folder / "wd" / name / "waits" for name in names))
    process.send_signal(number)
    time.sleep(0.1)
    process.send_signal(number)  # once more, as launchers do
    code, out = process.wait(60), process.text
    assert code == expected, out
    assert f"Stopped in {', '.join(names)}; the same command goes on" in out
    assert "FAILED" not in out and "Traceback" not in out
    for name in names:
        assert (folder / "wd" / name / "iter_1.pth").read_text() == "saved on 15"
        assert rows(folder)[name]["status"] == "interrupted"
    assert not [*(folder / "wd" / "locks").iterdir()]
    assert not (folder / "wd" / "chain.lock").exists()
    assert "Report:" not in out  # no time for it; the page is that of the last stage
    assert "refresh" in (folder / "wd" / "chain.html").read_text()
    assert run(folder, only=["voc"]) == 0
    assert {n: calls(folder)[n] for n in names} == dict.fromkeys(names, ".--resume.")


@pytest.mark.fault("R8")
def test_a_stage_that_was_told_to_stop_stops_the_chain(folder, capsys):
    text = voc_fails("is told")
    assert run(folder, text) == 75
    assert set(calls(folder)) == {"pretrain", "voc-random-seed0"}
    assert rows(folder)["voc-random-seed0"]["status"] == "interrupted"
    out = capsys.readouterr().out
    assert "Stopped in voc-random-seed0; the same command goes on from here." in out
    assert "FAILED" not in out
    # As with `checkpoint.out_dir`: only the pointer is in the stage's folder.
    stage = folder / "wd" / "voc-random-seed0"
    (folder / "out").mkdir()
    saved = (stage / "iter_1.pth").rename(folder / "out" / "iter_1.pth")
    (stage / "last_checkpoint").write_text(str(saved))
    assert run(folder, text) == 75  # the other one is told, too
    assert run(folder, text) == 0
    assert calls(folder)["voc-random-seed0"] == ".--resume."


SBATCH = """
n=$(($(wc -l < jobs.txt 2>/dev/null || echo 0) + 1))
printf "%s\\x1f" "$@" >> jobs.txt; echo >> jobs.txt
echo $((100 + n))
"""


def test_slurm_script_submits_the_stages_with_their_dependencies(folder):
    commands = {
        "sbatch": SBATCH,
        "srun": "exit 75",
        "scontrol": 'echo "$@" > requeued',
        "warm": f'exec {sys.executable} -I -S {client.__file__} python "$@"',
    }
    bin_ = folder / "bin"
    bin_.mkdir()
    for name, text in commands.items():
        (bin_ / name).write_text(f"#!/bin/bash\n{text}\n")
        (bin_ / name).chmod(0o755)
    env = os.environ | {
        "PATH": f"{bin_}:{os.environ['PATH']}",
        "PYTHON": str(bin_ / "warm"),
        "WARM_SERVER": address(),
        "WARM_RUN": "tests.warm.interpreter",
        "WORK_DIR": "wd x",
        "GPUS": "4",
    }

    def bash(*arguments, **variables):
        return subprocess.run(
            *(["bash", *arguments],),
            cwd=folder,
            env=env | variables,
            capture_output=True,
            text=True,
            timeout=120,
        )

    script = str(REPO / "tools" / "slurm_chain.sh")
    done = bash(script, "small.py", "gpu", "--time=9")
    assert done.returncode == 0, done.stdout + done.stderr
    lines = (folder / "jobs.txt").read_text().splitlines()
    jobs = [line.split("\x1f")[:-1] for line in lines]
    depends = {
        job[job.index("--job-name") + 1]: [
            part for part in job if part.startswith("--dependency=")
        ]
        for job in jobs
    }
    assert list(depends.items()) == [
        ("pretrain", []),
        ("voc-random-seed0", []),
        ("voc-pretrained-seed0", ["--dependency=afterok:101"]),
        ("city-random-seed0", []),
        ("city-pretrained-seed0", ["--dependency=afterok:101"]),
        ("report", ["--dependency=afterany:101:102:103:104:105"]),
    ]
    for job in jobs:
        assert "--time=9" in job
        assert job[job.index("--partition") + 1] == "gpu"
    assert "--gres=gpu:4" in jobs[2] and "--gres=gpu:4" not in jobs[5]
    assert "--requeue" in jobs[2] and "--signal=USR1@120" in jobs[2]
    command = jobs[2][-1]
    for part in ("--stage voc-pretrained-seed0", "--gpus 4", "wd\\ x"):
        assert part in command
    assert "--report" in jobs[5][-1]
    for restarts, requeued in (("3", True), ("100", False)):
        job = {"SLURM_JOB_ID": "7", "SLURM_CPUS_PER_TASK": "2"}
        ended = bash("-c", command, SLURM_RESTART_COUNT=restarts, **job)
        assert ended.returncode == 75
        assert (folder / "requeued").is_file() is requeued
        (folder / "requeued").unlink(missing_ok=True)


def test_more_than_one_gpu_goes_through_dist_train(folder):
    chain = read_chain("small.py")
    runner = ChainRunner(chain, "wd", folder / "tools", gpus=4)
    stage = chain.stages[0]
    command = runner.command(stage, Path("x.py"), resume=True)
    assert command[0] != "bash"  # nothing is trained, so there is nothing to share
    (folder / "toy.py").write_text(CONFIG + "train_cfg = dict(max_iters=1)\n")
    command = runner.command(stage, Path("x.py"), resume=True)
    assert command[:4] == ["bash", str(folder / "tools/dist_train.sh"), "x.py", "4"]
    assert command[4:] == ["--work-dir", str(Path("wd", "pretrain")), "--resume"]


@pytest.mark.slow
def test_a_chain_of_real_runs(tmp_path):
    """tools/chain.py, a real pretraining and real training from its checkpoint."""
    images = write_images(tmp_path / "images")
    both = {"bank_dataloader": loader(images), "query_dataloader": loader(images)}
    cfg = config(images, tmp_path, knn={"type": "KNNHook", "k": 3, **both})
    cfg.work_dir = None
    (tmp_path / "toy.py").write_text(
        "checkpoint = None\nload_from = checkpoint\n" + cfg.pretty_text
    )
    chain = 'pretrain = dict(config="toy.py")\n'
    chain += 'sources = dict(pretrained="pretrain")\n'
    chain += 'transfers = dict(again=dict(config="toy.py"))\n'
    (tmp_path / "real.py").write_text(chain)
    tool = REPO / "tools" / "chain.py"
    done = python("-W", "ignore", tool, "real.py", cwd=tmp_path, timeout=280)
    assert done.returncode == 0, done.stdout + done.stderr
    work_dir = tmp_path / "work_dirs" / "real"
    assert f"Report: {Path('work_dirs', 'real', 'chain.html')}" in done.stdout
    pretrain, pretrained = read_records(work_dir)
    assert pretrain.headline[0] == "knn/backbone_top1"
    written = work_dir / "pretrain" / "epoch_1.pth"
    assert pretrained.state["checkpoint"] == str(written)
    assert pretrained.state["checkpoint_sha256"] == sha256(written)
    log = "".join(p.read_text() for p in pretrained.folder.glob("*/*.log"))
    assert f"Load checkpoint from {written}" in log
    assert pretrained.result["iterations"] == 4
    assert pretrained.result["curve"]["epochs"] == [0, 1]
    assert pretrained.result["memory_mb"] > 100
