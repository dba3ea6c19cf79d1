"""Key queue and momentum target."""

import copy
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn.functional import normalize

from mmssl_ext.models.memory import KeyQueue, StepCounter
from mmssl_ext.models.memory.clock import Clock
from mmssl_ext.models.targets import MomentumTarget

from ..distributed import run_ranks


def unit(*shape):
    return normalize(torch.randn(*shape), dim=-1)


@pytest.mark.parametrize("sizes", [[4, 4, 4, 4], [1, 7, 10, 25, 2, 31]])
@pytest.mark.parametrize("groups", [None, 3])
@pytest.mark.fault("R21")
def test_queue_equals_a_list(sizes, groups):
    torch.manual_seed(0)
    queue = KeyQueue(10, 4, groups, labels=True, index=True)
    torch.testing.assert_close(
        queue.keys.norm(dim=-1), torch.ones(queue.keys.shape[:-1])
    )
    first = queue.keys[..., 0, 0].unique()
    assert len(first) == (groups or 1)  # noise of their own
    keys, labels, index = list(queue.keys.clone().unbind(-2)), [-1] * 10, [-1] * 10
    ptr, seen = 0, 0
    for size in sizes:
        batch = unit(size, 4) if groups is None else unit(size, groups, 4)
        images = torch.arange(seen, seen + size)
        queue.enqueue(batch, labels=images % 3, index=images)
        for row, i in zip(batch, images.tolist(), strict=True):  # the oldest goes
            keys[ptr], labels[ptr], index[ptr] = row, i % 3, i
            ptr = (ptr + 1) % 10
        seen += size
        assert torch.equal(queue.keys, torch.stack(keys, -2))
        assert (queue.labels.tolist(), queue.index.tolist()) == (labels, index)
        assert queue.labels.dtype == torch.long
        assert queue.ptr.item() == ptr


def enqueue_on_a_rank(rank, batches, groups):
    torch.manual_seed(0)
    queues = [KeyQueue(10, 4, n, labels=True, index=True) for n in groups]
    for *steps, index in batches:
        for queue, batch in zip(queues, steps, strict=True):
            queue.enqueue(batch.chunk(2)[rank], index=index.chunk(2)[rank])
    return [queue.state_dict() for queue in queues]


@pytest.mark.fault("R21")
def test_queue_gathers_ranks_in_order():
    torch.manual_seed(1)
    groups = (None, 3)
    batches = [(unit(n, 4), unit(n, 3, 4), torch.randperm(n)) for n in (6, 14, 2)]
    torch.manual_seed(0)
    queues = [KeyQueue(10, 4, n, labels=True, index=True) for n in groups]
    for *steps, index in batches:
        for queue, batch in zip(queues, steps, strict=True):
            queue.enqueue(batch, index=index)
    for states in run_ranks(enqueue_on_a_rank, 2, batches, groups):
        for state, queue in zip(states, queues, strict=True):
            assert state.keys() == queue.state_dict().keys()
            for name, value in queue.state_dict().items():
                assert torch.equal(state[name], value), name


@pytest.mark.parametrize("size", [(0, 4), (4, 0)])
def test_queue_needs_a_size(size):
    with pytest.raises(ValueError, match="queue_len"):
        KeyQueue(*size)


def test_steps_are_counted_twice_and_go_on_after_a_restart():
    counter = StepCounter()
    for n in range(3):
        assert counter.num_steps == counter.steps.item() == n
        counter.count_step()
    state = {f"part.{k}": v.clone() for k, v in counter.state_dict().items()}
    assert state.keys() == {"part.steps"}
    restored = nn.ModuleDict({"part": StepCounter()})
    restored.load_state_dict(state)
    assert type(restored["part"].num_steps) is int
    restored["part"].count_step()
    assert restored["part"].num_steps == restored["part"].steps.item() == 4
    assert counter.num_steps == 3


def method_of(query):
    """What a target must know of its method."""
    return SimpleNamespace(parts={"net": query}, clock=Clock())


