"""The best checkpoint by every score that a run logs."""

import shutil
from pathlib import Path

import pytest
from mmengine.hooks import Hook

from mmssl_ext.engine.checkpoint.manifest import read_manifest
from mmssl_ext.engine.checkpoint.read import find_resumable, load_checkpoint_file
from mmssl_ext.engine.checkpoint.write import wait_for_checkpoints
from mmssl_ext.engine.config.checks import check_config
from mmssl_ext.engine.hooks import PlainCheckpointHook
from mmssl_ext.errors import ConfigError
from tests.distributed import run_ranks
from tests.harness import (
    Stopped,
    config,
    knn,
    log_text,
    make_runner,
    toy_runner,
    with_metrics,
)

SCORES = {1: 30.0, 2: 70.0, 3: 50.0, 4: 60.0, 5: 80.0}


class Logs(Hook):
    """Logs a score at the end of epochs, as a hook of the package does."""

    priority = "BELOW_NORMAL"

    def __init__(self, key="knn/backbone_top1", scores=SCORES, stop=None):
        self.key, self.scores, self.stop = key, scores, stop

    def before_train(self, runner):
        if runner.iter == 0 and 0 in self.scores:
            runner.message_hub.update_scalar(self.key, self.scores[0])

    def after_train_epoch(self, runner):
        if runner.epoch + 1 == self.stop:
            raise Stopped
        score = self.scores.get(runner.epoch + 1)
        if score is not None:
            runner.message_hub.update_scalar(self.key, score + runner.rank)


class KNNHook(Logs):
    """Takes part under the name of the one that measures."""


class CollapseMonitorHook(Logs):
    """The same."""


class Own(Logs):
    """A hook of the user's."""


KNNHook.__module__ = CollapseMonitorHook.__module__ = "mmssl_ext.stand_in"


def toy(work_dir, *hooks, val=(), name="", **options):
    """A run that saves the best; ``val`` are its scores in validations."""
    runs = {k: options.pop(k) for k in ("epochs", "resume") if k in options}
    hook = PlainCheckpointHook(**{"interval": 1, "max_keep_ckpts": 1} | options)
    title = f"best {work_dir} {runs} {name}"
    runner = toy_runner(work_dir, title, hook, *hooks, **{"epochs": 4} | runs)
    found = [{"coco/bbox_mAP": score, "coco/bbox_mAP_50": 1.0} for score in val]
    return with_metrics(runner, *found) if found else runner


def best(folder):
    wait_for_checkpoints()
    return sorted(path.name for path in Path(folder).glob("best_*.pth"))


def test_the_best_by_a_score_that_a_hook_logs(tmp_path):
    toy(tmp_path, KNNHook(), save_best="knn/backbone_top1").train()
    (name,) = best(tmp_path)
    assert name == "best_knn_backbone_top1_epoch_2.pth"
    assert [p.name for p in tmp_path.glob("epoch*.pth")] == ["epoch_4.pth"]
    content = load_checkpoint_file(tmp_path / name)
    assert (content["meta"]["epoch"], content["meta"]["iter"]) == (2, 12)
    assert "optimizer" not in content
    manifest = read_manifest(tmp_path / name)
    assert manifest["kind"] == "best" and manifest["epoch"] == 2
    assert manifest["score"] == {"name": "knn/backbone_top1", "value": 70.0}
    assert find_resumable(tmp_path)[0] == tmp_path / "epoch_4.pth"


def test_untrained_weights_and_old_scores_are_never_the_best(tmp_path):
    hook = KNNHook(scores={0: 99.0, 2: 40.0, 4: 30.0})
    toy(tmp_path, hook, save_best="knn/backbone_top1").train()
    assert best(tmp_path) == ["best_knn_backbone_top1_epoch_2.pth"]


@pytest.mark.parametrize(
    ("key", "lost"),
    [("knn/backbone_top1", False), ("auto", False), ("knn/backbone_top1", True)],
)
def test_a_resume_keeps_the_best_score(tmp_path, key, lost):
    options = {"save_best": key, "interval": 3 if lost else 1}
    stopping = KNNHook(
        scores={1: 30.0, 4: 70.0} if lost else SCORES, stop=5 if lost else 4
    )
    with pytest.raises(Stopped):
        toy(tmp_path, stopping, epochs=6, **options).train()
    there = "best_knn_backbone_top1_epoch_" + ("4.pth" if lost else "2.pth")
    assert best(tmp_path) == [there]
    last, _ = find_resumable(tmp_path)
    worse = KNNHook(scores={5: 65.0, 6: 65.0})
    toy(tmp_path, worse, epochs=6, resume=last, **options).train()
    assert best(tmp_path) == [there]
    last, _ = find_resumable(tmp_path)
    better = KNNHook(scores={7: 75.0})
    toy(tmp_path, better, epochs=7, resume=last, **options).train()
    assert best(tmp_path) == ["best_knn_backbone_top1_epoch_7.pth"]


