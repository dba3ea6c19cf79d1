"""InterCLR: the loss with a margin, the term, and the algorithm around them."""

import copy
from types import SimpleNamespace
from unittest import mock

import pytest
import torch
from torch.nn.functional import normalize

from mmssl_ext.models.algorithms import Step
from mmssl_ext.models.losses import margin_info_nce
from mmssl_ext.models.memory import FeatureBank, Negatives
from mmssl_ext.models.terms import InterImage

from ..harness import assert_same
from .common import assert_same_gradients, build, contrast, samples, sgd, step, views
from .loops import info_nce, mean_info_nce, unit

pytestmark = pytest.mark.filterwarnings("ignore:bn_splits=1")

ONLINE = dict(type="OnlineLabels", num_clusters=6, interval=2, min_size=4)
OFFLINE = dict(type="OfflineLabels", num_clusters=6)
STRATEGIES = ("SemiHard", "Hard", "Random", "Easy")


def loop_margin_info_nce(q, positives, negatives, mask, temperature, margin):
    losses = []
    for n in range(len(q)):
        own = [negatives[j] for j in range(len(negatives)) if mask[n, j]]
        losses.append(info_nce(q[n], positives[n], own, temperature, margin))
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


def value_and_gradient(
    function, q, positives, negatives, mask, temperature, margin, dtype=torch.double
):
    """Of a weighted sum, so that rows stay apart."""
    q, positives, negatives = (x.to(dtype) for x in (q, positives, negatives))
    leaf = q.clone().requires_grad_()
    value = function(leaf, positives, negatives, mask, temperature, margin)
    weights = torch.linspace(0.5, 1.5, 5, dtype=dtype)
    return value.detach(), *torch.autograd.grad(value @ weights, leaf)


@pytest.mark.parametrize(("temperature", "margin"), [(0.04, -0.5), (1.0, 0.3)])
def test_value_and_gradient_equal_the_loop(temperature, margin):
    results = [
        value_and_gradient(function, *problem(), temperature, margin)
        for function in (ours, loop_margin_info_nce)
    ]
    torch.testing.assert_close(*results, rtol=1e-10, atol=1e-12)


def test_gradcheck():
    q, *others = problem()
    assert torch.autograd.gradcheck(
        lambda x: ours(x, *others, 0.2, -0.5), q.requires_grad_()
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
    for extra in ((1, 0, 0), (0, 1, 1)):
        wide = torch.cat([mask, *(same & bool(one) for one in extra)], dim=1)
        for p, margin in ((positives, -0.5), (-q, 1.5)):
            args = q, p, negatives, wide, 0.01, margin
            value, grad = (
                x.double() for x in value_and_gradient(ours, *args, torch.float)
            )
            truth, slope = value_and_gradient(loop_margin_info_nce, *args)
            torch.testing.assert_close(value, truth, rtol=1e-5, atol=5e-5)
            torch.testing.assert_close(grad, slope, rtol=1e-3, atol=1e-3)


def test_half_precision_training_computes_the_same_loss():
    q, positives, negatives = (x.float() for x in problem()[:3])
    others = positives, negatives, q @ negatives.T, problem()[3], 0.2, -0.5
    found = []
    for enabled in (False, True):
        leaf = q.clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            loss = margin_info_nce(leaf, *others)
            loss.sum().backward()
        found.append((loss.detach(), leaf.grad))
    assert_same(*found)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(temperature=0), "temperature.*must be positive"),
        (dict(margin=-2.1), r"margin=-2.1 .* \[-2, 2\]"),
        (dict(margin=2.1), "margin=2.1"),
    ],
)
def test_wrong_values_of_the_term(changes, message):
    with pytest.raises(ValueError, match=message):
        build("InterCLR", inter_head=changes)


def fresh(seed=0, **changes):
    """The model before its bank is filled."""
    return build("InterCLR", seed, 0, **changes)


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


