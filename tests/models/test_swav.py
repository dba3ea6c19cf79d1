"""SwAV: balanced codes, the loss, the queue, and mmpretrain's SwAV beside it."""

import logging
import math
from types import SimpleNamespace

import pytest
import torch
from torch.nn.functional import normalize

from mmssl_ext.models.comparisons import BalancedPrototypes
from mmssl_ext.models.losses import sinkhorn
from mmssl_ext.models.memory import Clock
from tests.distributed import run_ranks

from .common import build, double, freeze_norms, sgd, total, train_in_double, views
from .loops import dot, unit
from .peers import peer

BOTH = ((0, 1), (1, 0))
CROPS = tuple((v, t) for t in (0, 1) for v in range(4) if v != t)


def rows(*values):
    return torch.tensor(values, dtype=torch.double)


A = rows((0.5, 0.1), (0.4, 0.3))
B = rows((0.2, 0.6), (0.7, 0.0))
C = rows((0.3, 0.3), (0.1, 0.5))


# Sinkhorn


@pytest.mark.parametrize(
    ("num_iters", "expected"),
    [
        (1, ((0.578075, 0.421925), (0.429198, 0.570802))),
        (3, ((0.574444, 0.425556), (0.425559, 0.574441))),
        (200, ((0.574443, 0.425557), (0.425557, 0.574443))),
    ],
)
def test_codes_by_hand(num_iters, expected):
    found = sinkhorn(A, 0.5, num_iters)
    torch.testing.assert_close(found, rows(*expected), rtol=0, atol=1e-6)


def in_loops(scores, epsilon, num_iters):
    """As the official code, one entry at a time."""
    q = [[math.exp(s / epsilon) for s in row] for row in scores.tolist()]
    for _ in range(num_iters):
        for m in range(len(q[0])):
            mass = sum(row[m] for row in q)
            for row in q:
                row[m] /= mass
        q = [[x / sum(row) for x in row] for row in q]
    return torch.tensor(q, dtype=torch.double)


def test_codes_equal_loops_and_their_conditions():
    scores = unit(7, 5, seed=1) @ unit(4, 5, seed=2).T
    for epsilon in (0.05, 0.5):
        codes = sinkhorn(scores, epsilon)
        torch.testing.assert_close(codes, in_loops(scores, epsilon, 3))
    converged = sinkhorn(scores, 0.5, 500)
    ones = torch.ones(7).double()
    torch.testing.assert_close(converged.sum(1), ones)
    torch.testing.assert_close(converged.sum(0), 7 / 4 * ones[:4])
    # The fixed point: exp(scores / eps), its rows and columns scaled.
    logs = converged.log() - scores / 0.5
    assert (logs - logs[:1] - logs[:, :1] + logs[0, 0]).abs().max() < 1e-10
    for added in (3.0, torch.tensor([5.0, 0, -2, 1])):
        torch.testing.assert_close(sinkhorn(scores + added, 0.5), sinkhorn(scores, 0.5))
    torch.testing.assert_close(sinkhorn(scores, 1e9), torch.full((7, 4), 0.25).double())
    alike = sinkhorn(scores[:1].expand(6, -1), 0.05)
    torch.testing.assert_close(alike, torch.full((6, 4), 0.25).double())
    sets = torch.stack([scores, -scores])
    torch.testing.assert_close(sinkhorn(sets, 0.5)[1], sinkhorn(-scores, 0.5))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("epsilon", [0.05, 1e-3, 1e-6])
def test_no_epsilon_overflows(epsilon, dtype):
    """exp(1 / 1e-3) is beyond float32, and exp(0.56 / 0.05) beyond float16."""
    scores = (unit(64, 8, seed=1) @ unit(64, 8, seed=2).T).to(dtype)
    codes = sinkhorn(scores, epsilon)
    assert codes.dtype == torch.float and codes.isfinite().all()
    torch.testing.assert_close(codes.sum(1), torch.ones(64))
    if epsilon < 0.05:  # near to one prototype for each image
        assert codes.amax(1).median() > 0.9


