"""What every algorithm must keep, whatever it contrasts."""

import copy
import re
from unittest import mock

import pytest
import torch
from torch.nn.parallel import DistributedDataParallel

from mmssl_ext.models.layers import SplitBatchNorm, region
from mmssl_ext.models.memory import KeyQueue
from mmssl_ext.models.terms import regions

from ..distributed import run_ranks
from ..harness import assert_same
from .common import (
    ALGORITHMS,
    MOMENTUM_ALGORITHMS,
    NOT_DRAWN,
    QUEUE_ALGORITHMS,
    boxes,
    build,
    double,
    encode_key,
    encode_query,
    freeze_norms,
    losses_of,
    samples,
    sgd,
    step,
    total,
    views,
)

pytestmark = [
    pytest.mark.filterwarnings("ignore:bn_splits=1"),
    pytest.mark.filterwarnings("ignore:The batch of .* no multiple of bn_splits"),
]
every_algorithm = pytest.mark.parametrize("name", ALGORITHMS)
every_queue_algorithm = pytest.mark.parametrize("name", QUEUE_ALGORITHMS)


def variants(*bn_splits):
    """Each algorithm with each ``bn_splits``, where it has that at all."""
    cases = [(name, dict(bn_splits=n)) for name in QUEUE_ALGORITHMS for n in bn_splits]
    cases += [(name, {}) for name in ALGORITHMS[len(QUEUE_ALGORITHMS) :]]
    ids = ["-".join([name, *map(str, changes.values())]) for name, changes in cases]
    return pytest.mark.parametrize(("name", "changes"), cases, ids=ids)


def queues(model):
    """Every queue by its name."""
    modules = model.named_modules()
    return {name: module for name, module in modules if isinstance(module, KeyQueue)}


def assert_same_state(ours, theirs):
    assert_same(ours.state_dict(), theirs.state_dict())


@variants(4)
def test_every_parameter_learns_and_no_key_does(name, changes):
    model = build(name, **changes)
    with mock.patch.object(model, "remember", wraps=model.remember) as spy:
        losses = model(views(8, type_=name), samples(8), mode="loss", boxes=boxes(8))
    assert "loss_instance" in losses or name == "DetCo"
    for key, value in losses.items():
        assert value.shape == (), key
        assert value.requires_grad == key.startswith("loss_"), key
        if key.startswith("loss_"):
            assert not losses[key.replace("loss", "raw")].requires_grad
    total(losses).backward()
    for key, parameter in model.named_parameters():
        if key.startswith("target.") or ".snapshots." in key:
            assert not parameter.requires_grad and parameter.grad is None, key
        else:
            assert parameter.grad is not None and parameter.grad.abs().sum() > 0, key
    (seen,) = spy.call_args.args
    for features in seen.online.values():
        assert features["embedding"].requires_grad
        assert features["projection"].requires_grad
    if name != "SimCLR":  # whose targets learn too
        keys = [x for features in seen.target.values() for x in features.values()]
        assert not any(x.requires_grad for x in keys)
    constants = dict(model.named_buffers()) | model.last_embeddings
    assert not any(x.requires_grad for x in constants.values())
    assert not any(x.requires_grad for x in seen.figures.values())


@variants(8)
def test_any_batch_size(name, changes):
    model, seen = build(name, **changes), 0  # queues of 64
    for seed, batch in enumerate((1, 5, 70)):
        if name not in QUEUE_ALGORITHMS or name == "TKC":
            batch = max(2, batch)  # neck or transformers have BatchNorm
        inputs = views(batch, seed, 64, type_=name)
        losses = model(inputs, samples(batch), mode="loss", boxes=boxes(batch))
        assert all(torch.isfinite(v) for v in losses.values())
        seen += batch
        for queue in queues(model).values():
            assert queue.ptr.item() == seen % 64
        for x in model.last_embeddings.values():
            assert len(x) == batch
            torch.testing.assert_close(x.norm(dim=1), torch.ones(batch))
    for queue in queues(model).values():
        norms = queue.keys.norm(dim=-1)
        torch.testing.assert_close(norms, torch.ones_like(norms))


