"""Multi-crop on MoCo, BYOL and SimSiam: pairs, groups, weights and statistics."""

import re

import pytest
import torch
from torch import nn

from mmssl_ext.models.algorithms import Crops
from mmssl_ext.models.layers import SplitBatchNorm, without_statistics

from .bases import build, losses, method, sgd, total, train, views
from .common import DENSE_NECK, assert_same_gradients, double, freeze_norms
from .loops import info_nce

BOTH = ((0, 1), (1, 0))
CROPPED = ("MoCo", "BYOL", "SimSiam")
GROUPINGS = ("view", "size", "joint")


def crops(batch=4, seed=0, small=(16, 16), **options):
    """Two crops of 32 pixels, and small ones."""
    large = views(batch, seed, 32, 2, **options)
    return large + [
        views(batch, seed + 10 * i, size, 1, **options)[0]
        for i, size in enumerate(small, 1)
    ]


def usual(base, **options):
    """The pairs of multi-crop on a base."""
    return dict(targets=1, **options) if base == "MoCo" else options


def cropped(base, count=2, grouping="size", share=None, **changes):
    pairs = usual(base, locals=count, share=share)
    return double(build(method(base, pairs=pairs, grouping=grouping, **changes)))


def loss(model, inputs):
    return losses(model, inputs)["loss_instance"]


# Pairs and their weights


def test_pairs_are_those_of_every_crop_with_the_targets():
    assert Crops.read({}).pairs == BOTH
    for count in (0, 6, 8):
        found = Crops.read(dict(locals=count)).pairs
        assert len(found) == len(set(found)) == 2 * (count + 1)
        assert all(a != b and b < 2 for a, b in found)
    assert Crops.read(dict(targets=1)).pairs == ((0, 1),)
    # The key of an image is that of one large crop, and all others are queries.
    assert Crops.read(dict(locals=2, targets=1)).pairs == ((0, 1), (2, 1), (3, 1))
    model = build(method("BYOL", pairs=dict(locals=6)))
    assert model.num_views == 8 and model.target_views == [1, 0]


@pytest.mark.parametrize(("share", "wanted"), [(None, 3.5), (1 / 3, 3.5), (0.4, 3.3)])
def test_case_a(share, wanted):
    """Cross-entropies of targets 0 and 1: (-, 2, 3, 4) and (1, -, 5, 6)."""
    table = {(1, 0): 2, (2, 0): 3, (3, 0): 4, (0, 1): 1, (2, 1): 5, (3, 1): 6}
    for reduce, factor in (("mean", 1), ("sum", 6)):
        pairs = dict(locals=2, share=share)
        model = build(method("BYOL", pairs=pairs, reduce=reduce))
        given = [torch.tensor(float(table[pair])) for pair in model.pairs]
        found = model.over_pairs(given).item()
        assert found == pytest.approx(factor * wanted, abs=1e-6)


def test_equal_shares_change_nothing():
    """The share of the pairs of large crops, 2 of 6, spelt out."""
    inputs = crops(dtype=torch.double)
    models = [cropped("BYOL", share=share) for share in (None, 1 / 3)]
    found = [loss(model, inputs) for model in models]
    assert found[0].item() == pytest.approx(found[1].item(), abs=1e-12)
    for value in found:
        value.backward()
    assert_same_gradients(*models, 1e-9)


# Without small crops: the two-view algorithm


@pytest.mark.parametrize(
    ("base", "grouping"),
    [("MoCo", "view"), ("BYOL", "size"), ("SimSiam", "view"), ("SimSiam", "size")],
)
def test_without_small_crops_the_steps_are_those_of_two_views(base, grouping):
    plain = ((0, 1),) if base == "MoCo" else BOTH
    states = []
    for pairs in (plain, usual(base)):
        model = build(method(base, pairs=pairs, grouping=grouping))
        optimizer = sgd(model)
        history = [train(model, views(4, seed, 32), optimizer) for seed in range(2)]
        states.append((history, model.state_dict()))
    assert states[0][0] == states[1][0]
    for name, value in states[0][1].items():
        assert torch.equal(value, states[1][1][name]), name


# Loss and gradient


def by_loops(base, model, inputs):
    """Mean over images and pairs, a crop and an image at a time."""
    frozen = [x.detach() for x in inputs]
    terms = []
    for a, b in model.pairs:
        target = model.target if model.target.encodes else model
        for n in range(len(frozen[0])):
            z = model.neck(model.backbone(frozen[a][n : n + 1]))[0]
            with torch.no_grad():
                t = target.neck(target.backbone(frozen[b][n : n + 1]))[0][0]
            q = model.compare.predict(z)[0]
            q, t = q / q.norm(), t / t.norm()
            if base == "MoCo":
                queue = model.compare.queue.keys
                terms.append(info_nce(q, t, queue.double(), 0.2))
            else:
                shift = (2, 2) if base == "BYOL" else (0, 1)
                terms.append(shift[0] - shift[1] * (q * t).sum())
    return sum(terms) / len(terms)


