"""Which form computes the queue's softmax: the rule, trials, and what they leave be."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from mmengine.utils import digit_version

from mmssl_ext.engine.hooks import ExactResumeHook
from mmssl_ext.models.losses import attend, queue_attention, queue_forms
from tests.harness import Watch, toy_runner

from .loops import unit

ALL = dict.fromkeys(("chunked", "fused", "onednn"))
Q, QUEUE = torch.zeros(1, 256, 128), torch.zeros(1, 4096, 128)


@pytest.fixture(autouse=True)
def _fresh(monkeypatch):
    monkeypatch.setattr(queue_forms, "_chosen", {})
    monkeypatch.setattr(queue_forms, "_always", False)
    monkeypatch.setattr(queue_forms, "_told", set())


@pytest.fixture
def clock(monkeypatch):
    """Times that trials find, by form, and the names of the forms they called."""

    class Clock:
        def __init__(self) -> None:
            self.seconds, self.calls = {}, []

        def __call__(self, name, q, queue):
            self.calls.append(name)
            first = self.calls.count(name) == 1
            return 100.0 if first else self.seconds[name]

    clock = Clock()
    monkeypatch.setattr(queue_forms, "_seconds", clock)
    return clock


def set_cpu(monkeypatch, capability):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)


def choose(q=Q, queue=QUEUE, forms=("chunked", "fused", "onednn")):
    return queue_forms.choose({name: name for name in forms}, q, queue)


@pytest.mark.parametrize(
    ("capability", "rows", "form"),
    [
        ("AVX512", 16, "fused"),
        ("AVX512", 128, "onednn"),
        ("AVX2", 16, "fused"),
        ("AVX2", 128, "chunked"),
    ],
)
def test_a_rule_knows_measured_cpus(capability, rows, form, monkeypatch, clock):
    set_cpu(monkeypatch, capability)
    clock.seconds = {"chunked": 1, "fused": 1, "onednn": 1}
    assert choose(torch.zeros(1, rows, 128), torch.zeros(1, 65536, 128)) == form
    assert not clock.calls and not queue_forms.trials()


def test_the_form_is_told_once_for_each_size(monkeypatch, clock):
    set_cpu(monkeypatch, "AVX512")
    said = []
    monkeypatch.setattr(queue_forms, "print_log", lambda text, **_: said.append(text))
    for _ in range(2):
        choose()
        choose(queue=QUEUE.repeat(1, 2, 1))
        choose(q=Q[:, :1])  # too small to matter
    sizes = ("1 x 256 x 4096 x 128", "1 x 256 x 8192 x 128")
    assert len(said) == 2
    for text, size in zip(said, sizes, strict=True):
        assert text.startswith("The streaming pass by oneDNN computes the softmax")
        assert "AVX512" in text and f"{size}; by a rule)." in text


def test_the_rule_takes_only_what_runs(monkeypatch):
    set_cpu(monkeypatch, "AVX512")
    assert choose(forms=("chunked", "fused")) == "fused"
    assert choose(forms=("chunked",)) == "chunked"


@pytest.mark.parametrize(
    ("seconds", "form"),
    [
        ({"chunked": 1.0, "fused": 3.0, "onednn": 2.0}, "chunked"),
        ({"chunked": 3.0, "fused": 1.0, "onednn": 2.0}, "fused"),
        ({"chunked": 1.7, "fused": 1.9, "onednn": 2.0}, "onednn"),  # about as fast
    ],
)
def test_elsewhere_a_trial_tells_once(seconds, form, monkeypatch, clock):
    set_cpu(monkeypatch, "SVE256")
    clock.seconds = seconds
    assert choose() == form
    assert clock.calls == ["chunked", "fused", "onednn"] * 4  # in turn
    assert choose(Q[:, :200], QUEUE[:, :4000]) == form  # the same sizes
    assert len(clock.calls) == 12 and list(queue_forms.trials().values()) == [form]
    choose(Q[:, :100], QUEUE.repeat(1, 2, 1))
    assert len(clock.calls) == 24 and len(queue_forms.trials()) == 2


@pytest.mark.parametrize(
    ("module", "name", "value"),
    [
        (torch, "are_deterministic_algorithms_enabled", True),
        (queue_forms, "get_world_size", 2),
    ],
)
def test_where_bits_count_the_rule_decides(module, name, value, monkeypatch, clock):
    """Even where a trial has been made."""
    set_cpu(monkeypatch, "SVE256")
    clock.seconds = {"chunked": 1.0, "fused": 3.0, "onednn": 2.0}
    assert choose() == "chunked"
    clock.calls.clear()
    monkeypatch.setattr(module, name, lambda: value)
    assert choose() == "onednn" and not clock.calls


def test_small_problems_are_not_tried(monkeypatch, clock):
    set_cpu(monkeypatch, "SVE256")
    assert choose(queue=QUEUE[:, :1024]) == "onednn" and not clock.calls


def test_a_resumed_process_goes_on_by_the_trials_of_the_first(monkeypatch, clock):
    set_cpu(monkeypatch, "SVE256")
    clock.seconds = {"chunked": 1.0, "fused": 3.0, "onednn": 2.0}
    choose()
    saved = queue_forms.trials()
    queue_forms._chosen.clear()
    clock.seconds = {"chunked": 3.0, "fused": 1.0, "onednn": 2.0}  # now busy
    queue_forms.take_over(saved)
    clock.calls.clear()
    assert choose() == "chunked" and not clock.calls
    assert choose(forms=("fused", "onednn")) == "onednn"  # where it does not run


def test_trials_can_be_asked_for(monkeypatch, clock):
    set_cpu(monkeypatch, "AVX512")
    clock.seconds = {"chunked": 1.0, "fused": 3.0, "onednn": 2.0}
    queue_attention.use_fused("trial")
    try:
        assert choose() == "chunked"
        assert queue_attention._use_fused
    finally:
        queue_attention.use_fused(True)
    assert choose() == "onednn"


def test_a_trial_draws_nothing_and_changes_no_input(caplog):
    q, queue = unit(130, 128).float(), unit(5000, 128, seed=2).float()
    before = q.clone(), queue.clone()
    states = torch.get_rng_state(), np.random.get_state(), random.getstate()
    queue_attention.use_fused("trial")
    try:
        o, lse = attend(q, queue, 5.0)
    finally:
        queue_attention.use_fused(True)
    (kind,), (form,) = zip(*queue_forms.trials().items(), strict=True)
    assert form in ALL and kind.endswith("float32, 1 x 256 x 8192 x 128")
    assert torch.equal(q, before[0]) and torch.equal(queue, before[1])
    assert torch.equal(torch.get_rng_state(), states[0])
    assert all(
        np.array_equal(*x) for x in zip(np.random.get_state(), states[1], strict=True)
    )
    assert random.getstate() == states[2]
    torch.testing.assert_close(lse, (5 * q @ queue.T).logsumexp(1))
    torch.testing.assert_close(o, (5 * q @ queue.T).softmax(1) @ queue)


@pytest.mark.skipif(
    digit_version(torch.__version__) < digit_version("2.6"),
    reason="torch below 2.6 cannot read mmengine's histories as data",
)
def test_trials_go_with_the_checkpoint(tmp_path):
    def find(runner):
        queue_forms.take_over({"this machine": "onednn"})

    run = toy_runner(tmp_path, "forms", ExactResumeHook(), Watch(before_train=find))
    run.train()
    run.save_checkpoint(str(tmp_path), "all.pth")
    saved = torch.load(tmp_path / "all.pth", weights_only=False)
    assert saved["training_state"]["queue_forms"] == {"this machine": "onednn"}
    queue_forms._chosen.clear()
    again = toy_runner(tmp_path, "forms2", ExactResumeHook(), epochs=3)
    again._resume, again._load_from = True, str(tmp_path / "all.pth")
    again.train()
    assert queue_forms.trials() == {"this machine": "onednn"}
