"""SimCLR against mmpretrain's, against a loss written in loops, and by hand."""

import math

import pytest
import torch

from mmssl_ext.models.comparisons import BatchSoftmax

from .common import build, model_config, views
from .loops import unit
from .peers import CONTRAST, assert_trains_alike, in_encoders, peer


def images(count=6, seed=0):
    return [view.double() for view in views(count, seed)]


def build_double(**changes):
    return build("SimCLR", temperature=0.2, **changes).double()


def nt_xent(first, second, temperature):
    first, second = (torch.as_tensor(x, dtype=torch.double) for x in (first, second))
    return BatchSoftmax(temperature).nt_xent(first, second)


def unit_rows(count, size=5, seed=0):
    return unit(2, count, size, seed=seed)


# --- the loss


def slow_nt_xent(first, second, temperature):
    """Equation 1 of the paper, pair by pair, in Python's own numbers."""
    z = [*first.tolist(), *second.tolist()]
    n = len(first)

    def similarity(i, j):
        product = sum(a * b for a, b in zip(z[i], z[j], strict=True))
        return math.exp(product / temperature)

    losses = []
    for i in range(2 * n):
        pair = i + n if i < n else i - n
        others = sum(similarity(i, j) for j in range(2 * n) if j != i)
        losses.append(-math.log(similarity(i, pair) / others))
    return sum(losses) / (2 * n)


@pytest.mark.parametrize("n", [1, 2, 7])
@pytest.mark.parametrize("temperature", [0.1, 0.5])
def test_loss_equals_the_definition(n, temperature):
    first, second = unit_rows(n)
    loss = nt_xent(first, second, temperature).item()
    assert loss == pytest.approx(slow_nt_xent(first, second, temperature))
    bound = 1 / temperature  # cosines of 1 with the pair and -1 with all others
    floor = -bound + math.log(math.exp(bound) + (2 * n - 2) * math.exp(-bound))
    assert loss >= floor - 1e-12


def test_loss_by_hand():
    a, b = [[1, 0], [0, 1]], [[0.6, 0.8], [-0.8, 0.6]]
    # Rows of 0.308957, 1.027123, 1.027123 and 0.308957
    assert nt_xent(a, b, 0.5).item() == pytest.approx(0.668040, abs=1e-6)
    assert nt_xent(a, b, 0.1).item() == pytest.approx(1.064850, abs=1e-6)
    # The pair has cosine 1, the two views of the other image have 0.
    assert nt_xent(a, a, 0.5).item() == pytest.approx(math.log(1 + 2 / math.e**2))
    # All are equal: 2N - 1 candidates.
    point = torch.eye(256)[:1].expand(256, -1)
    assert nt_xent(point, point, 0.1).item() == pytest.approx(math.log(511))
    # Positives of 1 and negatives of 0
    rows = torch.eye(256)
    expected = math.log(1 + 510 * math.exp(-10))
    assert nt_xent(rows, rows, 0.1).item() == pytest.approx(expected)
    # A single image: nothing to be confused with
    assert nt_xent(a[:1], b[:1], 0.1).item() == 0


def test_gradient_and_precision():
    torch.manual_seed(0)
    first, second = torch.randn(2, 3, 4, dtype=torch.double, requires_grad=True)
    compare = BatchSoftmax(0.5)
    assert torch.autograd.gradcheck(compare.nt_xent, (first, second))
    for grad in torch.autograd.grad(compare.nt_xent(first, second), (first, second)):
        assert grad.abs().sum(1).min() > 0
    assert torch.autograd.gradcheck(compare.pair, (first, second))
    rows = unit_rows(16, 32).float()
    for loss in (compare.nt_xent, compare.pair):
        with torch.autocast("cpu", torch.bfloat16):
            mixed = loss(*rows)
        assert torch.equal(mixed, loss(*rows))


# --- the step


def test_sum_of_the_directions_is_the_official_scale():
    inputs = images()
    mean, total = (
        build_double(reduce=reduce)(inputs, mode="loss")["loss_instance"]
        for reduce in ("mean", "sum")
    )
    torch.testing.assert_close(total, 2 * mean)


def test_equals_mmpretrain_step_for_step():
    ours = build_double()
    config = model_config("SimCLR", head=CONTRAST)
    theirs = peer("SimCLR", config).double()
    names = in_encoders(ours, ("backbone", "neck"))
    losses = {"loss_instance": "loss"}
    assert_trains_alike(
        *(ours, theirs, names, lambda k: images(seed=k), losses), rtol=1e-7, atol=1e-7
    )
