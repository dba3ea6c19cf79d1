"""The feature bank: by definition, in half precision, on two ranks, from a file."""

from functools import partial
from math import sqrt

import pytest
import torch
from torch import nn

from mmssl_ext.models.memory import (
    FeatureBank,
    OfflineLabels,
    OnlineLabels,
    feature_bank,
)

from ..distributed import run_ranks
from ..harness import assert_same
from . import loops
from .loops import dot

DTYPES = {
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
}
every_dtype = pytest.mark.parametrize("dtype", DTYPES)


unit = partial(loops.unit, dtype=torch.float)


def filled(images=9, dim=4, momentum=0.0, dtype="float32"):
    bank = FeatureBank(dim, momentum, dtype)
    bank.fill(unit(images, dim, seed=100), 17)
    return bank


@every_dtype
def test_fill_sets_unit_rows_and_the_size(dtype, monkeypatch):
    monkeypatch.setattr(feature_bank, "_BLOCK_ROWS", 3)
    bank = FeatureBank(4, dtype=dtype)
    assert len(bank) == 0
    assert bank.features.dtype == DTYPES[dtype]
    for images in (7, 5):  # filled again, with other images
        given = 5 * torch.randn(images, 4).double()
        expected = [[x / sqrt(sum(y * y for y in r)) for x in r] for r in given]
        expected = torch.tensor(expected).to(DTYPES[dtype])
        bank.fill(given, 2**62 + images)
        given.zero_()  # the bank has rows of its own
        assert len(bank) == images
        assert bank.features.dtype == DTYPES[dtype]
        assert bank.fingerprint.tolist() == [2**62 + images]
        eps = torch.finfo(bank.features.dtype).eps
        torch.testing.assert_close(bank.features, expected, atol=eps, rtol=eps)
        blocks = list(bank.blocks())
        assert [len(block) for block in blocks] == (
            [3, 3, 1] if images == 7 else [3, 2]
        )
        assert torch.equal(torch.cat(blocks), bank.features.float())
        rows = bank.read(torch.tensor([3, 0, 3]))
        assert rows.dtype == torch.float32
        for row, image in zip(rows, (3, 0, 3), strict=True):
            assert row.tolist() == bank.features[image].tolist()
    bank.clear()
    assert (len(bank), bank.fingerprint.item()) == (0, 0)
    assert bank.features.shape == (0, 4)


@pytest.mark.parametrize(
    "query", [torch.float64, torch.float32, torch.float16, torch.bfloat16]
)
@every_dtype
def test_similarity_is_the_inner_product_with_every_row(dtype, query, monkeypatch):
    monkeypatch.setattr(feature_bank, "_BLOCK_ROWS", 4)  # the last block is smaller
    bank, q = filled(dtype=dtype), unit(3, 4).to(query)
    found = bank.similarity(q)
    assert found.dtype == query
    assert found.shape == (3, 9)
    for n, row in enumerate(q.tolist()):
        for image, stored in enumerate(bank.features.tolist()):
            error = abs(found[n, image].item() - dot(row, stored))
            assert error <= torch.finfo(query).eps


@pytest.mark.parametrize("momentum", [0.0, 0.25])
@every_dtype
def test_update_keeps_the_last_feature_of_every_image(dtype, momentum):
    """Sheet, 7.5; w there is 1 - momentum here."""
    bank = filled(momentum=momentum, dtype=dtype)
    eps = torch.finfo(bank.features.dtype).eps
    batches = [[4, 1, 4, 7, 1, 4], [0, 2, 3], [8, 8], [5]]
    for seed, rows in enumerate(batches):
        features = unit(len(rows), 4, seed=seed)
        before = bank.features.clone()
        change = bank.update(torch.tensor(rows), features)
        last = {row: n for n, row in enumerate(rows)}
        for row in range(len(bank)):
            if row not in last:
                assert torch.equal(bank.features[row], before[row])
                continue
            new = features[last[row]].tolist()
            mixed = [
                momentum * a + (1 - momentum) * b
                for a, b in zip(before[row].tolist(), new, strict=True)
            ]
            norm = sqrt(sum(x * x for x in mixed))
            for stored, x in zip(bank.features[row].tolist(), mixed, strict=True):
                assert abs(stored - x / norm) <= eps
        assert change.rows.tolist() == rows
        assert change.old.dtype == change.new.dtype == torch.float32
        assert torch.equal(change.old, before[rows].float())
        assert torch.equal(change.new, bank.features[rows].float())
        counted = [row for row, one in zip(rows, change.counts, strict=True) if one]
        assert sorted(counted) == sorted(set(rows))
        norms = bank.features.double().norm(dim=1)
        torch.testing.assert_close(norms, torch.ones_like(norms), atol=eps, rtol=0)