# The loss


def made(pairs, scores, **options):
    """The comparison whose prototypes are the axes, so that embeddings are scores."""
    views_of = list(dict.fromkeys(b for _, b in pairs))
    given = SimpleNamespace(dim=2, target=SimpleNamespace(dim=None), pairs=pairs)
    given.target_views, given.clock = views_of, Clock()
    given.query_views = list(dict.fromkeys(a for a, _ in pairs))
    given.target_encoder, given.over_pairs = given, lambda x: sum(x) / len(x)
    compare = BalancedPrototypes(2, epsilon=0.5, queue_start=0, **options)
    compare.attach(given)
    compare.double().prototypes.weight.data.copy_(torch.eye(2))
    features = {v: {"embedding": s} for v, s in enumerate(scores)}
    return compare, given, SimpleNamespace(online=features, target=features)


@pytest.mark.parametrize(
    ("pairs", "scores", "value"),
    [
        (((1, 0),), (A, B), 3.168962),
        (((0, 1),), (A, B), 1.789625),
        (BOTH, (A, B), 2.479293),
        (((1, 0), (2, 0), (0, 1), (2, 1)), (A, B, C), 2.005675),
    ],
)
def test_loss_by_hand(pairs, scores, value):
    compare, method, step = made(pairs, scores)
    assert compare(method, step)["instance"].item() == pytest.approx(value, abs=1e-6)


def test_queue_by_hand():
    compare, method, step = made(((0, 1),), (A[:1], rows((0.5, 0.5))), queue_len=2)
    codes = compare.codes_of_targets(method, step)[1]
    torch.testing.assert_close(codes, rows((0.5, 0.5)))
    for _ in range(2):
        compare.remember({"keys": rows((1, 0))[None]})
    codes = compare.codes_of_targets(method, step)[1]
    expected = rows((0.201007, 0.798993))
    torch.testing.assert_close(codes, expected, rtol=0, atol=1e-6)


def test_each_view_has_its_own_queue_and_it_waits_until_it_is_full():
    compare, method, step = made(BOTH, (A, B), queue_len=3)
    plain = made(BOTH, (A, B))[0](method, step)["instance"]
    for _ in range(2):
        assert compare(method, step)["instance"] == plain
        compare.remember(compare.collect(method, step))
    assert compare.queued.num_steps == 4
    # A row of the first step gave way to one of the second, which has the same rows.
    stored = [sorted(x.tolist()) for x in compare.queue.keys]
    assert stored == [sorted(x.tolist()) for x in (B[[1, 1, 0]], A[[1, 1, 0]])]
    found = compare.codes_of_targets(method, step)
    for view, s in enumerate((A, B)):
        torch.testing.assert_close(
            found[view], in_loops(torch.cat([s[[1, 1, 0]], s]), 0.5, 3)[3:]
        )


def model(**changes):
    return freeze_norms(double(build("SwAV", **changes)))


def test_value_and_gradient_equal_loops():
    ours = model(queue_len=0, pairs=CROPS, epsilon=0.3)
    given = [x.double() for x in views(3) + views(3, seed=1)]
    found = ours.loss(given)["loss_instance"]
    exact = model(queue_len=0, pairs=CROPS, epsilon=0.3)
    with torch.no_grad():
        for row in exact.compare.prototypes.weight:
            row /= dot(row, row).sqrt()
    c = exact.compare.prototypes.weight
    z = [normalize(exact.neck(exact.backbone(x)[-1:])[0]) for x in given]
    s = [torch.stack([torch.stack([dot(r, m) for m in c]) for r in x]) for x in z]
    terms = []
    for v, t in CROPS:
        q = in_loops(s[t].detach(), 0.3, 3)
        for n in range(3):
            log_sum = (s[v][n] / 0.1).exp().sum().log()
            terms.append(dot(q[n], log_sum - s[v][n] / 0.1))
    wanted = sum(terms) / len(terms)
    torch.testing.assert_close(found, wanted)
    found.backward()
    wanted.backward()
    for (name, a), b in zip(ours.named_parameters(), exact.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, msg=name)


