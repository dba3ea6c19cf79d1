"""InterCLR: the loss with a margin, the term, and the algorithm around them."""

import copy
from types import SimpleNamespace
from unittest import mock

import pytest
import torch
from mmengine.registry import init_default_scope
from scipy import stats
from torch.nn.functional import normalize

from mmssl_ext.models.algorithms import Step
from mmssl_ext.models.losses import margin_info_nce
from mmssl_ext.models.memory import FeatureBank, Negatives, pseudo_labels
from mmssl_ext.models.terms import InterImage
from mmssl_ext.registry import MODELS
from tests.matrix import pairwise

from .common import build, contrast, model_config, samples, step, views

pytestmark = pytest.mark.filterwarnings("ignore:bn_splits=1")

ONLINE = dict(type="OnlineLabels", num_clusters=6, interval=2, min_size=4)
OFFLINE = dict(type="OfflineLabels", num_clusters=6)
STRATEGIES = ("SemiHard", "Hard", "Random", "Easy")


def unit(*shape, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return normalize(torch.randn(*shape, generator=generator, dtype=dtype), dim=1)


def dot(a, b):
    return sum(x * y for x, y in zip(a, b, strict=True))


def loop_nce(q, positive, negatives, temperature, margin=0.0):
    """Cross-entropy of [q.p - m, q.n_1, ...] / T against entry 0, one by one."""
    logits = [(dot(q, positive) - margin) / temperature]
    logits += [dot(q, negative) / temperature for negative in negatives]
    return sum(logit.exp() for logit in logits).log() - logits[0]


def loop_margin_info_nce(q, positives, negatives, mask, temperature, margin):
    losses = []
    for n in range(len(q)):
        own = [negatives[j] for j in range(len(negatives)) if mask[n, j]]
        losses.append(loop_nce(q[n], positives[n], own, temperature, margin))
    return torch.stack(losses)


def ours(q, positives, negatives, mask, temperature, margin):
    """The loss as the algorithm calls it: the similarity is a constant."""
    similarity = q.detach() @ negatives.T
    return margin_info_nce(
        q, positives, negatives, similarity, mask, temperature, margin
    )


def problem():
    """Five queries of 37 candidates; of these 37, 1, none, and about half twice."""
    mask = torch.rand(5, 37, generator=torch.Generator().manual_seed(3)) < 0.5
    mask[0], mask[1], mask[2] = True, False, False
    mask[1, 17] = True
    return unit(5, 16), unit(5, 16, seed=1), unit(37, 16, seed=2), mask


@pytest.mark.parametrize("margin", [-0.5, 0.0, 0.5])
@pytest.mark.parametrize("temperature", [0.04, 0.2, 1.0])
def test_value_and_gradient_equal_the_loop(temperature, margin):
    q, *others = problem()
    weights = torch.linspace(0.5, 1.5, 5, dtype=torch.float64)  # rows apart
    results = []
    for function in (ours, loop_margin_info_nce):
        leaf = q.clone().requires_grad_()
        value = function(leaf, *others, temperature, margin)
        (grad,) = torch.autograd.grad(value @ weights, leaf)
        results.append((value.detach(), grad))
    torch.testing.assert_close(results[0], results[1], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("temperature", [0.05, 0.2])
def test_gradcheck(temperature):
    q, *others = problem()
    assert torch.autograd.gradcheck(
        lambda x: ours(x, *others, temperature, -0.5), q.requires_grad_()
    )


def with_cosine(*cosines):
    """Unit vectors of the plane at these cosines from the first axis."""
    x = torch.tensor(cosines, dtype=torch.float64)
    return torch.stack([x, (1 - x**2).sqrt()], dim=1)


@pytest.mark.parametrize(
    ("positive", "negatives", "margin", "expected"),
    [
        (0.3, (0.5, 0.1), -0.5, 0.225802),
        (0.3, (0.5, 0.1), 0.0, 1.407606),
        (0.3, (0.5, 0.1), 0.5, 3.653178),
        (0.3, (0.3,), -0.5, 0.078890),
    ],
)
def test_hand_cases(positive, negatives, margin, expected):
    q, positive, negatives = (with_cosine(*x) for x in ((1.0,), (positive,), negatives))
    mask = torch.ones(1, len(negatives), dtype=torch.bool)
    assert ours(q, positive, negatives, mask, 0.2, margin).item() == pytest.approx(
        expected, abs=1e-6
    )
    found = Negatives(torch.empty(0), negatives, q @ negatives.T, mask)
    loss = loss_of_the_term(q, positive, found, temperature=0.2, margin=margin)
    assert loss.item() == pytest.approx(expected, abs=1e-6)


def loss_of_the_term(q, positives, found, **options):
    """With these images drawn, whatever the bank holds."""
    term = InterImage(ONLINE, dict(type="RandomNegatives"), **options)
    term.bank = FeatureBank(q.shape[1])
    term.bank.fill(torch.zeros(len(q), q.shape[1]))
    term.labels.labels = torch.zeros(len(q), dtype=torch.int32)
    clock, images = SimpleNamespace(draw_seed=1), torch.arange(len(q))
    method = SimpleNamespace(pairs=((0, 1),), clock=clock)
    with (
        mock.patch.object(term.labels, "draw_members", return_value=images),
        mock.patch.object(term.bank, "read", return_value=positives),
        mock.patch.object(term.sampler, "draw", return_value=found),
    ):
        return term(method, Step({}, None, images, {0: {"embedding": q}}, {}, {}))


def test_the_term_takes_the_mean_and_has_the_sheets_defaults():
    q, positives, negatives, mask = problem()
    found = Negatives(torch.arange(37), negatives, q @ negatives.T, mask)
    expected = sum(loop_margin_info_nce(q, positives, negatives, mask, 0.2, -0.5)) / 5
    torch.testing.assert_close(loss_of_the_term(q, positives, found), expected)


def test_the_loss_grows_with_the_margin():
    problem_ = problem()
    losses = torch.stack(
        [ours(*problem_, 0.2, m) for m in torch.linspace(-2, 2, 41).tolist()]
    )
    growth = losses.diff(dim=0)
    assert (growth[:, [0, 1, 3, 4]] > 0).all()
    assert (losses[:, 2] == 0).all()  # it has no negatives


def test_a_query_without_negatives_has_no_loss_and_no_gradient():
    q, positives, negatives, mask = problem()
    for dtype in (torch.float32, torch.float64):
        for none in (mask, torch.zeros_like(mask)):
            leaf = q.clone().to(dtype).requires_grad_()
            others = positives.to(dtype), negatives.to(dtype)
            loss = ours(leaf, *others, none, 0.2, -0.5)
            loss.sum().backward()
            alone = ~none.any(1)
            assert alone[2] and (loss[alone] == 0).all()
            assert (leaf.grad[alone] == 0).all()
            assert torch.isfinite(leaf.grad).all()
            assert (leaf.grad[~alone] != 0).any(1).all()


def test_extreme_temperature_in_single_precision():
    """Logits up to +-250, whose exponentials overflow and vanish in fp32."""
    q, positives, negatives, mask = problem()
    negatives = torch.cat([negatives, q, -q, positives])
    same = torch.eye(5, dtype=torch.bool)
    for extra in ((1, 1, 1), (1, 0, 0), (0, 1, 0), (0, 0, 1)):
        wide = torch.cat([mask, *(same & bool(one) for one in extra)], dim=1)
        for p, margin in ((positives, -0.5), (q, -1.5), (-q, 1.5)):
            results = []
            for function, dtype in (
                (ours, torch.float32),
                (loop_margin_info_nce, torch.float64),
            ):
                leaf = q.clone().to(dtype).requires_grad_()
                args = leaf, p.to(dtype), negatives.to(dtype), wide, 0.01, margin
                value = function(*args)
                value.sum().backward()
                results.append((value.detach().double(), leaf.grad.double()))
            (value, grad), (truth, slope) = results
            torch.testing.assert_close(value, truth, rtol=1e-5, atol=5e-5)
            torch.testing.assert_close(grad, slope, rtol=1e-3, atol=1e-3)


def test_half_precision_training_computes_the_same_loss():
    q, positives, negatives, mask = problem()
    results = []
    for enabled in (False, True):
        leaf = q.float().requires_grad_()
        similarity = leaf.detach() @ negatives.float().T
        args = positives.float(), negatives.float(), similarity, mask, 0.2, -0.5
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            loss = margin_info_nce(leaf, *args)
            loss.sum().backward()
        assert loss.dtype == leaf.grad.dtype == torch.float32
        results.append((loss.detach(), leaf.grad))
    assert all(map(torch.equal, *results))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(temperature=0), "temperature.*must be positive"),
        (dict(temperature=-0.2), "temperature.*must be positive"),
        (dict(margin=-2.1), r"margin=-2.1 .* \[-2, 2\]"),
        (dict(margin=2.1), "margin=2.1"),
        (dict(margin=float("nan")), "margin=nan"),
    ],
)
def test_wrong_values_of_the_term(changes, message):
    with pytest.raises(ValueError, match=message):
        build("InterCLR", inter_head=changes)


