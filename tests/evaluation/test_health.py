"""Health figures on embeddings whose figures are known."""

import math

import pytest
import torch
from torch.nn.functional import normalize

from mmssl_ext.evaluation import embedding_health


def figures(*tensors):
    return {name: float(value) for name, value in embedding_health(*tensors).items()}


def test_constant_embeddings():
    row = normalize(torch.randn(1, 32), dim=1)
    rows = row.expand(16, -1)
    found = figures(rows, rows, row.expand(64, -1))
    assert found["std_ratio"] == pytest.approx(0, abs=1e-4)
    assert found["effective_rank"] == pytest.approx(1, abs=1e-2)
    assert found["uniformity"] == pytest.approx(0, abs=1e-5)
    assert found["alignment"] == pytest.approx(0, abs=1e-5)
    assert found["pos_neg_gap"] == pytest.approx(0, abs=1e-5)


def test_orthonormal_embeddings():
    rows = torch.eye(8)
    found = figures(rows, rows.roll(1, 0), -rows)
    # per channel: one 1 and seven 0
    assert found["std_ratio"] == pytest.approx(math.sqrt(7 / 64 * 8))
    assert found["effective_rank"] == pytest.approx(8)
    assert found["uniformity"] == pytest.approx(-4)  # every squared distance is 2
    assert found["alignment"] == pytest.approx(2)
    assert found["pos_neg_gap"] == pytest.approx(0 - -1 / 8)


def test_random_embeddings_spread():
    torch.manual_seed(0)
    found = figures(normalize(torch.randn(512, 64), dim=1))
    assert found["std_ratio"] == pytest.approx(1, abs=0.02)
    assert found["effective_rank"] > 55
    assert set(found) == {"std_ratio", "effective_rank", "uniformity"}