def test_gradcheck():
    compare, method, step = made(BOTH, (A, B))

    def loss(x, weight):
        features = {v: {"embedding": normalize(x[v], dim=1)} for v in (0, 1)}
        step = SimpleNamespace(online=features)
        compare.prototypes.weight = weight
        return compare.eval()(method, step)["instance"]

    codes = compare.codes_of_targets(method, step)
    compare.codes_of_targets = lambda *_: codes
    del compare.prototypes.weight
    given = torch.randn(2, 2, 2).double().requires_grad_()
    assert torch.autograd.gradcheck(loss, (given, unit(2, 2).requires_grad_()))


# Small crops, and mmpretrain


def crops(batch, seed=0):
    return views(batch, seed) + [x[:, :, :24, :24] for x in views(batch, seed + 9)]


PEER = dict(
    backbone=dict(type="ResNet", depth=18, stem_channels=8, base_channels=8),
    neck=dict(
        type="SwAVNeck",
        in_channels=64,
        hid_channels=32,
        out_channels=16,
        norm_cfg=dict(type="BN1d"),
    ),
)


@pytest.mark.parametrize("queue_len", [0, 8])
def test_trains_as_mmpretrain_does(queue_len):
    """Three steps of four crops with a queue that is full after two."""
    loss = dict(type="SwAVLoss", feat_dim=16, num_crops=[2, 2], num_prototypes=12)
    theirs = peer("SwAV", PEER | dict(head=dict(type="SwAVHead", loss=loss)))
    theirs.head.loss_module.queue = (
        torch.zeros(2, 8, 16).double() if queue_len else None
    )
    ours = build(
        "SwAV",
        backbone=PEER["backbone"],
        neck=build_neck(),
        queue_len=queue_len,
        pairs=CROPS,
    )
    names = {"0": "fc0", "1": "bn0", "3": "fc1"}
    state = {k: v for k, v in theirs.state_dict().items() if k.startswith("backbone")}
    for name, value in theirs.neck.state_dict().items():
        part, _, rest = name.removeprefix("projection_neck.").partition(".")
        if part in names:
            state[f"neck.{names[part]}.{rest}"] = value
    key = "prototypes.weight"
    state[f"compare.{key}"] = theirs.head.loss_module.state_dict()[key]
    missing = ours.load_state_dict(state, strict=False).missing_keys
    assert {x.partition(".")[0] for x in missing} <= {"compare", "clock"}
    double(ours), theirs.double()
    optimizers = [sgd(ours), sgd(theirs)]
    for k in range(4):
        losses = [total(x(doubled(crops(4, k)), mode="loss")) for x in (ours, theirs)]
        assert losses[0].item() == pytest.approx(losses[1].item(), rel=1e-9)
        for found, optimizer in zip(losses, optimizers, strict=True):
            optimizer.zero_grad()
            found.backward()
        pairs = [
            *zip(ours.backbone.parameters(), theirs.backbone.parameters(), strict=True)
        ]
        pairs += zip(
            ours.neck.parameters(),
            theirs.neck.projection_neck.parameters(),
            strict=True,
        )
        pairs.append(
            (ours.compare.prototypes.weight, theirs.head.loss_module.prototypes.weight)
        )
        for a, b in pairs:
            torch.testing.assert_close(a.grad, b.grad)
        for optimizer in optimizers:
            optimizer.step()
    assert ours.compare.counts_queue(ours) == bool(queue_len)


def doubled(given):
    return [x.double() for x in given]


def build_neck():
    return dict(
        type="NonLinearNeck",
        in_channels=64,
        hid_channels=32,
        out_channels=16,
        num_layers=2,
        norm_cfg=dict(type="BN1d"),
        with_bias=True,
        with_last_bn=False,
        with_last_bias=True,
    )