def test_another_score_after_a_resume_begins_anew(tmp_path):
    toy(tmp_path, KNNHook(), epochs=2, save_best="knn/backbone_top1").train()
    last, _ = find_resumable(tmp_path)
    options = {"save_best": "loss", "resume": last}
    toy(tmp_path, KNNHook(), epochs=3, **options).train()
    assert best(tmp_path) == [
        "best_knn_backbone_top1_epoch_2.pth",
        "best_loss_epoch_3.pth",
    ]


def test_scores_of_the_training(tmp_path):
    keys = ["health/effective_rank", "loss"]
    hook = CollapseMonitorHook("train/health/effective_rank", {1: 3.0, 2: 5.0, 3: 4.0})
    toy(tmp_path, hook, save_best=keys).train()
    assert best(tmp_path) == [
        "best_health_effective_rank_epoch_2.pth",
        "best_loss_epoch_4.pth",
    ]


def test_a_run_by_iterations_compares_where_it_saves(tmp_path):
    options = {"by_epoch": False, "interval": 4, "save_best": "loss"}
    runner = toy(tmp_path, **options)
    runner._train_loop = {"type": "IterBasedTrainLoop", "max_iters": 10}
    runner.train()
    assert best(tmp_path) == ["best_loss_iter_10.pth"]
    assert read_manifest(tmp_path / "best_loss_iter_10.pth")["iter"] == 10


def test_auto(tmp_path):
    """A metric of the validation, else of kNN, else the effective rank."""
    monitor = CollapseMonitorHook("train/health/effective_rank", {1: 1.0, 3: 2.0})
    hooks = KNNHook(), monitor
    toy(tmp_path / "val", *hooks, val=(0.1, 0.3, 0.2, 0.2), save_best="auto").train()
    assert best(tmp_path / "val") == ["best_coco_bbox_mAP_epoch_2.pth"]
    toy(tmp_path / "labels", *hooks, save_best="auto").train()
    assert best(tmp_path / "labels") == ["best_knn_backbone_top1_epoch_2.pth"]
    toy(tmp_path / "no labels", monitor, save_best="auto").train()
    assert best(tmp_path / "no labels") == ["best_health_effective_rank_epoch_3.pth"]


def test_metrics_of_a_validation_beside_a_logged_score(tmp_path):
    keys = ["coco/bbox_mAP", "knn/backbone_top1"]
    toy(tmp_path, KNNHook(), val=(0.1, 0.2, 0.4, 0.3), save_best=keys).train()
    assert best(tmp_path) == [
        "best_coco_bbox_mAP_epoch_3.pth",
        "best_knn_backbone_top1_epoch_2.pth",
    ]


def test_a_better_one_replaces_its_own_and_no_other_runs(tmp_path):
    out = str(tmp_path / "out")
    options = {"save_best": "knn/backbone_top1", "out_dir": out}
    toy(tmp_path / "run", KNNHook(), epochs=2, **options).train()
    (folder,) = Path(out).iterdir()
    assert best(folder) == ["best_knn_backbone_top1_epoch_2.pth"]
    copy = shutil.copytree(tmp_path / "run", tmp_path / "copy")
    last, _ = find_resumable(copy)
    toy(copy, KNNHook(scores={3: 90.0}), epochs=3, resume=last, **options).train()
    assert best(folder) == ["best_knn_backbone_top1_epoch_2.pth"]
    (other,) = set(Path(out).iterdir()) - {folder}
    assert best(other) == ["best_knn_backbone_top1_epoch_3.pth"]


# Scores that never come


def test_a_knn_accuracy_that_nobody_measures_is_refused_at_once(tmp_path):
    runner = toy(tmp_path, save_best="knn/backbone_top1")
    with pytest.raises(ConfigError, match="this run logs no knn/backbone_top1"):
        runner.train()
    assert runner.iter == 0
    hook = KNNHook(scores={0: 1.0})
    with pytest.raises(
        ConfigError, match=r"no knn/bakbone_top1.*\(knn/backbone_top1\)"
    ):
        toy(tmp_path, hook, name="typo", save_best="knn/bakbone_top1").train()


