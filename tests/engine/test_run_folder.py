"""Whose folder it is: a run never takes the place of another one."""

import json
import re
import shutil
from pathlib import Path

import pytest
import torch

from mmssl_ext.engine.checkpoint.identity import check_free, claim
from mmssl_ext.engine.checkpoint.manifest import write_manifest
from mmssl_ext.engine.checkpoint.read import find_resumable, load_checkpoint_file
from mmssl_ext.engine.checkpoint.run_folder import RUN_FILE, find_run
from mmssl_ext.engine.hooks import PlainCheckpointHook
from mmssl_ext.engine.resilience.lock import Lock
from mmssl_ext.engine.resilience.processes import started_by, starter
from mmssl_ext.errors import ConfigError, UserError
from mmssl_ext.files import sha256
from mmssl_ext.run.launch import train
from mmssl_ext.run.work_dir import LOCK_FILE
from tests.harness import config, make_runner, toy_runner, write_images
from tests.slurm.support import SCRIPT
from tests.slurm.test_command import Fakes


@pytest.fixture(autouse=True)
def by_hand(monkeypatch):
    for name in ("SLURM_JOB_ID", "SLURM_RESTART_COUNT"):
        monkeypatch.delenv(name, raising=False)
    for name in ("TORCHELASTIC_RUN_ID", "TORCHELASTIC_RESTART_COUNT"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return write_images(tmp_path_factory.mktemp("images"), per_class=4)


@pytest.fixture(scope="module")
def first(images, tmp_path_factory):
    """A run of one epoch, two iterations."""
    work_dir = tmp_path_factory.mktemp("first") / "run"
    start(images, work_dir)
    return work_dir


@pytest.fixture
def run(first, tmp_path):
    return shutil.copytree(first, tmp_path / "run")


def start(images, work_dir, epochs=1, out_dir=None, seed=0, change=None, **options):
    """Start a training as the tools do; returns what its log says."""
    cfg = config(images, work_dir, epochs=epochs, resume={"type": "ExactResumeHook"})
    cfg.randomness.seed = seed
    if out_dir is not None:
        cfg.default_hooks.checkpoint.out_dir = str(out_dir)
    cfg.merge_from_dict(change or {})
    path = work_dir.parent / "small.py"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(cfg.pretty_text)
    before = set(work_dir.glob("*/*.log"))
    train(path, **options)
    (log,) = set(work_dir.glob("*/*.log")) - before
    return log.read_text()


def content(folder):
    """Files of a folder and their bytes."""
    files = [path for path in Path(folder).rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def weights(folder, name="epoch_1.pth"):
    return load_checkpoint_file(Path(folder, name))["state_dict"]


# Refused


@pytest.mark.fault("R29")
def test_a_start_in_the_folder_of_a_run_is_refused(images, run):
    before = content(run)
    with pytest.raises(UserError) as refused:
        start(images, run, epochs=3, seed=1)
    when = json.loads((run / "epoch_1.pth.json").read_text())["time"]
    assert str(refused.value) == (
        f"{run} holds a run (MoCo, epoch 1, iteration 2, epoch_1.pth of {when}): go on "
        f"with it by --resume, choose another --work-dir, or add --overwrite, which "
        f"moves it to {run / 'old'}."
    )
    assert content(run) == before


def keep(run, name):
    """Leave one checkpoint in a run, of this name and without a manifest."""
    (run / "last_checkpoint").unlink()
    (run / "epoch_1.pth").rename(run / name)
    (run / "epoch_1.pth.json").unlink()


LEFT = {
    "iter_2.pth": "iter_2.pth",
    "epoch_1.pth": "epoch_1.pth",
    "best_acc_epoch_1.pth": "best_acc_epoch_1.pth",
    "pretrained.pth": None,  # of the user's
    "epoch_1-0a1b2c3d.pth": None,  # published: the run was finished with
}


@pytest.mark.parametrize("name", LEFT)
def test_what_counts_as_a_run(run, name):
    keep(run, name)
    found = find_run(run)
    assert (found.newest.name if found else None) == LEFT[name]


@pytest.mark.parametrize(
    "odd",
    [
        *({"id": 5}, {"folder": 7}, {"folder": "../../x"}, {"folder": ".."}),
        *({"checkpoints": 5}, {"checkpoints": "a\0b"}, {"starter": "me"}),
    ],
    ids=str,
)
def test_an_identity_of_another_kind_counts_as_none(images, run, tmp_path, odd):
    was = json.loads((run / RUN_FILE).read_text())
    (run / RUN_FILE).write_text(json.dumps(was | odd))
    with pytest.raises(UserError, match="holds a run"):
        start(images, run, out_dir=tmp_path / "deep" / "out")
    assert not (tmp_path / "deep").exists()
    resumed = run / "epoch_1.pth"
    claim(run, resumed, str(tmp_path / "deep" / "out"))
    assert folders(tmp_path / "deep") == ["out"]
    assert folders(tmp_path / "deep" / "out") == [f"run-{was['id']}"]


def test_logs_alone_do_not_block(images, run):
    for path in [*run.glob("*.pth*"), run / "last_checkpoint"]:
        path.unlink()
    start(images, run, seed=1)
    assert (run / "epoch_1.pth").is_file() and not (run / "old").exists()


@pytest.mark.parametrize("resume", [False, True])
def test_a_runner_that_a_user_builds_is_refused_too(run, resume):
    (run / "last_checkpoint").unlink()
    runner = toy_runner(run, f"by hand {resume}", PlainCheckpointHook(interval=1))
    runner._resume = resume
    with pytest.raises(ConfigError, match=r"holds a run \(MoCo, epoch 1"):
        runner.train()


def test_going_on_from_another_run_takes_no_place(images, run, tmp_path):
    start(images, tmp_path / "other" / "run", seed=1)
    given = tmp_path / "other" / "run" / "epoch_1.pth"
    options = {"epochs": 2, "seed": 1, "resume": str(given)}
    before = content(run)
    with pytest.raises(UserError, match=f"and {given} is of another one: go on with"):
        start(images, run, **options)
    assert content(run) == before
    start(images, run, **options, overwrite=True)
    assert content(run / "old")["epoch_1.pth"] == before["epoch_1.pth"]
    assert load_checkpoint_file(run / "epoch_2.pth")["meta"]["epoch"] == 2


def test_going_on_from_a_copy_of_ones_own_file(images, run, tmp_path):
    shutil.copy(run / "epoch_1.pth", tmp_path / "mine.pth")
    shutil.copy(run / "epoch_1.pth.json", tmp_path / "mine.pth.json")
    start(images, run, epochs=2, resume=str(tmp_path / "mine.pth"))
    assert (run / "epoch_2.pth").is_file()


def test_going_back_warns_of_what_will_be_replaced(images, run):
    shutil.copy(run / "epoch_1.pth", run / "kept.pth")
    shutil.copy(run / "epoch_1.pth.json", run / "kept.pth.json")
    start(images, run, epochs=2, resume=True)
    log = start(images, run, epochs=2, resume=str(run / "kept.pth"))
    assert f"{run} holds a run (MoCo, epoch 2, iteration 4" in log
    assert f"The run goes on from {run / 'kept.pth'}, before that" in log


# Put aside


@pytest.mark.fault("R29")
def test_overwrite_moves_everything_and_loses_nothing(images, run):
    (run / "notes.txt").write_text("mine")
    before = content(run)
    (run / "predictions").mkdir()
    log = start(images, run, seed=1, overwrite=True)
    assert f"The run that was in {run} is in {run / 'old'} now." in log
    moved = {name: data for name, data in before.items() if name != "notes.txt"}
    assert content(run / "old") == moved
    assert (run / "old" / "predictions").is_dir()
    assert (run / "notes.txt").read_text() == "mine"
    second = content(run).keys()
    start(images, run, seed=2, overwrite=True)
    assert content(run / "old") == moved
    assert "epoch_1.pth" in content(run / "old.2").keys() & second
    seeds = [
        load_checkpoint_file(folder / "epoch_1.pth")["meta"]["seed"]
        for folder in (run / "old", run / "old.2", run)
    ]
    assert seeds == [0, 1, 2]
    start(images, run / "old", epochs=2, resume=True)  # goes on from where it is
    assert (run / "old" / "epoch_2.pth").is_file()


def test_weights_to_start_from_are_found_where_they_went(images, run):
    start(images, run, change={"load_from": str(run / "epoch_1.pth")}, overwrite=True)
    assert (run / "old" / "epoch_1.pth").is_file() and (run / "epoch_1.pth").is_file()


def test_a_run_whose_weights_a_config_names_is_not_moved_aside(images, run):
    before, weights = content(run), str(run / "epoch_1.pth")
    load = {"type": "mmssl_ext.PretrainedBackbone", "checkpoint": weights}
    with pytest.raises(UserError, match=rf"^{weights} is a file of the run in {run},"):
        start(
            *(images, run),
            change={"model.backbone.init_cfg": load},
            overwrite=True,
        )
    assert content(run) == before


@pytest.mark.parametrize("by", ["a file", "the config", "the folder"])
def test_a_run_that_is_gone_on_with_is_not_moved_aside(images, run, by):
    before = content(run)
    options = {
        "a file": {"resume": str(run / "epoch_1.pth")},
        "the config": {"cfg_options": {"resume": True}},
        "the folder": {"resume": True},
    }[by]
    words = r"--overwrite moves .* but this start goes|give one of the two"
    with pytest.raises(UserError, match=words):
        start(images, run, epochs=2, overwrite=True, **options)
    assert content(run) == before


def test_best_files_alone_cannot_be_gone_on_with_and_are_put_aside(images, run):
    keep(run, "best_acc_epoch_1.pth")
    start(images, run, resume=True)
    assert (run / "old" / "best_acc_epoch_1.pth").is_file()
    assert (run / "epoch_1.pth").is_file()


# The files of a stop


def interim_of(run_id, folder):
    """Leave an interim file of a run in a folder."""
    path = folder / "iter_9.pth"
    torch.save({"state_dict": {}, "meta": {"epoch": 0, "iter": 9}}, path)
    facts = {"kind": "interim", "epoch": 0, "iter": 9, "run": run_id}
    write_manifest(path, sha256(path), facts)
    return path


@pytest.mark.fault("R29")
@pytest.mark.parametrize("mine", [True, False])
def test_only_its_own_interim_files_are_deleted(tmp_path, mine):
    work_dir = tmp_path / "run"
    toy_runner(work_dir, f"a {tmp_path}", PlainCheckpointHook(), epochs=1).train()
    known = json.loads((work_dir / "epoch_1.pth.json").read_text())["run"]
    path = interim_of(known if mine else "f00", work_dir)
    how = {"epochs": 2, "resume": work_dir / "epoch_1.pth"}
    toy_runner(work_dir, f"b {tmp_path}", PlainCheckpointHook(), **how).train()
    assert (work_dir / "epoch_2.pth").is_file()
    assert path.is_file() is not mine


# Started once more


def test_a_requeued_job_goes_on_by_itself(images, tmp_path, monkeypatch):
    work_dir = tmp_path / "run"
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    start(images, work_dir)
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    log = start(images, work_dir, epochs=2, overwrite=True)
    assert "This start was made once more by Slurm or torchrun" in log
    assert "resumed epoch: 1, iter: 2" in log and not (work_dir / "old").exists()
    monkeypatch.setenv("SLURM_JOB_ID", "78")
    with pytest.raises(UserError, match="epoch 2, iteration 4"):
        start(images, work_dir, epochs=3)


AGAIN = [
    ({"SLURM_JOB_ID": "7"}, {"SLURM_RESTART_COUNT": "1"}, True),
    ({"SLURM_JOB_ID": "7"}, {}, False),  # beside it in the job
    ({"SLURM_JOB_ID": "7"}, {"SLURM_JOB_ID": "8", "SLURM_RESTART_COUNT": "1"}, False),
    ({"TORCHELASTIC_RUN_ID": "none"}, {"TORCHELASTIC_RESTART_COUNT": "1"}, True),
    ({"TORCHELASTIC_RUN_ID": "a"}, {"TORCHELASTIC_RESTART_COUNT": "0"}, False),
    ({}, {}, False),
]


@pytest.mark.parametrize(("then", "now", "same"), AGAIN)
def test_who_starts_once_more(monkeypatch, then, now, same):
    for name, value in then.items():
        monkeypatch.setenv(name, value)
    before = starter()
    for name, value in now.items():
        monkeypatch.setenv(name, value)
    assert started_by(json.loads(json.dumps(before))) is same


def test_another_torchrun_of_the_same_name_is_none(monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "a")
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    boot, pids, pid, _ = starter()["agent"]
    other = starter() | {"agent": [boot, pids, pid, "0"]}
    assert not started_by(other)
    assert started_by(starter() | {"agent": ["another machine", pids, pid, "0"]})


STARTS = [  # how often requeued, options of the user's, what the task gets besides
    (0, [], ["--resume"]),
    (0, ["--overwrite"], []),
    (1, ["--overwrite"], []),  # train.py knows that it is a further start
    (0, ["--resume", "x.pth"], []),
]


@pytest.mark.parametrize(("restarts", "options", "added"), STARTS)
def test_what_the_slurm_script_adds(tmp_path, restarts, options, added):
    fakes, command = Fakes(tmp_path), (str(SCRIPT), "p", "j", "config.py", *options)
    job = {"SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "n1", "SLURM_JOB_NUM_NODES": "1"}
    done = fakes.run(*command, **job, SLURM_RESTART_COUNT=str(restarts))
    assert done.returncode == 0, done.stderr
    words = fakes.arguments("srun")
    assert words[words.index("--work-dir") + 2 :] == [*options, *added]


def test_a_finished_run_says_that_it_is(images, run):
    log = start(images, run, resume=True)
    assert "The run is finished: 1 of 1 epochs were done in" in log
    assert "raise train_cfg.max_epochs" in log
    assert "is finished" not in start(images, run, epochs=2, resume=True)


# checkpoint.out_dir


def folders(out_dir):
    return sorted(path.name for path in out_dir.iterdir())


@pytest.mark.fault("R30")
def test_two_runs_of_one_name_never_share_a_folder(images, tmp_path):
    out = tmp_path / "out"
    runs = [tmp_path / f"seed{seed}" / "run" for seed in (0, 1)]
    for seed, work_dir in enumerate(runs):
        start(images, work_dir, out_dir=out, seed=seed)
    names = folders(out)
    assert len(names) == 2
    assert all(re.fullmatch("run-[0-9a-f]{12}", name) for name in names)
    for seed, work_dir in enumerate(runs):
        path, notes = find_resumable(work_dir)
        assert load_checkpoint_file(path)["meta"]["seed"] == seed and not notes
        start(images, work_dir, out_dir=out, seed=seed, epochs=2, resume=True)
        assert find_resumable(work_dir)[0] == path.with_name("epoch_2.pth")
    assert folders(out) == names  # and they are refused where they are not resumed
    with pytest.raises(UserError, match="epoch 2, iteration 4"):
        start(images, runs[0], out_dir=out)
    start(images, runs[0], out_dir=out, overwrite=True)
    assert len(folders(out)) == 3 and set(names) < set(folders(out))
    assert find_resumable(runs[0] / "old")[0].parent.name in names


def test_a_moved_run_finds_its_checkpoints_and_a_copy_takes_others(images, tmp_path):
    out, work_dir = tmp_path / "out", tmp_path / "run"
    start(images, work_dir, out_dir=out)
    (name,) = folders(out)
    moved = tmp_path / "elsewhere"
    work_dir.rename(moved)
    start(images, moved, out_dir=out, epochs=2, resume=True)
    assert folders(out) == [name] and (out / name / "epoch_2.pth").is_file()
    copy = shutil.copytree(moved, tmp_path / "copy")
    start(images, copy, out_dir=out, epochs=3, resume=True)
    assert len(folders(out)) == 2 and not (out / name / "epoch_3.pth").exists()
    assert find_resumable(moved)[0] == out / name / "epoch_2.pth"
    both = tmp_path / "both"
    out.rename(both)
    start(images, moved, out_dir=both, epochs=3, resume=True)
    assert (both / name / "epoch_3.pth").is_file()


def test_a_home_in_the_name_of_a_folder(images, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    cfg = config(images, Path("~/run"))
    cfg.default_hooks.checkpoint.out_dir = "~/checkpoints"
    Path("small.py").write_text(cfg.pretty_text)
    train("small.py")
    (folder,) = folders(tmp_path / "home" / "checkpoints")
    saved = tmp_path / "home" / "checkpoints" / folder / "epoch_1.pth"
    assert find_run(tmp_path / "home" / "run").newest == saved
    assert find_resumable(tmp_path / "home" / "run")[0] == saved
    assert not (tmp_path / "~").exists()


def test_a_folder_of_checkpoints_that_cannot_be_reached(images, tmp_path):
    out, work_dir = tmp_path / "out", tmp_path / "run"
    start(images, work_dir, out_dir=out)
    out.rename(tmp_path / "unmounted")
    before = content(work_dir)
    for resume in (False, True):
        with pytest.raises(UserError, match=f"checkpoints are in {out}/run-.*, which"):
            start(images, work_dir, out_dir=out, resume=resume)
    assert content(work_dir) == before


@pytest.mark.fault("R30")
def test_a_folder_of_checkpoints_that_cannot_be_made(images, tmp_path):
    (tmp_path / "file").touch()
    wanted = r"checkpoint folder .*file/run-\w+ cannot be written.*checkpoint\.out_dir"
    with pytest.raises(UserError, match=wanted):
        start(images, tmp_path / "run", out_dir=tmp_path / "file")


def test_the_folder_of_checkpoints_is_held(images, tmp_path):
    out, work_dir = tmp_path / "out", tmp_path / "run"
    start(images, work_dir, out_dir=out)
    (folder,) = out.iterdir()
    with (
        Lock(folder / LOCK_FILE, "It").held(),
        pytest.raises(UserError, match=f"The checkpoint folder {folder} is in use"),
    ):
        start(images, work_dir, out_dir=out, epochs=2, resume=True)


def test_a_run_of_version_0_1_with_an_out_dir_is_resumed(images, tmp_path):
    """It wrote to the name of its work_dir, and neither file names a run."""
    out, work_dir = tmp_path / "out", tmp_path / "run"
    start(images, work_dir, out_dir=out)
    (folder,) = out.iterdir()
    old = folder.rename(out / "run")
    for path in (work_dir / RUN_FILE, old / RUN_FILE, old / "epoch_1.pth.json"):
        path.unlink()
    (work_dir / "last_checkpoint").write_text(str(old / "epoch_1.pth"))
    with pytest.raises(UserError, match="holds a run"):
        start(images, work_dir, out_dir=out, epochs=2)
    start(images, work_dir, out_dir=out, epochs=2, resume=True)
    (new,) = set(out.iterdir()) - {old}
    assert find_resumable(work_dir)[0] == new / "epoch_2.pth"
    assert (old / "epoch_1.pth").is_file()  # perhaps another run's


def test_mmengines_own_hook_has_a_folder_of_the_run_too(images, tmp_path):
    out = tmp_path / "out"
    hook = {"_delete_": True, "type": "CheckpointHook", "out_dir": str(out)}
    change = {"default_hooks.checkpoint": hook}
    for seed in (0, 1):
        work_dir = tmp_path / f"seed{seed}" / "run"
        start(images, work_dir, change=change)
        with pytest.raises(UserError, match="holds a run"):
            start(images, work_dir, change=change)
    files = sorted(out.rglob("epoch_1.pth"))
    assert len(files) == 2 and len(folders(out)) == 2


# Without the tools


def test_a_run_that_resumes_by_mmengines_own_way(images, run):
    cfg = config(images, run, epochs=2)
    runner = make_runner(cfg, resume=True)
    runner._load_from = None
    runner.train()
    assert (run / "epoch_2.pth").is_file()
    check_free(run, run / "epoch_2.pth")