def test_small_crops_change_no_code():
    ours = model(queue_len=0, pairs=CROPS).eval()
    given = [x.double() for x in crops(4)]
    step = ours.step(given)
    before = ours.compare.codes_of_targets(ours, step)
    given[2:] = [x + 1 for x in given[2:]]
    after = ours.compare.codes_of_targets(ours, ours.step(given))
    assert all(torch.equal(after[t], before[t]) for t in (0, 1))
    alone = normalize(ours.embed(ours, given[2])["embedding"])
    torch.testing.assert_close(ours.step(given).online[2]["embedding"], alone)


# Ranks


def codes_of(scores):
    compare, method, step = made(((0, 1),), (scores, scores), queue_len=5)
    before = compare.codes_of_targets(method, step)[1]
    compare.remember(compare.collect(method, step))
    compare.remember(compare.collect(method, step))
    return before, compare.codes_of_targets(method, step)[1], compare.state_dict()


D = rows((0.9, 0.1), (0.8, 0.2), (0.2, 0.7), (0.9, 0.0))
CODES = rows(
    *((0.645657, 0.354343), (0.549835, 0.450165)),
    *((0.119203, 0.880797), (0.689975, 0.310025)),
)


def train(rank, world_size):
    return train_in_double(model(queue_len=10), rank, world_size)


def on_a_rank(rank):
    uneven = sinkhorn(D[:3] if rank == 0 else D[3:], 0.5)
    return codes_of(D[2 * rank : 2 * rank + 2]), train(rank, 2), uneven


def test_two_ranks_equal_one():
    ranks, (codes, trained) = run_ranks(on_a_rank, 2), (codes_of(D), train(0, 1))
    torch.testing.assert_close(codes[0], CODES, rtol=0, atol=1e-6)
    for i in (0, 1):
        torch.testing.assert_close(torch.cat([r[0][i] for r in ranks]), codes[i])
    torch.testing.assert_close(torch.cat([r[2] for r in ranks]), codes[0])
    means = [sum(x) / 2 for x in zip(*(r[1][0] for r in ranks), strict=True)]
    assert means == pytest.approx(trained[0], rel=1e-9)
    for rank in ranks:
        for state, wanted in ((rank[0][2], codes[2]), (rank[1][1], trained[1])):
            for name, value in wanted.items():
                torch.testing.assert_close(state[name], value, msg=name)


# What does not suit


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (dict(epsilon=0), "epsilon=0 is not a temperature"),
        (dict(num_iters=0), "num_iters=0 of the balance must be a whole number above"),
        (dict(queue_len=-1), "queue_len=-1 must be a whole number, 0 for no queue"),
        (dict(queue_start=-1), "queue_start=-1 must be the number of an epoch"),
        (dict(num_prototypes=0), "num_prototypes=0 must be a whole number"),
        (dict(temperature=0), "temperature=0 is not a temperature"),
        (dict(target={}), "SwAV makes its own target"),
    ],
)
def test_wrong_values_say_what_to_change(changes, sentence):
    with pytest.raises(ValueError, match=sentence):
        build("SwAV", **changes)


def test_an_empty_batch_is_one_sentence():
    compare, method, step = made(BOTH, (A[:0], B[:0]))
    with pytest.raises(ValueError, match="A rank got a batch without images"):
        compare(method, step)


@pytest.mark.parametrize(
    ("batch", "told"), [(None, False), (2, True), (11, True), (12, False)]
)
def test_fewer_images_than_prototypes_are_told(batch, told, caplog):
    ours, logger = build("SwAV", queue_len=0), logging.getLogger("swav")
    training = SimpleNamespace(iteration=0, batch_size=batch, logger=logger)
    with caplog.at_level(logging.WARNING, "swav"):
        ours.compare.start(training)
    assert ("12 prototypes are shared out among" in caplog.text) == told
    training.batch_size = 1
    with pytest.raises(ValueError, match="of which there is one; raise"):
        ours.compare.start(training)
