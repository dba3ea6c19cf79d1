"""The collapse alarm fires on a collapse, once, and not on healthy embeddings."""

import math
from types import SimpleNamespace

import pytest
import torch
from mmengine.logging import MessageHub
from torch.nn.functional import normalize

from mmssl_ext.engine.monitor.collapse import CollapseMonitorHook
from mmssl_ext.models.memory import CodeUsage
from tests.harness import config, log_rows, log_text, make_runner, write_images

K, D, N = 64, 16, 32


class Log(list):
    info = warning = list.append


def run(hook, embed, losses=(), start=0, queue=None, losing=None):
    """Feed a hook with ``embed(i)``; returns the log lines and the message hub."""
    queue = normalize(torch.randn(K, D), dim=1) if queue is None else queue
    model = SimpleNamespace(negatives=queue, losing=losing or {})
    hub = MessageHub(f"collapse{id(hook)}")
    runner = SimpleNamespace(
        model=model, iter=start, epoch=0, world_size=1, logger=Log(), message_hub=hub
    )
    hook.before_train(runner)
    losses = list(losses) or [2.0] * 40
    for i, loss in enumerate(losses):
        runner.iter = start + i
        rows = embed(i)
        model.last_embeddings = {"query": rows, "key": rows}
        hook.after_train_iter(runner, i, outputs={"raw_instance": torch.tensor(loss)})
    hook.after_train_epoch(runner)
    return runner.logger, hub


def spread(i):
    return normalize(torch.randn(N, D), dim=1)


def constant(i):
    return torch.eye(D)[:1].expand(N, -1)


@pytest.mark.fault("R15")
def test_random_embeddings_raise_no_alarm():
    log, hub = run(CollapseMonitorHook(interval=5), spread)
    assert len(log) == 2  # the sentence at the start and the line of the epoch
    assert "ln(K + 1) = 4.17" in log[0]
    assert "rises" in log[0]
    assert "std ratio" in log[1]
    assert f"of at most {D}" in log[1]
    assert len(hub.get_scalar("train/health/std_ratio").data[0]) == 8


@pytest.mark.fault("R15")
def test_constant_embeddings_raise_one_alarm():
    log, hub = run(CollapseMonitorHook(interval=5), constant)
    alarms = [line for line in log if "collapsing" in line]
    assert len(alarms) == 1
    assert "iteration 5:" in alarms[0]
    assert hub.get_scalar("train/health/std_ratio").current() == pytest.approx(0)


def test_noise_in_the_queue_holds_the_alarm_back():
    queue = normalize(torch.randn(10_000, D), dim=1)
    log, _ = run(CollapseMonitorHook(interval=5), constant, queue=queue)
    assert not [line for line in log if "collapsing" in line]
    log, _ = run(CollapseMonitorHook(interval=5), constant, queue=queue, start=320)
    assert [line for line in log if "collapsing" in line]


@pytest.mark.fault("R15")
def test_pinned_loss_is_an_alarm_only_when_it_stays():
    chance = math.log(K + 1)
    stays = [chance + 0.009, chance - 0.009] * 20
    log, _ = run(CollapseMonitorHook(interval=5), spread, stays)
    alarms = [line for line in log if "has stayed at ln(K + 1) = 4.17" in line]
    assert len(alarms) == 1
    # three checks at chance, one away, again
    passes = [chance if (i // 5) % 4 else 3.0 for i in range(60)]
    log, _ = run(CollapseMonitorHook(interval=5), spread, passes)
    assert not [line for line in log if "stayed" in line]


def steps(hook, model, iterations):
    """What is logged of a model at these iterations."""
    runner = SimpleNamespace(model=model, iter=0, epoch=0, world_size=1, logger=Log())
    hook.before_train(runner)
    for runner.iter in iterations:
        hook.after_train_iter(runner, 0, outputs={})
    hook.after_train_epoch(runner)
    return runner.logger


def test_nothing_is_computed_between_the_intervals():
    model = SimpleNamespace(last_embeddings="no rows, so that a look at them fails")
    assert steps(CollapseMonitorHook(interval=5), model, (0, 1, 2, 3, 5, 6)) == []
    with pytest.raises(TypeError):
        steps(CollapseMonitorHook(interval=5), model, [4])


def test_a_model_without_embeddings_is_told_once():
    (line,) = steps(CollapseMonitorHook(interval=1), torch.nn.Linear(1, 1), range(3))
    assert "inactive: Linear offers no last_embeddings" in line


def test_figures_join_the_training_log(tmp_path):
    images = write_images(tmp_path / "images")
    monitor = {"type": "CollapseMonitorHook", "interval": 2}
    runner = make_runner(config(images, tmp_path / "run", collapse=monitor))
    runner.train()
    rows = [row for row in log_rows(runner) if "loss" in row]
    assert len(rows) == 2
    names = ("std_ratio", "effective_rank", "alignment", "uniformity", "pos_neg_gap")
    for row in rows:
        assert all(math.isfinite(row[f"health/{name}"]) for name in names)
    assert "With 64 keys in the queue" in log_text(runner)


# Prototypes


class Part(torch.nn.Module):
    def __init__(self, prototypes):
        super().__init__()
        self.usage = CodeUsage(prototypes)


def watch(codes, checks=8, prototypes=50):
    """Log lines and figures of a healthy network with these codes in every step."""
    hook, part = CollapseMonitorHook(interval=5), Part(prototypes)

    def embed(i):
        part.usage.add(codes(i))
        return spread(i)

    return run(hook, embed, [2.0] * 5 * checks, losing={"compare": part})


def chosen(*prototypes):
    return lambda i: torch.eye(50)[[p % 50 for p in prototypes for _ in range(8)]]


def test_used_prototypes_raise_no_alarm():
    log, hub = watch(lambda i: torch.eye(50)[torch.arange(8 * i, 8 * i + 8) % 50])
    assert len(log) == 3 and "Prototypes in epoch 1: used " in log[2]
    figures = {
        name: hub.get_scalar(f"train/health/{name}").current()
        for name in ("prototypes_used", "code_entropy", "mean_code_entropy")
    }
    assert figures["prototypes_used"] == 1 and figures["code_entropy"] == 0
    assert 0.9 < figures["mean_code_entropy"] < 1


@pytest.mark.parametrize(
    ("codes", "sentence"),
    [
        (chosen(3, 7), "4.0% of the prototypes are used: nearly all images are"),
        (lambda i: torch.full((8, 50), 0.02), "The prototypes have collapsed: all are"),
    ],
)
def test_collapsed_prototypes_are_one_alarm_when_it_stays(codes, sentence):
    log, _ = watch(codes)
    alarms = [line for line in log if sentence in line]
    assert len(alarms) == 1 and "4 checks up to iteration 20." in alarms[0]
    assert "frozen_epochs" in alarms[0]
    log, _ = watch(codes, checks=3)
    assert not [line for line in log if sentence in line]


def test_few_codes_cannot_use_many_prototypes():
    usage = CodeUsage(1000)
    usage.add(torch.eye(1000)[:20])
    assert usage.read()["prototypes_used"] == 1
