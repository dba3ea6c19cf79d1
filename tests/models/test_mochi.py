"""MoCHi: mixed hard negatives by hand, against loops, and beside MoCo."""

from __future__ import annotations

import copy
import math
from unittest import mock

import pytest
import torch
from torch.nn.functional import normalize

from mmssl_ext.models import comparisons
from mmssl_ext.models.losses import draw_mixtures, info_nce, mix_negatives, queue_topk
from mmssl_ext.models.losses.hard_mixing import Mixtures

from .common import build, contrast, double, losses_of, samples, total, views
from .loops import unit
from .shapes import largest

pytestmark = pytest.mark.filterwarnings("ignore:bn_splits=1")


def rows(*vectors):
    return torch.tensor(vectors, dtype=torch.double)


Q, K = rows((1.0, 0.0)), rows((0.8, 0.6))
QUEUE = rows((0.6, 0.8), (0.0, 1.0), (-1.0, 0.0), (0.6, -0.8))
ALL = torch.arange(4)[None]  # as if hardest, so that numbers are positions


def mixtures(pairs=(), with_query=()):
    """(i, j, a) of each pair and (j, b) of each mixture with the query, of one row."""
    pairs, with_query = list(pairs), list(with_query)
    first, second, share = zip(*pairs, strict=True) if pairs else ((), (), ())
    partner, query = zip(*with_query, strict=True) if with_query else ((), ())
    numbers = [torch.tensor([x]).long() for x in (first, second, partner)]
    shares = [torch.tensor([x], dtype=torch.double) for x in (share, query)]
    return Mixtures(*numbers[:2], shares[0], numbers[2], shares[1])


@pytest.mark.parametrize(
    ("by", "mixed", "loss"),
    [
        (mixtures(), [], 0.562012),
        (mixtures([(0, 1, 0.25)]), [(0.155963, 0.987763)], 0.584529),
        (mixtures([(0, 3, 0.5)]), [(1.0, 0.0)], 1.497943),
        (mixtures([], [(0, 0.4)]), [(0.845489, 0.533993)], 1.101802),
        (
            mixtures([(0, 1, 0.25)], [(0, 0.4)]),
            [(0.155963, 0.987763), (0.845489, 0.533993)],
            1.114989,
        ),
    ],
)
def test_by_hand(by, mixed, loss):
    found = mix_negatives(Q, QUEUE, ALL, by)
    assert found.shape == (1, len(mixed), 2)
    if mixed:
        torch.testing.assert_close(found, rows(*mixed)[None], atol=1e-6, rtol=0)
    q = Q.clone().requires_grad_()
    nce = info_nce(q, K, QUEUE, 0.2, found)
    assert nce.item() == pytest.approx(loss, abs=1e-6)
    nce.backward()
    slopes = {0.562012: (-0.461825, -1.237612), 1.114989: (-0.214210, -0.822384)}
    if loss in slopes:
        torch.testing.assert_close(q.grad, rows(slopes[loss]), atol=1e-6, rtol=0)


def loop_mochi(q, k, queue, temperature, num, by):
    """Loss of every query and its synthetic negatives, one at a time."""
    found = []
    for n in range(len(q)):
        row = q[n].detach()
        order = sorted(range(len(queue)), key=lambda j: -float(queue[j] @ row))[:num]
        hardest = [queue[j] for j in order]
        extra = []
        for i, j, a in zip(by.first[n], by.second[n], by.share[n], strict=True):
            extra.append(a * hardest[i] + (1 - a) * hardest[j])
        for j, b in zip(by.partner[n], by.query_share[n], strict=True):
            extra.append(b * row + (1 - b) * hardest[j])
        candidates = [k[n], *queue, *(normalize(x, dim=0) for x in extra)]
        logits = torch.stack([q[n] @ x / temperature for x in candidates])
        found.append(logits.logsumexp(0) - logits[0])
    return torch.stack(found)


def drawn(count, num, s, with_query, seed=0):
    generator = torch.Generator().manual_seed(seed)
    by = draw_mixtures(count, num, (s, with_query), generator)
    return Mixtures(*(x.double() if x.is_floating_point() else x for x in by))