def run_steps(rank, batches, seed, dtype, momentum, interval):
    """What the memory holds after the steps, and the members drawn in each."""
    bank = filled(40, 6, momentum, dtype)
    kinds = (OnlineLabels(6, interval, min_size=4), OfflineLabels(6))
    states, drawn = [], []
    for labels in kinds:
        labels.start(bank, seed)
    for n, (rows, features) in enumerate(batches):
        change = bank.update(rows, features)
        for labels in kinds:
            generator = torch.Generator().manual_seed(n)
            drawn.append(labels.draw_members(rows, generator))
            labels.update(change, bank)
        if n % 4 == 3:
            kinds[1].end_epoch(n // 4 + 1, bank)
        states += [
            {name: x.clone() for name, x in module.state_dict().items()}
            for module in (bank, *kinds)
        ]
    return states, drawn


def run_half_of_the_steps(rank, batches, cases):
    """Each rank has a seed of its own; the first one's is to count."""
    half = [
        (rows.chunk(2)[rank], features.chunk(2)[rank]) for rows, features in batches
    ]
    return [run_steps(rank, half, rank, *case) for case in cases]


def test_two_ranks_hold_what_one_process_holds():
    """Sheet, 7.12: bit for bit after every step, with images that both ranks have."""
    generator = torch.Generator().manual_seed(3)
    batches = [
        (torch.randint(40, (12,), generator=generator), unit(12, 6, seed=n))
        for n in range(8)
    ]
    assert any(set(rows[:6].tolist()) & set(rows[6:].tolist()) for rows, _ in batches)
    cases = [("float32", 0.0, 3), ("float16", 0.5, 2), ("bfloat16", 0.25, 1)]
    whole = [run_steps(0, batches, 0, *case) for case in cases]
    found = run_ranks(run_half_of_the_steps, 2, batches, cases)
    for n, (states, drawn) in enumerate(whole):
        for rank in range(2):
            assert_same(found[rank][n][0], states)
        parts = zip(found[0][n][1], found[1][n][1], strict=True)
        for (first, second), expected in zip(parts, drawn, strict=True):
            assert torch.equal(torch.cat([first, second]), expected)


@pytest.mark.parametrize("images", [0, 30])
def test_a_state_brings_its_size(images):
    dtype = "float16"
    saved = nn.ModuleDict({"bank": filled(dtype=dtype)}).state_dict()
    bank = filled(images, dtype=dtype) if images else FeatureBank(4, dtype=dtype)
    model = nn.ModuleDict({"bank": bank})
    bank.adopt_sizes(saved, "bank.")
    assert {k: v.shape for k, v in model.state_dict().items()} == {
        k: v.shape for k, v in saved.items()
    }
    model = nn.ModuleDict({"bank": FeatureBank(4, dtype=dtype)})
    model.load_state_dict(saved)
    assert_same(model.state_dict(), saved)


def test_a_state_of_another_model_does_not_fit():
    bank = filled()
    before = bank.features.clone()
    bank.adopt_sizes({"other.features": torch.zeros(3, 4)}, "bank.")
    assert torch.equal(bank.features, before)
    with pytest.raises(RuntimeError, match=r"size mismatch for features"):
        bank.load_state_dict(filled(dim=5).state_dict())


@pytest.mark.parametrize("momentum", [-0.1, 1.0])
def test_a_momentum_that_never_writes_is_refused(momentum):
    with pytest.raises(ValueError, match=r"bank_momentum=.* must lie in \[0, 1\)"):
        FeatureBank(4, momentum)


def test_other_precisions_are_refused():
    with pytest.raises(ValueError, match="bank_dtype='float64' must be one of float32"):
        FeatureBank(4, dtype="float64")