@pytest.mark.parametrize(
    ("base", "grouping"), [("MoCo", "size"), ("BYOL", "joint"), ("SimSiam", "view")]
)
def test_loss_is_that_of_loops(base, grouping):
    inputs = crops(2, small=(16, 24, 16), dtype=torch.double)
    model, truth = (
        freeze_norms(cropped(base, 3, grouping, reduce="mean")) for _ in range(2)
    )
    found, wanted = loss(model, inputs), by_loops(base, truth, inputs)
    assert found.item() == pytest.approx(wanted.item(), abs=1e-9)
    found.backward()
    wanted.backward()
    assert_same_gradients(model, truth, 1e-8)


@pytest.mark.parametrize("base", ["MoCo", "BYOL"])
def test_small_crops_only_ask(base):
    """Their order does not count, and no target, key or pass of its network is theirs.

    So it is in training mode, where crops of one size share statistics.
    """
    inputs = crops(dtype=torch.double)
    found = []
    for change in (lambda x: x, lambda x: [*x[:2], *x[:1:-1]], lambda x: other(x)):
        model, seen = cropped(base), []
        model.target.backbone.register_forward_pre_hook(
            lambda _, given, seen=seen: seen.append(len(given[0]))
        )
        step = model.step(change(inputs))
        targets = {b: f["embedding"] for b, f in step.target.items()}
        assert seen == [len(model.target_views) * 4]
        found.append((targets, model.compare(model, step)["instance"].item()))
    assert sorted(found[0][0]) == ([1] if base == "MoCo" else [0, 1])
    for targets, _ in found[1:]:
        for b, wanted in found[0][0].items():
            assert torch.equal(wanted, targets[b])
    assert found[0][1] == pytest.approx(found[1][1], abs=1e-12)
    assert found[0][1] != pytest.approx(found[2][1], abs=1e-6)


def other(inputs):
    """The same large crops, one small one brighter."""
    return [*inputs[:2], inputs[2] + inputs[2].abs(), *inputs[3:]]


def test_a_queue_takes_one_key_of_each_image():
    model, inputs = cropped("MoCo"), crops(dtype=torch.double)
    step = model.step(inputs)
    pointer = model.compare.queue.ptr.item()
    model.remember(step)
    assert model.compare.queue.ptr.item() == pointer + 4
    new = model.compare.queue.keys[pointer : pointer + 4]
    assert torch.equal(new, step.target[1]["embedding"].to(new))


@pytest.mark.parametrize(
    ("base", "grouping"), [("MoCo", "view"), ("BYOL", "size"), ("SimSiam", "joint")]
)
def test_every_parameter_learns_and_halves_are_finite(base, grouping):
    model = build(method(base, pairs=usual(base, locals=2), grouping=grouping))
    train(model, crops(), sgd(model))
    model.zero_grad()
    # In bf16 on a CPU torch 2.11 has noise as the gradient of a 3 x 3 convolution of
    # stride 2 on a map of one cell; small crops of 24 pixels have no such map.
    with torch.autocast("cpu", torch.bfloat16):
        found = total(losses(model, crops(seed=1, small=(24, 24))))
    assert torch.isfinite(found)
    found.backward()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad.abs().max() > 0, name


# Groups


def test_rows_are_those_of_each_crop_alone_wherever_it_stands():
    """In eval mode; sizes may alternate, and the groups are still right."""
    inputs = [views(3, n, size, 1)[0] for n, size in enumerate((32, 16, 32, 24, 16))]
    calls: list[int] = []
    for grouping in GROUPINGS:
        pairs = tuple((a, b) for a in range(5) for b in (0, 2) if a != b)
        model = build(method("SimSiam", pairs=pairs, grouping=grouping)).eval()
        model.backbone.register_forward_pre_hook(lambda *_: calls.append(1))
        calls.clear()
        together = model.encode_all(model, dict(enumerate(inputs)))
        assert len(calls) == (5 if grouping == "view" else 3)
        for v, image in enumerate(inputs):
            alone = model.neck(model.backbone(image))[0]
            torch.testing.assert_close(together[v]["projection"], alone)


class Means(nn.Module):
    """The mean of each image, N x 1."""

    def forward(self, x):
        return (x[:, 0].mean((1, 2))[:, None],)


class Norm(nn.Module):
    """BatchNorm alone."""

    def __init__(self, **options):
        super().__init__()
        self.bn = nn.BatchNorm1d(1, affine=False, eps=1e-14, **options)

    def forward(self, x):
        return (self.bn(x[0]),)


def normed(grouping):
    model = build(method("SimSiam", pairs=dict(locals=2), grouping=grouping))
    model.backbone, model.neck = Means(), Norm().double()
    return model