@pytest.mark.parametrize("sizes", [(5, 3), (4, 0), (0, 4)])
def test_equals_loops_with_gradient(sizes):
    q, k, queue = unit(6, 8), unit(6, 8, seed=1), unit(40, 8, seed=2)
    by = drawn(6, 10, *sizes)
    one, two = (q.clone().requires_grad_() for _ in range(2))
    _, hardest = queue_topk(one, queue, 10)
    assert len({tuple(sorted(x.tolist())) for x in hardest}) == 6  # each its own
    mixed = mix_negatives(one, queue, hardest, by)
    assert not mixed.requires_grad
    torch.testing.assert_close(mixed.norm(dim=-1), torch.ones(6, sum(sizes)).double())
    ours = info_nce(one, k, queue, 0.2, mixed)
    truth = loop_mochi(two, k, queue, 0.2, 10, by)
    torch.testing.assert_close(ours, truth)
    assert (ours > info_nce(q, k, queue, 0.2)).all()
    ours.sum().backward()
    truth.sum().backward()
    torch.testing.assert_close(one.grad, two.grad)


def test_a_mixture_with_the_query_is_harder_than_its_negative():
    q, queue = unit(20, 8), unit(40, 8, seed=2)
    _, hardest = queue_topk(q, queue, 10)
    by = drawn(20, 10, 0, 30)
    likeness = (mix_negatives(q, queue, hardest, by) * q[:, None]).sum(-1)
    plain = (queue[hardest.gather(1, by.partner)] * q[:, None]).sum(-1)
    assert (likeness > plain).all()
    alone = by._replace(query_share=torch.zeros_like(by.query_share))
    same = (mix_negatives(q, queue, hardest, alone) * q[:, None]).sum(-1)
    torch.testing.assert_close(same, plain)


def test_draws_are_uniform_and_anew_for_every_mixture():
    by = draw_mixtures(200, 8, (50, 50), torch.Generator().manual_seed(0))
    for numbers in (by.first, by.second, by.partner):
        counts = numbers.flatten().bincount(minlength=8)
        assert len(counts) == 8
        assert (counts - 1250).abs().max() < 5 * math.sqrt(1250)
    for shares, high in ((by.share, 1), (by.query_share, 0.5)):
        assert shares.min() >= 0 and shares.max() < high
        assert shares.mean().item() == pytest.approx(high / 2, abs=0.01)
    assert (by.first == by.second).float().mean().item() == pytest.approx(
        1 / 8, abs=0.02
    )
    assert len(by.share.flatten().unique()) > 9_900


def test_gradcheck():
    q, k, queue = unit(3, 4), unit(3, 4, seed=1), unit(9, 4, seed=2)
    by = drawn(3, 4, 3, 2)
    _, hardest = queue_topk(q, queue, 4)
    mixed = mix_negatives(q, queue, hardest, by)
    assert torch.autograd.gradcheck(
        lambda x: info_nce(x, k, queue, 0.3, mixed), q.requires_grad_()
    )


# The method


def head(**changes):
    return dict(num_hardest=8, num_mixed=6, num_with_query=3, temperature=0.2) | changes


def test_the_method_is_its_formula_on_the_queue():
    model = double(build("MoCHi", head=head()))
    q, k = unit(6, 16).requires_grad_(), unit(6, 16, seed=1)
    found = contrast(model, {"embedding": q}, {"embedding": k})["loss_instance"]
    by = drawn(6, 8, 6, 3, seed=model.clock.draw_seed)
    truth = loop_mochi(q, k, model.negatives, 0.2, 8, by).mean()
    assert found.item() == pytest.approx(truth.item(), abs=1e-12)
    ours, exact = (torch.autograd.grad(x, q)[0] for x in (found, truth))
    torch.testing.assert_close(ours, exact)


OFF = {
    "no mixtures": dict(num_mixed=0, num_with_query=0),
    "mixing 0": dict(mixing=0),
    "warm-up": dict(mixing=dict(kind="step", start=0, end=1, until=3)),
}