def target_of(query, momentum):
    target = MomentumTarget(momentum)
    target.attach(method_of(query))
    return target


def convolutions(seed):
    torch.manual_seed(seed)
    layers = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 5, 2)
    return nn.Sequential(*layers)


def as_channels_last(key, query):
    for module in (key, query):
        module.to(memory_format=torch.channels_last)


def one_as_channels_last(key, query):
    key.to(memory_format=torch.channels_last)


def with_new_parameters(key, query):
    """As a layer that is replaced, or loaded by assignment."""
    for module in (key.net, query):
        state = {k: v.clone() for k, v in module.state_dict().items()}
        module.load_state_dict(state, assign=True)
        module[2] = copy.deepcopy(module[2])


def in_two_precisions(key, query):
    for module in (key.net, query):
        module[2].double()


@pytest.mark.parametrize("after", [0, 1])  # that many updates
@pytest.mark.parametrize(
    "change",
    [as_channels_last, one_as_channels_last, with_new_parameters, in_two_precisions],
)
def test_averages_whatever_becomes_of_the_parameters(change, after):
    query = convolutions(0)
    key = target_of(query, 0.9)
    truth = {name: p.clone() for name, p in query.named_parameters()}
    for t in range(4):
        if t == after:
            change(key, query)
        for p in query.parameters():
            p.data.normal_()
        key.update(method_of(query))
        for name, p in query.named_parameters():
            truth[name] = p.clone() if t == 0 else 0.9 * truth[name] + 0.1 * p
            torch.testing.assert_close(
                key.net.get_parameter(name), truth[name], check_dtype=False
            )
    assert key.steps.item() == key.num_steps == 4
    assert not any(p.requires_grad for p in key.parameters())
    layout = key.net[0].weight.is_contiguous(memory_format=torch.channels_last)
    assert layout == ("channels_last" in change.__name__)


def test_key_encoder_keeps_its_own_batch_norm_statistics():
    query = convolutions(0)
    key = target_of(query, 0.999)
    key.update(method_of(query))
    key.net(torch.randn(8, 3, 8, 8) + 3)
    statistics = key.net[1].running_mean.clone()
    key.update(method_of(query))
    assert torch.equal(key.net[1].running_mean, statistics)
    assert not torch.allclose(statistics, query[1].running_mean)


# --- what a queue keeps beside its keys


def test_what_is_not_known_is_minus_one():
    queue = KeyQueue(4, 4, labels=True, index=True)
    queue.enqueue(unit(3, 4), torch.tensor([5, 6, 7]), torch.tensor([0, 1, 2]))
    queue.enqueue(unit(2, 4), index=torch.tensor([3, 4]))
    assert queue.labels.tolist() == [-1, 6, 7, -1]
    assert queue.index.tolist() == [4, 1, 2, 3]


def test_metadata_is_saved():
    assert list(KeyQueue(4, 4).state_dict()) == ["keys", "ptr"]
    assert KeyQueue(4, 4).labels is None
    one = KeyQueue(4, 4, index=True)
    assert list(one.state_dict()) == ["keys", "ptr", "index"]
    assert "index=True" in repr(one) and "labels" not in repr(one)


@pytest.mark.parametrize(
    ("kept", "given", "message"),
    [
        ({}, {"labels": [1, 2]}, "labels=True"),
        ({"labels": True}, {"index": [1, 2]}, "index=True"),
        ({"labels": True}, {"labels": [1, 2, 3]}, "2 keys come with labels"),
        ({"index": True}, {"index": [[1], [2]]}, "2 keys come with index"),
    ],
)
def test_metadata_must_fit(kept, given, message):
    queue = KeyQueue(4, 4, **kept)
    before = {k: v.clone() for k, v in queue.state_dict().items()}
    with pytest.raises(ValueError, match=message):
        queue.enqueue(unit(2, 4), **{k: torch.tensor(v) for k, v in given.items()})
    assert all(torch.equal(before[k], v) for k, v in queue.state_dict().items())