@every_algorithm
def test_two_steps_in_bfloat16_are_finite(name):
    model = build(name)
    optimizer = sgd(model)
    for seed in range(2):
        with torch.autocast("cpu", torch.bfloat16):
            given = views(8, seed, type_=name), samples(8)
            losses = model(*given, mode="loss", boxes=boxes(8))
        assert all(value.isfinite() for value in losses.values())
        optimizer.zero_grad()
        total(losses).backward()
        optimizer.step()
    state = {key: x for key, x in model.state_dict().items() if x.is_floating_point()}
    assert [key for key, x in state.items() if not x.isfinite().all()] == []


@every_queue_algorithm
def test_keys_become_negatives_after_their_own_step(name):
    model = build(name)
    model(views(8, 0, type_=name), samples(8), mode="loss", boxes=boxes(8))
    before = copy.deepcopy(model)
    inputs, images = views(8, 1, type_=name), samples(range(8, 16))
    losses = model(inputs, images, mode="loss")
    made = before.step(inputs, index=torch.arange(8, 16))
    again = losses_of(before, made)
    assert again.keys() == losses.keys()
    for term, value in losses.items():  # against the queue as it stood before
        torch.testing.assert_close(again[term], value)
    key = made.target[1]["embedding"]
    torch.testing.assert_close(model.last_embeddings["key"], key)
    assert torch.equal(model.negatives[8:16], model.last_embeddings["key"])
    for part, queue in queues(model).items():
        old = dict(before.named_modules())[part].keys
        changed = (queue.keys != old).any(-1)  # K or G x K
        assert changed[..., 8:16].all()
        assert not changed[..., :8].any() and not changed[..., 16:].any()