@pytest.mark.parametrize("changes", OFF.values(), ids=OFF)
def test_without_mixtures_and_before_them_it_is_moco_to_the_bit(changes):
    moco, ours = build("MoCo"), build("MoCHi", head=head(**changes))
    for seed in range(4):
        found = []
        for model in (moco, ours):
            model.zero_grad()
            losses = model(views(8, seed), samples(8), mode="loss")
            total(losses).backward()
            found.append(losses["loss_instance"].item())
        begun = seed == 3 and "mixing" in changes and changes["mixing"] != 0
        assert (found[0] != found[1]) == begun
        peers = dict(moco.named_parameters())
        for name, parameter in ours.named_parameters():
            if parameter.requires_grad and not begun:
                assert torch.equal(parameter.grad, peers[name].grad), name
    theirs = moco.state_dict()
    for name, value in ours.state_dict().items():  # mixtures are never remembered
        assert torch.equal(value, theirs[name]), name


def test_a_share_of_the_mixtures():
    half = build(
        "MoCHi", head=head(mixing=dict(kind="linear", start=0, end=1, until=8))
    )
    half.clock.set(4)
    with mock.patch.object(
        comparisons.mixed, "mix_negatives", wraps=mix_negatives
    ) as spy:
        half(views(8), samples(8), mode="loss")
    (mixed,) = (call.args[3] for call in spy.call_args_list)
    assert (mixed.first.shape, mixed.partner.shape) == ((8, 3), (8, 2))


def test_each_pair_and_each_iteration_draws_anew():
    model = build("MoCHi", head=head(), pairs=((0, 1), (1, 0)))
    made = model.step(views(8))
    with mock.patch.object(
        comparisons.mixed, "mix_negatives", wraps=mix_negatives
    ) as spy:
        for iteration in (0, 0, 1):
            model.clock.set(iteration)
            losses_of(model, made)
    shares = [call.args[3].share for call in spy.call_args_list]
    assert torch.equal(shares[0], shares[2]) and torch.equal(shares[1], shares[3])
    for other in (1, 4, 5):
        assert not torch.isin(shares[0], shares[other]).any()


def test_nothing_of_the_size_of_all_similarities_is_stored():
    model = build("MoCHi", head=head(), queue_len=65_536)
    q, k = unit(128, 16).float(), unit(128, 16, seed=1).float()
    with mock.patch.object(model, "shuffles", False):
        made = largest(lambda: contrast(model, {"embedding": q}, {"embedding": k}))
    assert made <= 65_536 * 128 / 2


def test_parts_of_mixed_images_see_the_queue_alone():
    """RegionCL's term asks the comparison for more queries than are mixed for."""
    model, moco = build("MoCHi", head=head()), build("MoCo")
    q, k, other = unit(8, 16), unit(4, 16, seed=1), unit(8, 16, seed=2)
    assert torch.equal(model.compare.pair(q, k, other), moco.compare.pair(q, k, other))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            dict(num_hardest=65),
            "65 of a queue of 64 keys are looked for; lower num_hardest",
        ),
        (dict(num_hardest=0), "num_hardest=0 must be a whole number of negatives"),
        (dict(num_mixed=-1), "num_mixed=-1 must be"),
        (dict(num_with_query=0.5), "num_with_query=0.5 must be"),
        (dict(mixing=2), r"mixing=2 must lie in \[0, 1\]"),
        (dict(type="QueueSoftmax"), "MixedNegativesSoftmax, not by QueueSoftmax"),
    ],
)
def test_senseless_heads_are_refused(changes, message):
    given = head(**changes)
    if "type" in changes:
        given = dict(type="QueueSoftmax", temperature=0.2)
    with pytest.raises(ValueError, match=message):
        build("MoCHi", head=given)


def test_a_warm_up_that_outlasts_the_training_is_told():
    late = dict(kind="step", start=0, end=1, until=100)
    model = build("MoCHi", head=head(mixing=late))
    assert model.compare.mixing in model.schedules
    model.clock.total = 50
    training = mock.Mock()
    model.start(training)
    (said,) = (call.args[0] for call in training.logger.warning.call_args_list)
    assert said.startswith("mixing stays 0 in this training of 50 iterations")
    copy.deepcopy(model)  # schedules are part of it