def test_case_b():
    """Globals (1, 3), locals (5, 7, 9, 11) through one BatchNorm."""
    values = ((1, 4), (3, 4)), ((5, 2), (7, 2), (9, 2), (11, 2))
    images = [torch.full((1, 3, s, s), v).double() for kind in values for v, s in kind]
    wanted = {
        "size": (-1, 1, -1.341641, -0.447214, 0.447214, 1.341641),
        "joint": (-1.463850, -0.878310, -0.292770, 0.292770, 0.878310, 1.463850),
    }
    for grouping, rows in wanted.items():
        model = normed(grouping)
        found = model.encode_all(model, dict(enumerate(images)))
        found = [found[v]["projection"].item() for v in range(6)]
        assert found == pytest.approx(rows, abs=1e-6)


# Statistics of the network that is evaluated


@pytest.mark.parametrize("kind", [nn.BatchNorm1d, SplitBatchNorm])
def test_case_c(kind):
    """Of means 1 and then 2 plain BatchNorm keeps .29; small crops leave the .1 alone.

    Outputs are the same.
    """
    large, small = torch.tensor([[0.0], [2]]), torch.tensor([[1.0], [3]])
    plain, ours = kind(1), kind(1)
    wanted = [plain(x) for x in (large, small)]
    first = ours(large)
    with without_statistics([ours]):
        second = ours(small)
    assert plain.running_mean.item() == pytest.approx(0.29)
    assert ours.running_mean.item() == pytest.approx(0.1)
    assert (plain.num_batches_tracked, ours.num_batches_tracked) == (2, 1)
    assert torch.equal(torch.cat(wanted), torch.cat([first, second]))
    assert ours.track_running_stats
    ours.eval()
    with without_statistics([ours]):  # evaluation reads them as always
        inside = ours(small)
    assert torch.equal(inside, ours(small))


@pytest.mark.parametrize(
    ("base", "grouping", "splits"),
    [("MoCo", "size", 2), ("BYOL", "size", None), ("SimSiam", "view", None)],
)
def test_running_statistics_are_those_of_large_crops(base, grouping, splits):
    inputs = crops(4)
    model, plain = (
        build(
            method(
                base,
                pairs=usual(base, locals=n),
                grouping=grouping,
                bn_splits=splits,
            )
        )
        for n in (2, 0)
    )
    losses(model, inputs)
    losses(plain, inputs[:2])
    for name in ("backbone", "neck", "target"):
        ours = getattr(model, name).state_dict()
        for key, value in getattr(plain, name).state_dict().items():
            if "running" in key or "tracked" in key:
                assert torch.equal(ours[key], value), (name, key)


def test_joint_projector_counts_all_crops():
    model = build(method("SimSiam", pairs=dict(locals=2), grouping="joint"))
    losses(model, crops())
    assert model.neck.bn0.num_batches_tracked == 1
    assert model.backbone.bn1.num_batches_tracked == 1


# What does not fit

LARGE = "the first 2 crops of an image are the large ones, but their sizes are "


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ((64, 64, 32), "BYOL takes 4 views per image, not 3; let the pipeline make"),
        ((64, 32, 64, 32), LARGE + "64 x 64, 32 x 32, 64 x 64, 32 x 32; let MakeViews"),
        ((32, 32, 64, 64), LARGE + "32 x 32, 32 x 32, 64 x 64, 64 x 64; let MakeViews"),
        ((32, 32, 32, 64), LARGE + "32 x 32, 32 x 32, 32 x 32, 64 x 64; let MakeViews"),
    ],
)
def test_wrong_crops_are_explained(sizes, message):
    inputs = [torch.zeros(2, 3, s, s) for s in sizes]
    model = build(method("BYOL", pairs=dict(locals=2)))
    for call in (lambda: losses(model, inputs), lambda: model.check_inputs(inputs)):
        with pytest.raises(ValueError, match=re.escape(message)):
            call()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(pairs=dict(local=2)), "has 'local', but knows locals, globals, targets"),
        (dict(pairs=dict(locals=-1)), "must count crops of which two can meet"),
        (dict(pairs=dict(locals=2.0)), "must count crops of which two can meet"),
        (dict(pairs=dict(locals=True)), "must count crops of which two can meet"),
        (dict(pairs=dict(globals=1)), "must count crops of which two can meet"),
        (dict(pairs=dict(targets=3)), "targets from 1 to globals"),
        (dict(pairs=dict(targets=0)), "targets from 1 to globals"),
        (dict(pairs=dict(share=0.5)), "so both must exist and it must lie between"),
        (dict(pairs=dict(locals=2, share=1)), "must lie between 0 and 1; leave it out"),
        (dict(pairs=dict(locals=2, share="0.4")), "must lie between 0 and 1"),
        (
            dict(grouping="joint", neck=DENSE_NECK),
            "of which a DenseCLNeck can make no maps; set grouping='size'",
        ),
    ],
)
def test_senseless_choices_are_explained(changes, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        losses(build(method("BYOL", **changes)), views(4, size=32))


def test_simclr_refuses_more_than_two_views():
    with pytest.raises(ValueError, match="BatchSoftmax compares two views in both dir"):
        build(method("SimCLR", pairs=dict(locals=1)))