@pytest.mark.parametrize("images", [0, 100], ids=["empty bank", "with a bank"])
def test_lambda_zero_is_moco(images):
    mine, moco = build("InterCLR", 0, images, loss_lambda=0), build("MoCo")
    (losses, *_), (theirs, *_) = train(mine, range(3)), train(moco, range(3))
    assert losses["loss_instance"] == losses["raw_instance"] == theirs["loss_instance"]
    assert losses.get("loss_inter", 0) == 0
    state = mine.state_dict()
    for name, value in moco.state_dict().items():
        assert torch.equal(value, state[name]), name


@pytest.mark.parametrize(
    ("strategy", "labels"), [*zip(STRATEGIES, 2 * (ONLINE, OFFLINE), strict=True)]
)
def test_a_whole_step_equals_the_loop(strategy, labels):
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
        inter.append(info_nce(q, bank[member], bank[drawn], temperature, margin))
    nce_instance, nce_inter = mean_info_nce(queries, keys, queue, 0.2), sum(inter) / 8
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
    assert_same_gradients(model, before, 1e-4)


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
        ([*samples(3), samples(1)[0].__class__()], "PackViews"),
        (samples([3, 4, 100, 5]), "runs from 3 to 100, but the bank has 100 images"),
        (samples([3, 4, -1, 5]), "runs from -1 to 5"),
    ],
    ids=["no samples", "one without", "too large", "negative"],
)
def test_unknown_images_are_refused(found, message):
    with pytest.raises(ValueError, match=message):
        build("InterCLR")(views(4), found, mode="loss")


def test_an_image_may_stand_twice_in_a_batch():
    """As from a sampler's padding: the last one counts, once."""
    model = build("InterCLR")
    inter, before = model.terms.inter, copy.deepcopy(model.terms.inter)
    images = [3, 5, 3, 8, 5, 3]
    model.parse_losses(model(views(6), samples(images), mode="loss"))[0].backward()
    keys, bank = model.last_embeddings["key"], before.bank.features
    for image, last in {3: 5, 5: 4, 8: 3}.items():
        bank[image] = keys[last]
    torch.testing.assert_close(inter.bank.features, bank)
    labels = before.labels.labels
    labels[images] = (bank @ before.labels.centroids.T).argmax(1)[images].int()
    assert torch.equal(inter.labels.labels, labels)
    assert torch.equal(inter.labels.sizes, labels.bincount(minlength=6))


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
    assert_same(resumed.state_dict(), model.state_dict())


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_single_image_has_no_inter_image_loss(strategy):
    model = fresh(
        pseudo_labels=dict(ONLINE, num_clusters=1, min_size=1),
        negatives=dict(type=f"{strategy}Negatives"),  # the recipe of ImageNet
    )
    model.terms.inter.fill(torch.randn(1, 16))
    losses = model(views(4), samples([0, 0, 0, 0]), mode="loss")
    assert losses["loss_inter"] == losses["num_negatives"] == 0
    losses["loss_inter"].backward()
    grads = [p.grad for p in model.parameters() if p.requires_grad]
    assert all(torch.isfinite(grad).all() for grad in grads)


def test_a_schedule_may_hold_lambda_at_zero_at_first():
    warm_up = dict(kind="step", start=0, end=0.4, until=2)
    model, moco = build("InterCLR", loss_lambda=warm_up), build("MoCo")
    bank = model.terms.inter.bank
    for iteration, weight in enumerate((0, 0, 0.4)):
        before = bank.features.clone()
        (losses,) = train(model, [iteration])
        assert not torch.equal(bank.features, before)
        if weight == 0:
            assert [losses] == train(moco, [iteration])
        else:
            instance = (1 - weight) * losses["raw_instance"]
            assert losses["loss_instance"] == pytest.approx(instance)
            assert losses["loss_inter"] == pytest.approx(weight * losses["raw_inter"])