@pytest.mark.parametrize("value", [-0.1, 1.1, float("nan")])
def test_wrong_lambda(value):
    with pytest.raises(ValueError, match=r"loss_lambda=.* must lie in \[0, 1\]"):
        build("InterCLR", loss_lambda=value)


def fresh(seed=0, **changes):
    """The model of ``build`` before its bank is filled."""
    init_default_scope("mmssl_ext")
    torch.manual_seed(seed)
    model = MODELS.build(model_config("InterCLR", **changes))
    model.init_weights()
    return model.train()


def sgd(model, lr=0.1):
    return torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9)


def images_of(seed, batch=8):
    """Images of a step, which come again in other steps."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randperm(100, generator=generator)[:batch].tolist()


def train(model, seeds, optimizer=None):
    """One step per seed; the losses of each."""
    optimizer = optimizer or sgd(model)
    return [step(model, views(8, s), optimizer, images_of(s)) for s in seeds]


class Spy:
    """Records which images the model draws."""

    def __init__(self, model):
        self.members, self.negatives = [], []
        draws = (
            (model.terms.inter.labels, "draw_members", self.members),
            (model.terms.inter.sampler, "draw", self.negatives),
        )
        for part, name, log in draws:
            setattr(part, name, self.recorded(getattr(part, name), log))

    @staticmethod
    def recorded(function, log):
        def call(*args):
            log.append(function(*args))
            return log[-1]

        return call


@pytest.mark.parametrize("make", [build, fresh], ids=["with a bank", "empty bank"])
def test_lambda_zero_is_moco(make):
    make = fresh if make is fresh else lambda **kwargs: build("InterCLR", **kwargs)
    mine, moco = make(loss_lambda=0), build("MoCo")
    optimizers = sgd(mine), sgd(moco)
    for seed in range(3):
        ours, theirs = (
            step(model, views(8, seed), optimizer, images_of(seed))
            for model, optimizer in zip((mine, moco), optimizers, strict=True)
        )
        assert ours["loss_instance"] == ours["raw_instance"] == theirs["loss_instance"]
        assert ours.get("loss_inter", 0) == 0
        for (name, p), (_, q) in zip(
            mine.named_parameters(), moco.named_parameters(), strict=True
        ):
            assert (p.grad is q.grad is None) or torch.equal(p.grad, q.grad), name
    state = mine.state_dict()
    for name, value in moco.state_dict().items():
        assert torch.equal(value, state[name]), name


@pytest.mark.parametrize("labels", [ONLINE, OFFLINE], ids=["online", "offline"])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_whole_step_equals_the_loop(strategy, labels):
    """Value and gradient, from the bank, the labels and the drawn images alone."""
    weight, temperature, margin = 0.4, 0.1, 0.3
    pool = {} if strategy in ("Hard", "Random") else dict(pool=40)
    model = build(
        "InterCLR",
        loss_lambda=weight,
        pseudo_labels=labels,
        negatives=dict(type=f"{strategy}Negatives", num=12, **pool),
        inter_head=dict(temperature=temperature, margin=margin),
    )
    train(model, range(3))
    before, inputs, images = copy.deepcopy(model), views(8, 9), images_of(9)
    spy = Spy(model)
    losses = model(inputs, samples(images), mode="loss")
    model.zero_grad()
    model.parse_losses(losses)[0].backward()

    branch = before.terms.inter
    bank, labels = branch.bank.features.double(), branch.labels.labels.tolist()
    maps = before.backbone(inputs[0])
    queries = normalize(before.neck(maps)[0], dim=1).double()
    keys = model.last_embeddings["key"].double()
    queue = before.compare.queue.keys.double()
    instance = [loop_nce(q, k, queue, 0.2) for q, k in zip(queries, keys, strict=True)]
    inter, (members,), (found,) = [], spy.members, spy.negatives
    for n, (q, image, member) in enumerate(zip(queries, images, members, strict=True)):
        assert labels[member] == labels[image]
        drawn = found.rows[found.mask[n]].tolist()
        ranked = (bank @ q).argsort(descending=True).tolist()
        if pool:
            ranked = ranked[:40] if strategy == "SemiHard" else ranked[-40:]
        foreign = [row for row in ranked if labels[row] != labels[image]]
        suits = foreign[:12] if strategy == "Hard" else foreign
        assert len(set(drawn)) == len(drawn) == min(12, len(suits))
        assert set(drawn) <= set(suits)
        inter.append(loop_nce(q, bank[member], bank[drawn], temperature, margin))
    nce_instance, nce_inter = sum(instance) / 8, sum(inter) / 8
    expected = {
        "loss_instance": (1 - weight) * nce_instance,
        "loss_inter": weight * nce_inter,
        "raw_instance": nce_instance,
        "raw_inter": nce_inter,
        "num_negatives": found.mask.sum() / 8,
    }
    assert losses.keys() == expected.keys()
    for name, value in expected.items():
        assert losses[name].item() == pytest.approx(value.item(), rel=1e-5), name

    before.zero_grad()
    (expected["loss_instance"] + expected["loss_inter"]).backward()
    for (name, p), q in zip(model.named_parameters(), before.parameters(), strict=True):
        if p.requires_grad:
            error = (p.grad - q.grad).norm() / q.grad.norm()
            assert float(error) < 1e-4, name
        else:
            assert p.grad is None, name


def test_the_combined_hand_case():
    """One query at cosine 0.3 of both positives, negatives at 0.5 and 0.1."""
    model = fresh(
        queue_len=2,
        pseudo_labels=dict(type="OnlineLabels", num_clusters=2, min_size=1),
        negatives=dict(type="RandomNegatives", num=5),
    )
    q, k, others = (
        torch.nn.functional.pad(with_cosine(*x).float(), (0, 14))
        for x in ((1.0,), (0.3,), (0.5, 0.1))
    )
    branch = model.terms.inter
    branch.fill(torch.cat([k, others]))
    branch.labels.set_labels(torch.tensor([0, 1, 1]), branch.bank)
    model.compare.queue.keys.copy_(others)
    losses = contrast(model, {"embedding": q}, {"embedding": k}, torch.tensor([0]))
    assert losses["raw_instance"].item() == pytest.approx(1.407606, abs=2e-6)
    assert losses["raw_inter"].item() == pytest.approx(0.225802, abs=2e-6)
    total = model.parse_losses(losses)[0]
    assert total.item() == pytest.approx(1.112155, abs=2e-6)


def test_losses_come_from_the_bank_before_the_step():
    model = build("InterCLR")
    train(model, range(3))
    inputs, images = views(8, 9), images_of(9)
    frozen = copy.deepcopy(model)
    for each in (model, frozen):  # the positive is the image's own old feature
        each.terms.inter.labels.draw_members = lambda rows, generator: rows
    frozen.remember = lambda made: None
    bank, untouched = (each.terms.inter.bank for each in (model, frozen))
    old = bank.features[images].clone()
    losses, others = (m(inputs, samples(images), mode="loss") for m in (model, frozen))
    for name, value in losses.items():
        assert torch.equal(value, others[name]), name
    assert not torch.equal(bank.features[images], old)
    assert torch.equal(untouched.features[images], old)


def test_each_term_reaches_every_parameter():
    model = build("InterCLR")
    losses = model(views(8), samples(8), mode="loss")
    names, parameters = zip(
        *((n, p) for n, p in model.named_parameters() if p.requires_grad), strict=True
    )
    assert not any(name.startswith("target.") for name in names)
    for term in ("loss_instance", "loss_inter"):
        grads = torch.autograd.grad(losses[term], parameters, retain_graph=True)
        for name, grad in zip(names, grads, strict=True):
            assert grad.abs().sum() > 0, (term, name)


@pytest.mark.parametrize(("margin", "expected"), [(-0.5, 7.30), (0.0, 9.80)])
def test_random_features_start_at_the_known_value(margin, expected):
    model = fresh(
        neck=dict(type="MoCoV2Neck", in_channels=64, hid_channels=8, out_channels=128),
        pseudo_labels=dict(type="OnlineLabels", num_clusters=100),
        negatives=dict(type="RandomNegatives", num=16_384),
        inter_head=dict(temperature=0.2, margin=margin),
    )
    branch = model.terms.inter
    branch.bank.fill(unit(20_000, 128, dtype=torch.float32))
    branch.labels.set_labels(torch.randint(100, (20_000,)), branch.bank)
    key = {"embedding": unit(400, 128, seed=2, dtype=torch.float32)}
    query = {"embedding": unit(400, 128, seed=1, dtype=torch.float32)}
    losses = contrast(model, query, key, torch.randperm(20_000)[:400])
    assert losses["num_negatives"] == 16_384
    assert losses["raw_inter"].item() == pytest.approx(expected, abs=0.05)


def test_an_empty_bank_is_refused():
    model = fresh()
    with pytest.raises(ValueError, match=r"bank is empty.*MethodHook.*inter\.fill"):
        model(views(4), samples(4), mode="loss")
    model.terms.inter.fill(torch.randn(100, 16))
    model(views(4), samples(4), mode="loss")


@pytest.mark.parametrize(
    ("found", "message"),
    [
        (None, "PackViews, whose items carry index"),
        ([], "PackViews"),
        ([*samples(3), samples(1)[0].__class__()], "PackViews"),
        (samples([3, 4, 100, 5]), "runs from 3 to 100, but the bank has 100 images"),
        (samples([3, 4, -1, 5]), "runs from -1 to 5"),
    ],
    ids=["no samples", "empty", "one without", "too large", "negative"],
)
def test_unknown_images_are_refused(found, message):
    model = build("InterCLR")
    bank = model.terms.inter.bank
    before = bank.features.clone()
    with pytest.raises(ValueError, match=message):
        model(views(4), found, mode="loss")
    assert torch.equal(bank.features, before)
    model(views(4), samples([0, 99, 5, 6]), mode="loss")


def test_an_image_may_stand_twice_in_a_batch():
    """As from a sampler's padding: the last one counts, once."""
    model = build("InterCLR")
    before = copy.deepcopy(model)
    images = [3, 5, 3, 8, 5, 3]
    losses = model(views(6), samples(images), mode="loss")
    assert all(torch.isfinite(x) for x in losses.values())
    model.parse_losses(losses)[0].backward()
    branch, other = model.terms.inter, before.terms.inter
    keys, bank = model.last_embeddings["key"], branch.bank.features
    for image, last in {3: 5, 5: 4, 8: 3}.items():
        torch.testing.assert_close(bank[image], keys[last])
    labels, old = branch.labels, other.labels
    kept = [row for row in range(100) if row not in images]
    assert torch.equal(bank[kept], other.bank.features[kept])
    assert torch.equal(labels.labels[kept], old.labels[kept])
    best = (bank @ old.centroids.T).argmax(1)
    assert torch.equal(labels.labels[images].long(), best[images])
    assert torch.equal(labels.sizes, labels.labels.bincount(minlength=6))
    train(model, range(3))
    assert int(labels.sizes.sum()) == 100