@pytest.mark.parametrize("validated", [False, True])
def test_a_score_that_cannot_come_is_refused_with_everything_saved(tmp_path, validated):
    known = "coco/bbox_mAP, coco/bbox_mAP_50, loss" if validated else "loss"
    options = {"save_best": "mAP", "interval": 10}
    with pytest.raises(ConfigError) as refused:
        toy(tmp_path, val=(0.1,) * validated, **options).train()
    text = str(refused.value)
    assert f"this run logs no mAP. Name one of its scores ({known}" in text
    path = tmp_path / "iter_6.pth"
    assert f"All is saved in {path}; then go on with --resume." in text
    options["save_best"] = "coco/bbox_mAP" if validated else "loss"
    toy(tmp_path, val=(0.1, 0.2) * validated, epochs=2, resume=path, **options).train()
    assert len(best(tmp_path)) == 1 and (tmp_path / "epoch_2.pth").is_file()


def test_what_may_come_later_is_waited_for(tmp_path):
    hook = CollapseMonitorHook("train/health/std_ratio", {3: 0.5})
    toy(tmp_path / "a", hook, save_best="health/std_ratio").train()
    assert best(tmp_path / "a") == ["best_health_std_ratio_epoch_3.pth"]

    own = Own("my/acc", {4: 1.0})
    toy(tmp_path / "b", own, save_best="my/acc").train()
    assert best(tmp_path / "b") == ["best_my_acc_epoch_4.pth"]


@pytest.mark.parametrize("key", ["health/std_ratio", "auto"])
def test_a_figure_that_is_due_after_the_end_is_refused_at_once(tmp_path, key):
    hook = CollapseMonitorHook("train/health/std_ratio", {1: 0.5})
    hook.interval = 50
    runner = toy(tmp_path, hook, save_best=key)
    text = "is measured every 50 iterations, but the run has 24. Set default_hooks.coll"
    with pytest.raises(ConfigError, match=text):
        runner.train()
    assert runner.iter == 0


def test_the_end_says_that_a_score_never_came(tmp_path):
    runner = toy(tmp_path, Own("my/acc", {}), epochs=1, save_best="my/acc")
    runner.train()
    (line,) = (x for x in log_text(runner).splitlines() if "save_best:" in x)
    assert "ERROR" in line and "no my/acc was logged in this run" in line
    assert line.endswith("Its scores: loss, loss_instance.")


GREATER = (
    *("knn/backbone_top1", "health/effective_rank", "health/std_ratio"),
    *("health/pos_neg_gap", "coco/bbox_mAP", "coco/segm_mAP_50", "pascal_voc/AP50"),
    *("mIoU", "aAcc", "accuracy/top1"),
)
LESS = ("health/alignment", "health/uniformity", "loss_instance", "rank_loss")


def test_which_is_better():
    for keys, rule in ((GREATER, "greater"), (LESS, "less")):
        found = PlainCheckpointHook(save_best=list(keys)).rules
        assert found == [rule] * len(keys)


def test_a_score_of_unknown_rule_is_refused_in_a_sentence():
    with pytest.raises(ConfigError, match="checkpoint: Cannot infer the rule for key"):
        PlainCheckpointHook(save_best="my/thing")
    with pytest.raises(ConfigError, match="rule is greater or less"):
        PlainCheckpointHook(save_best="my/thing", rule="more")
    assert PlainCheckpointHook(save_best="my/thing", rule="less").rules == ["less"]


def train_on_rank(rank, folder):
    """Ranks log other numbers: the first one's count."""
    hook = KNNHook(scores={1: 3.0, 2: 2.5, 3: 2.0})
    toy(Path(folder), hook, epochs=3, save_best="knn/backbone_top1").train()
    return rank


def test_all_ranks_agree_on_the_best(tmp_path):
    run_ranks(train_on_rank, 2, str(tmp_path))
    assert best(tmp_path) == ["best_knn_backbone_top1_epoch_1.pth"]


def test_a_real_run_by_its_knn_accuracy(images, tmp_path):
    cfg = config(images, tmp_path, epochs=2, knn=knn(images, k=1))
    cfg.default_hooks.checkpoint.save_best = "knn/backbone_top1"
    check_config(cfg)
    runner = make_runner(cfg)
    runner.train()
    history = runner.message_hub.get_info("knn_history")[1:]
    top = max(history, key=lambda row: row["backbone_top1"])  # the first of equals
    assert best(tmp_path) == [f"best_knn_backbone_top1_epoch_{top['epoch']}.pth"]
