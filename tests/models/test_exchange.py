"""Rows that change places between ranks, and uint8 views."""

from unittest import mock

import pytest
import torch
from mmengine.dist import all_gather
from mmengine.optim import OptimWrapper
from torch.nn.parallel import DistributedDataParallel

from mmssl_ext.models.layers import (
    exchange_rows,
    plan_exchange,
    shuffle_batch,
    unshuffle_batch,
)
from mmssl_ext.models.targets import momentum

from ..distributed import run_ranks
from .common import CELL_ALGORITHMS, QUEUE_ALGORITHMS, build, samples

pytestmark = pytest.mark.filterwarnings("ignore:bn_splits=1")
ROWS = 5
DTYPES = (torch.uint8, torch.float32, torch.bfloat16, torch.int64)


def kinds(rank):
    """This rank's rows, in all shapes and memory formats that occur."""
    generator = torch.Generator().manual_seed(rank)
    for dtype in DTYPES:

        def draw(*shape, dtype=dtype):
            values = torch.randint(256, (ROWS, *shape), generator=generator)
            return values.to(dtype)

        yield draw()
        yield draw(7)
        yield draw(3, 6).transpose(1, 2)  # cells of a map
        yield draw(3, 4, 6)
        yield draw(4, 6, 3).permute(0, 3, 1, 2)  # channels_last
        yield draw(2, 4, 6, 3).permute(0, 1, 4, 2, 3)  # patches, likewise
        yield draw(3, 8, 9)[:, :, 2:5]  # with gaps
        yield draw(1).expand(ROWS, 4)
        yield draw(3, 1, 1)


def orders(world_size):
    """Random; all stay; all go to the next rank; one rank keeps all, others mix."""
    total = world_size * ROWS
    generator = torch.Generator().manual_seed(world_size)
    yield torch.randperm(total, generator=generator)
    yield torch.arange(total)
    yield torch.arange(total).roll(ROWS)
    others = torch.randperm(total - ROWS, generator=generator) + ROWS
    yield torch.cat([torch.arange(ROWS).flip(0), others])


def exchange_on_a_rank(rank, world_size):
    results = []
    for order in orders(world_size):
        there = plan_exchange(order, torch.device("cpu"))
        back = plan_exchange(order.argsort(), torch.device("cpu"))
        for x in kinds(rank):
            moved = exchange_rows(x, there)
            results.append(
                (moved, exchange_rows(moved, back), moved.stride() == x.stride())
            )
    return results


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_every_row_goes_where_the_order_says(world_size):
    everything = [
        torch.cat(rows) for rows in zip(*map(kinds, range(world_size)), strict=True)
    ]
    results = run_ranks(exchange_on_a_rank, world_size, world_size)
    for rank, found in enumerate(results):
        found = iter(found)
        for order in orders(world_size):
            for rows, x in zip(everything, kinds(rank), strict=True):
                moved, restored, same_format = next(found)
                expected = torch.stack(
                    [rows[order[rank * ROWS + p]] for p in range(ROWS)]
                )
                assert moved.dtype == x.dtype and torch.equal(moved, expected)
                assert torch.equal(restored, x)
                dense = x.numel() == x.untyped_storage().nbytes() // x.itemsize
                assert same_format or not dense
        assert next(found, None) is None


def test_one_device_restores_and_is_keyed():
    x = torch.arange(16)
    shuffled, back = shuffle_batch(x, seed=3)
    assert (
        shuffled.tolist()
        == torch.randperm(16, generator=torch.Generator().manual_seed(3)).tolist()
    )
    assert torch.equal(unshuffle_batch(shuffled, back), x)
    assert torch.equal(shuffle_batch(x, seed=3)[0], shuffled)
    assert not torch.equal(shuffle_batch(x, seed=4)[0], shuffled)
    state = torch.get_rng_state()
    shuffle_batch(x, seed=5)
    assert torch.equal(torch.get_rng_state(), state)


def gather_everything(x, seed):
    """Shuffle-BN from the definition: all images everywhere, then this rank's part."""
    everything = torch.cat(all_gather(x.contiguous()))
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(everything), generator=generator)
    return everything[own_part(order)], order.argsort()


def restore_everything(x, inverse):
    return torch.cat(all_gather(x.contiguous()))[own_part(inverse)]


def own_part(order):
    return order.view(2, -1)[torch.distributed.get_rank()]


def uint8_views(model, batch, generator):
    """Images, for a method that takes them with patch sets."""
    size = 64 if type(model).__name__ in CELL_ALGORITHMS else 32
    whole, more = (3, size, size), model.num_views - 2
    patches = type(model).__name__ == "DetCo"
    shapes = [whole] * 2 + [(9, 3, 32, 32) if patches else whole] * more
    return [
        torch.randint(256, (batch, *s), generator=generator, dtype=torch.uint8)
        for s in shapes
    ]


def shuffle_uint8(x, seed):
    assert x.dtype == torch.uint8
    return shuffle_batch(x, seed)


CASES = {name: (name, {}) for name in QUEUE_ALGORITHMS} | {
    "both directions": ("MoCo", dict(pairs=((0, 1), (1, 0))))
}


def train_on_a_rank(rank, name, plain):
    """Two train_steps on this rank's uint8 images; ``plain``: as defined, floats."""
    type_, changes = CASES[name]
    model = build(type_, **changes)
    assert model.shuffles
    call = DistributedDataParallel(model)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = OptimWrapper(torch.optim.SGD(trained, lr=0.1, momentum=0.9))
    history = []
    for seed in range(2):
        generator = torch.Generator().manual_seed(2 * seed + rank)
        inputs = uint8_views(model, 5, generator)
        numbers = range(10 * seed + 5 * rank, 10 * seed + 5 * rank + 5)
        data = model.data_preprocessor(
            dict(inputs=inputs, data_samples=samples(numbers)), True
        )
        assert all(x.dtype == torch.uint8 for x in data["inputs"])
        if plain:
            data["inputs"] = list(map(model.data_preprocessor.normalise, inputs))
        losses, figures = model.parse_losses(call(**data, mode="loss"))
        optimizer.update_params(losses)
        history.append({k: v.item() for k, v in figures.items()})
    return model.state_dict(), history


def train_both_ways(rank):
    torch.use_deterministic_algorithms(True)
    results = {}
    for name in CASES:
        with mock.patch.object(momentum, "shuffle_batch", shuffle_uint8):
            ours = train_on_a_rank(rank, name, plain=False)
        with (
            mock.patch.object(momentum, "shuffle_batch", gather_everything),
            mock.patch.object(momentum, "unshuffle_batch", restore_everything),
        ):
            results[name] = ours, train_on_a_rank(rank, name, plain=True)
    return results


@pytest.fixture(scope="module")
def ranks():
    return run_ranks(train_both_ways, 2)


def test_both_ranks_have_trained(ranks):
    """Before those below, so that what all share is on no method's account."""
    assert len(ranks) == 2 and all(rank.keys() == {*CASES} for rank in ranks)


@pytest.mark.parametrize("name", CASES)
def test_uint8_training_equals_gathered_floats(name, ranks):
    for (state, history), (truth, expected) in (r[name] for r in ranks):
        assert history == expected
        assert state.keys() == truth.keys()
        for key, value in truth.items():
            assert torch.equal(state[key], value), key
    assert ranks[0][name][0][1] != ranks[1][name][0][1]  # other images