def test_half_precision_training_assigns_by_full_precision():
    """A product in bfloat16 would mistake some of so many labels."""
    model = fresh(pseudo_labels=dict(ONLINE, num_clusters=100, min_size=1))
    model.terms.inter.fill(unit(2000, 16, dtype=torch.float32))
    branch = model.terms.inter
    before = branch.labels.centroids.double()
    keys = unit(2000, 16, seed=1, dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        branch.remember({"keys": keys, "images": torch.arange(2000)})
    truth = (branch.bank.features.double() @ before.T).argmax(1)
    assert torch.equal(branch.labels.labels.long(), truth)


def test_draws_are_new_every_step_and_do_not_follow_from_the_global_seed():
    models = [build("InterCLR", negatives=dict(type="RandomNegatives", num=12))]
    models.append(copy.deepcopy(models[0]))
    spies = [Spy(model) for model in models]
    for seed, model in enumerate(models):
        torch.manual_seed(seed)
        for _ in range(4):
            model(views(8), samples(8), mode="loss")
    for kind in ("members", "negatives"):
        first, again = (getattr(spy, kind) for spy in spies)
        if kind == "negatives":
            first, again = ([found.rows for found in x] for x in (first, again))
        assert all(map(torch.equal, first, again))
        draws = [rows.tolist() for rows in first]
        assert all(a != b for i, a in enumerate(draws) for b in draws[:i])


def test_draws_of_successive_steps_are_independent():
    """Consecutive seeds are no better than the generator behind them: chi-squares."""
    model = build("InterCLR", negatives=dict(type="RandomNegatives", num=12))
    branch = model.terms.inter
    branch.labels.set_labels(torch.arange(100) % 5, branch.bank)
    q, own = unit(1, 16, dtype=torch.float32), torch.tensor([0])
    steps, bank, labels = 2000, branch.bank, branch.labels
    members, negatives = torch.zeros(100), torch.zeros(100)
    common, before = torch.zeros(13), torch.zeros(100)
    for number in range(steps):
        model.clock.num_steps = number
        generator = torch.Generator().manual_seed(model.clock.draw_seed)
        members[labels.draw_members(own, generator)] += 1
        found = branch.sampler.draw(q, own, bank, labels, generator)
        drawn = torch.zeros(100).index_add_(0, found.rows, found.mask[0].float())
        common[int((drawn * before).sum())] += number > 0
        negatives, before = negatives + drawn, drawn
    assert members[0::5].sum() == steps and negatives[0::5].sum() == 0
    assert stats.chisquare(members[0::5]).pvalue > 1e-3
    # Without replacement the spread is smaller than of independent counts.
    foreign = negatives[torch.arange(100) % 5 > 0]
    spread = ((foreign - steps * 12 / 80) ** 2).sum() / (steps * 12 / 80 * 68 / 80)
    assert stats.chi2.sf(float(spread) * 79 / 80, 79) > 1e-3
    expected = (steps - 1) * stats.hypergeom.pmf(torch.arange(13), 80, 12, 12)
    common[5], expected[5] = common[5:].sum(), expected[5:].sum()
    assert stats.chisquare(common[:6], expected[:6]).pvalue > 1e-3


def test_ranks_draw_what_one_process_would_for_the_whole_batch():
    model = build("InterCLR")
    images = torch.arange(20, 28)
    q = unit(8, 16, dtype=torch.float32)

    def draw(part):
        generator = torch.Generator().manual_seed(model.clock.draw_seed)
        branch = model.terms.inter
        labels, rows = branch.labels, images[part]
        members = labels.draw_members(rows, generator)
        own = labels.labels[rows]
        return members, branch.sampler.draw(
            q[part], own, branch.bank, labels, generator
        )

    members, whole = draw(slice(8))
    for rank in range(2):
        part = slice(4 * rank, 4 * rank + 4)
        with (
            mock.patch.object(pseudo_labels, "get_world_size", return_value=2),
            mock.patch.object(pseudo_labels, "get_rank", return_value=rank),
        ):
            own, found = draw(part)
        assert torch.equal(own, members[part])
        assert torch.equal(found.rows, whole.rows)
        assert torch.equal(found.mask, whole.mask[part])


@pytest.mark.parametrize(
    "changes",
    [
        dict(),
        dict(
            pseudo_labels=OFFLINE,
            bank_dtype="float16",
            bank_momentum=0.5,
            negatives=dict(type="HardNegatives", num=0.1),
        ),
    ],
    ids=["online", "offline-half"],
)
def test_an_empty_model_resumes_bit_by_bit(changes):
    model = build("InterCLR", **changes)
    optimizer = sgd(model)
    train(model, range(3), optimizer)  # between two updates of the centroids
    state = copy.deepcopy((model.state_dict(), optimizer.state_dict()))
    expected = train(model, range(3, 7), optimizer)

    resumed = fresh(seed=5, **changes)
    assert len(resumed.terms.inter.bank) == 0
    optimizer = sgd(resumed)
    resumed.load_state_dict(state[0])
    optimizer.load_state_dict(state[1])
    assert train(resumed, range(3, 7), optimizer) == expected
    for each in (model, resumed):
        each.terms.inter.end_epoch(SimpleNamespace(epoch=0))
    ours, theirs = resumed.state_dict(), model.state_dict()
    assert ours.keys() == theirs.keys()
    names = {f"terms.inter.{n}" for n in ("bank.features", "labels.labels")}
    assert names | {"compare.queue.keys"} <= ours.keys()
    for name, value in theirs.items():
        assert ours[name].dtype == value.dtype and torch.equal(ours[name], value), name


@pairwise(
    labels=[pytest.param(ONLINE, id="online"), pytest.param(OFFLINE, id="offline")],
    strategy=STRATEGIES,
    dtype=["float32", "float16", "bfloat16"],
)
def test_every_choice_of_the_parts_trains(labels, strategy, dtype):
    model = build(
        "InterCLR",
        pseudo_labels=labels,
        negatives=dict(type=f"{strategy}Negatives", num=12),
        bank_dtype=dtype,
    )
    before = copy.deepcopy(model.state_dict())
    for epoch in (1, 2):
        for losses in train(model, range(2)):
            assert 0 < losses["raw_inter"] < 20
            assert 0 < losses["num_negatives"] <= 12
        model.terms.inter.end_epoch(SimpleNamespace(epoch=epoch - 1))
    after = model.state_dict()
    assert model.terms.inter.bank.features.dtype == getattr(torch, dtype)
    for name in ("backbone.conv1.weight", "terms.inter.bank.features"):
        assert torch.isfinite(after[name]).all()
        assert not torch.equal(after[name], before[name])
    assert all(torch.isfinite(x).all() for x in after.values())
    labels = model.terms.inter.labels
    assert torch.equal(labels.sizes, labels.labels.bincount(minlength=6))


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_single_image_has_no_inter_image_loss(strategy):
    model = fresh(
        pseudo_labels=dict(ONLINE, num_clusters=1, min_size=1),
        negatives=dict(type=f"{strategy}Negatives"),  # the recipe of ImageNet
    )
    model.terms.inter.fill(torch.randn(1, 16))
    for seed in range(3):
        losses = model(views(4, seed), samples([0, 0, 0, 0]), mode="loss")
        assert losses["loss_inter"] == losses["num_negatives"] == 0
        parameters = [p for p in model.parameters() if p.requires_grad]
        for loss in (losses["loss_inter"], losses["loss_instance"]):
            grads = torch.autograd.grad(loss, parameters, retain_graph=True)
            assert all(torch.isfinite(grad).all() for grad in grads)


def test_a_schedule_may_hold_lambda_at_zero_at_first():
    """MoCo until then; the bank follows, where there is one."""
    warm_up = dict(kind="step", start=0, end=0.4, until=2)
    model, moco = build("InterCLR", loss_lambda=warm_up), build("MoCo")
    bank = model.terms.inter.bank
    for iteration, weight in enumerate((0, 0, 0.4, 0.4)):
        before = bank.features.clone()
        (losses,) = train(model, [iteration])
        instance = (1 - weight) * losses["raw_instance"]
        assert losses["loss_instance"] == pytest.approx(instance)
        assert not torch.equal(bank.features, before)
        if weight == 0:
            assert losses.keys() == {"loss_instance", "raw_instance"}
            assert [losses] == train(moco, [iteration])
        else:
            assert losses["loss_inter"] == pytest.approx(weight * losses["raw_inter"])
            assert losses["raw_inter"] > 0