def by_halves(num_images, device=None):
    """The pairing of two ranks, in one process."""
    half = region.pairing(num_images // 2, device)
    return torch.cat([half, half + num_images // 2])


def train(name, rank, world_size):
    """Two steps on this rank's part of twelve images, BatchNorm frozen."""
    model = double(build(name))  # in float32 rounding grows from step to step
    assert name not in QUEUE_ALGORITHMS or model.shuffles == (world_size > 1)
    call = DistributedDataParallel(model) if world_size > 1 else model
    freeze_norms(model)
    optimizer, history = sgd(model), []
    with mock.patch.object(region, "get_rank", return_value=0):  # one for all
        for seed in range(2):
            inputs = [v.double() for v in views(12, seed, type_=name)]
            inputs = [v.chunk(world_size)[rank] for v in inputs]
            images = torch.arange(12).add(20 * seed).chunk(world_size)[rank]
            history.append(step(call, inputs, optimizer, images))
    return model.state_dict(), history


def train_on_a_rank(rank):
    torch.use_deterministic_algorithms(True)
    return {name: train(name, rank, 2) for name in ALGORITHMS}


@pytest.fixture(scope="module")
def ranks():
    return run_ranks(train_on_a_rank, 2)  # all at once: starting processes is slow


def test_both_ranks_have_trained_all_methods(ranks):
    """Before those below, so that what all share is on no method's account."""
    assert len(ranks) == 2 and ranks[0].keys() == ranks[1].keys() >= {*ALGORITHMS}


@every_algorithm
def test_two_ranks_equal_one(name, ranks):
    with mock.patch.object(regions, "pairing", by_halves):
        truth, history = train(name, 0, 1)
    for t, losses in enumerate(history):
        for key, value in losses.items():
            mean = sum(r[name][1][t][key] for r in ranks) / 2
            assert mean == pytest.approx(value, rel=1e-5, abs=1e-5), key
    for state, _ in (r[name] for r in ranks):
        assert state.keys() == truth.keys()
        for key, value in truth.items():
            torch.testing.assert_close(state[key], value, rtol=1e-5, atol=1e-5)


@every_queue_algorithm
def test_one_device_splits_and_shuffles_the_keys(name):
    model = build(name, bn_splits=4)
    split = [m for m in model.modules() if isinstance(m, SplitBatchNorm)]
    plain = [m for m in model.modules() if type(m) is torch.nn.BatchNorm2d]
    assert len(split) == 2 * 20
    assert not any(m.training for m in plain)  # TKC's snapshots use running statistics
    assert model.shuffles
    # The key sees another grouping than the query would with the same images ...
    view = model.views_of(views(16, type_=name))[0]
    key, query = encode_key(model, view), encode_query(model, view)
    assert key.keys() <= query.keys()
    for part, value in key.items():
        assert not torch.allclose(value, query[part], atol=1e-2), part
    # ... and comes back in order: without batch statistics nothing is left of it.
    model.eval()
    model.target.follow(model)
    key, query = encode_key(model, view), encode_query(model, view)
    for part, value in key.items():
        torch.testing.assert_close(value, query[part])
        assert not torch.allclose(value, value.roll(1, 0), atol=1e-2), part


@variants(4)
def test_state_dict_holds_everything(name, changes):
    model = build(name, **changes)
    step(model, views(8, type_=name), sgd(model))
    restored = build(name, seed=1, **changes)
    restored.load_state_dict(model.state_dict())
    for seed in (1, 2):
        inputs = views(8, seed, type_=name)
        one, two = (step(m, inputs, sgd(m)) for m in (model, restored))
        assert one == two
    assert_same_state(restored, model)


@every_algorithm
def test_embed_modes(name):
    model = build(name)
    model(views(8, type_=name), samples(8), mode="loss", boxes=boxes(8))
    with torch.no_grad():
        model.backbone.conv1.weight.add_(1)
    model.eval()
    inputs = views(5, type_=name)
    query = model(inputs[0], mode="embed")
    maps = model(inputs[0], mode="tensor")[-1]
    torch.testing.assert_close(query["backbone"], maps.mean((2, 3)))
    view = model.views_of(inputs)[0]
    trained = model.encode(model, view)["projection"]
    torch.testing.assert_close(query["embedding"], trained)
    if name not in MOMENTUM_ALGORITHMS:
        with pytest.raises(ValueError, match=f"{name} has no target network"):
            model(inputs[0], mode="embed_key")
        return
    key = model(inputs[0], mode="embed_key")
    old = model.encode(model.target, view)["projection"]
    torch.testing.assert_close(key["embedding"], old)
    assert not torch.allclose(query["backbone"], key["backbone"], atol=1e-2)


@every_algorithm
def test_wrong_number_of_views_is_refused(name):
    model, inputs = build(name), views(4, type_=name)
    right = len(inputs)
    wrong = {1: inputs[0], right - 1: inputs[:-1], right + 1: [*inputs, inputs[0]]}
    for count, given in wrong.items():
        message = re.escape(f"{name} takes {right} views per image, not {count};")
        with pytest.raises(ValueError, match=message):
            model(given, samples(4), mode="loss")
        with pytest.raises(ValueError, match=message):
            model.check_inputs(given)


@pytest.mark.parametrize("name", NOT_DRAWN)
def test_nothing_to_inspect_is_said(name):
    with pytest.raises(ValueError, match=f"{name} has nothing to draw"):
        build(name)(views(4, type_=name), mode="inspect")


@variants(4)
def test_looking_does_not_change_training(name, changes):
    looked_at, left_alone = build(name, **changes), build(name, **changes)
    for seed in range(2):
        looked_at.eval()
        looked_at.check_inputs(views(1, 7, type_=name))
        looked_at(views(2, 8, type_=name)[0], mode="embed")
        if name not in NOT_DRAWN:
            looked_at(views(2, 8, type_=name), mode="inspect")
        assert_same_state(looked_at, left_alone)
        looked_at.train()
        inputs = views(8, seed, type_=name)
        one, two = (step(m, inputs, sgd(m)) for m in (looked_at, left_alone))
        assert one == two
    assert_same_state(looked_at, left_alone)
