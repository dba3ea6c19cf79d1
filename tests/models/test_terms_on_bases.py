"""Any term on any base."""

import copy
import itertools
from unittest import mock

import pytest
import torch
from torch.nn.functional import cosine_similarity, normalize

from mmssl_ext.models.memory import FeatureBank, KeyQueue, Snapshots
from tests.distributed import run_ranks

from .bases import (
    BASES,
    REGRESSION_TERMS,
    TERMS,
    build,
    losses,
    method,
    sgd,
    term,
    total,
    train,
    views,
)
from .common import assert_same_gradients, double, freeze_norms
from .loops import info_nce

ALL = tuple(TERMS)
BOTH = ((0, 1), (1, 0))
# Each term alone on each base: `make test-all`; every day one on each, and all.
SINGLES = [
    pytest.param(base, (name,), id=f"{base}-{name}", marks=marks)
    for i, base in enumerate(BASES)
    for j, name in enumerate(TERMS)
    for marks in [() if i == j % len(BASES) else pytest.mark.slow]
]
WHOLE = [
    pytest.param(base, ALL + more, id=f"{base}-all")
    for base in BASES
    for more in [tuple(REGRESSION_TERMS) if "predictor" in BASES[base] else ()]
]


def constants(model):
    """Parameters and buffers of what is remembered and of the target, by name."""
    kept = {"target": model.target} | {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, (KeyQueue, FeatureBank, Snapshots))
    }
    return {
        f"{name}.{key}": value
        for name, module in kept.items()
        for key, value in [*module.named_parameters(), *module.named_buffers()]
    }


@pytest.mark.parametrize(("base", "names"), [*SINGLES, *WHOLE])
def test_learns_and_goes_on_exactly(base, names):
    model = build(method(base, *names))
    optimizer = sgd(model)
    figures = train(model, views(seed=1), optimizer)
    expected = {"instance", *(model.terms)}
    assert {n[4:] for n in figures if n.startswith("raw_")} == expected
    assert {n[5:] for n in figures if n.startswith("loss_")} == expected

    before = copy.deepcopy(model.state_dict())
    found = losses(model, views())
    assert all(torch.isfinite(value) for value in found.values())
    optimizer.zero_grad()
    total(found).backward()
    learning = {n for n, p in model.named_parameters() if p.requires_grad}
    for name, parameter in model.named_parameters():
        if name in learning:
            assert parameter.grad is not None and parameter.grad.abs().max() > 0, name
    for name, value in constants(model).items():
        assert not value.requires_grad and value.grad is None, name
    trained = [p for p in model.parameters() if p.requires_grad]
    slope = torch.cat([p.grad.flatten() for p in trained]).norm()
    with torch.no_grad():
        for parameter in trained:
            parameter -= 0.02 * parameter.grad / slope
    # The same batch against the same queues, banks and target.
    after = {n: p for n, p in model.state_dict().items() if n in learning}
    model.load_state_dict(before | after)
    assert total(losses(model, views())) < total(found)

    restored = build(method(base, *names), seed=1)
    restored.load_state_dict(model.state_dict())
    for seed in (2, 3):
        inputs, index = views(seed=seed), torch.arange(8) + 8 * seed
        ours = train(model, inputs, sgd(model), index)
        assert train(restored, inputs, sgd(restored), index) == ours
    for name, value in model.state_dict().items():
        assert torch.equal(restored.state_dict()[name], value), name


RANKED = [
    ("MoCo", ("Dense", "InterImage")),
    ("BYOL", ("Consistency", "Neighbours", "LocalContrast")),
    ("SimCLR", ("Consistency", "Dense", "CrossConsistency", "CrossUniformity")),
    ("MoCo v3", ()),
    ("crops", ()),
]
MOCO_V3 = method(
    "Method",
    neck=BASES["BYOL"]["neck"],
    target=dict(type="MomentumTarget", momentum=0.9),
    compare=dict(type="BatchSoftmax", temperature=0.5),
    pairs=BOTH,
)
CROPS = method("BYOL", pairs=dict(locals=2, share=0.4), grouping="size")


def _two_steps(base, names, rank, world_size):
    chosen: list = [term(name, base) for name in names]
    for config in chosen:  # all keys of a step replace all of the step before
        config |= {"queue_len": 24} if "queue_len" in config else {}
        if "negatives" in config:  # those of the paper are drawn by every rank
            config["negatives"] = dict(type="HardNegatives", num=6)
    known = {"MoCo v3": MOCO_V3, "crops": CROPS}
    whole_config = known.get(base) or method(base, *chosen)
    call = model = freeze_norms(double(build(whole_config)))
    if world_size > 1:
        call = torch.nn.parallel.DistributedDataParallel(model)
    optimizer, history = sgd(model), []
    size = 64 if "LocalContrast" in names else 32  # it needs cells to tell apart
    for seed in range(2):
        whole = views(12, seed, size, model.num_views, dtype=torch.double)
        whole[2:] = [x[..., :24, :24] for x in whole[2:]]  # small crops
        inputs = [x.chunk(world_size)[rank] for x in whole]
        index = (torch.arange(12) + 12 * seed).chunk(world_size)[rank]
        history.append(train(call, inputs, optimizer, index))
    return model.state_dict(), history


def _on_a_rank(rank):
    torch.use_deterministic_algorithms(True)
    return [_two_steps(*case, rank, 2) for case in RANKED]


def test_two_ranks_equal_one():
    ranks = run_ranks(_on_a_rank, 2)
    for case, *both in zip(RANKED, *ranks, strict=True):
        truth, history = _two_steps(*case, 0, 1)
        for t, wanted in enumerate(history):
            for name, value in wanted.items():
                mean = sum(rank[1][t][name] for rank in both) / 2
                assert mean == pytest.approx(value, rel=1e-5, abs=1e-5), (case, name)
        for state, _ in both:
            for name, value in truth.items():
                ours = state[name]
                if name.endswith("queue.keys"):  # rank by rank, view by view
                    ours, value = (x[x[:, 0].argsort()] for x in (ours, value))
                torch.testing.assert_close(
                    ours, value, rtol=1e-5, atol=1e-5, msg=f"{case} {name}"
                )


# Terms where they were not before, each against loops over its definition.


def unlike_target(base, *terms, **changes):
    """A model in float64 whose momentum target is another network and stays."""
    if base in ("MoCo", "BYOL"):
        changes = dict(momentum=1.0) | changes
    return moved_target(double(build(method(base, *terms, **changes))))


def moved_target(model):
    """With a target that is not the online network, if that has parameters."""
    if model.target.encodes:
        model.target.num_steps = 1
        generator = torch.Generator().manual_seed(5)
        with torch.no_grad():
            for parameter in model.target.parameters():
                noise = torch.randn(parameter.shape, generator=generator)
                parameter += 0.1 * noise.double()
    return model


def both_maps(model, inputs):
    """Last maps of the views, N x C x 2 x 2; SimCLR's go through as one batch."""
    if model.grouping == "size":
        return model.backbone(torch.cat(inputs))[-1].chunk(2)
    return [model.backbone(x)[-1] for x in inputs]


def online_and_target(model, inputs):
    """Unit rows of both views that are compared, and of the targets."""

    def project(encoder):
        if model.grouping == "size":
            return encoder.neck(encoder.backbone(torch.cat(inputs)))[0].chunk(2)
        return [encoder.neck(encoder.backbone(x))[0] for x in inputs]

    z = project(model)
    q = [normalize(model.compare.predict(x)) for x in z]
    if model.target.encodes:
        z = project(model.target)
    return q, [normalize(x).detach() for x in z]


def agrees(model, name, inputs, truth, index=None):
    """Value and gradient of one loss equal those of a function of a copy."""
    twin = copy.deepcopy(model)
    found = losses(model, inputs, index)
    found[f"loss_{name}"].backward()
    wanted = truth(twin)
    assert found[f"raw_{name}"].item() == pytest.approx(wanted.item(), abs=1e-9)
    wanted.backward()
    assert_same_gradients(model, twin, 1e-7, 1e-9)
    return found


DOUBLE = dict(size=64, dtype=torch.double)


@pytest.mark.parametrize("reduce", ["sum", "mean"])
def test_consistency_on_byol(reduce):
    """Unit predictions see its own queue as unit target projections do."""
    model = unlike_target("BYOL", "Consistency", reduce=reduce)
    inputs = views(6, **DOUBLE)

    def truth(twin):
        q, k = online_and_target(twin, inputs)
        queue, loss = twin.terms.consistency.queue.keys, 0
        for a, b in ((0, 1), (1, 0)):
            for n in range(6):
                ours = torch.stack([q[a][n] @ key for key in queue]) / 0.1
                theirs = torch.stack([k[b][n] @ key for key in queue]) / 0.1
                log_q, log_p = ours.log_softmax(0), theirs.log_softmax(0)
                gap = log_p - log_q
                loss = loss + (log_p.exp() * gap - log_q.exp() * gap).sum() / 2 / 6
        return loss / (2 if reduce == "mean" else 1)

    twin = copy.deepcopy(model)
    agrees(model, "consistency", inputs, truth)
    _, k = online_and_target(twin, inputs)
    queue = model.terms.consistency.queue
    torch.testing.assert_close(queue.keys[:12], torch.cat([k[1], k[0]]))
    assert torch.equal(queue.keys[12:], twin.terms.consistency.queue.keys[12:])


@pytest.mark.parametrize("base", ["BYOL", "SimCLR"])
def test_regions(base):
    model = unlike_target(base, "Regions")
    inputs, sampler = views(5, **DOUBLE), model.terms.region.sampler
    region, count, t = copy.deepcopy(sampler).draw(64, 64), 5, 0.5

    def truth(twin):
        mixed = inputs[0].clone()
        rows = slice(32 * region.top, 32 * (region.top + region.height))
        columns = slice(32 * region.left, 32 * (region.left + region.width))
        # All but one image of an odd batch: each has the one before it pasted in.
        for n in range(count):
            mixed[n, :, rows, columns] = inputs[0][n - 1, :, rows, columns]
        _, k = online_and_target(twin, inputs)
        maps = twin.backbone(mixed)[-1]
        canvas, paste = [], []
        for n in range(count):
            inside, outside = [], []
            for i in range(2):
                for j in range(2):
                    own = (i, j) == (region.top, region.left)
                    (inside if own else outside).append(maps[n, :, i, j])
            canvas.append(sum(outside) / 3)
            paste.append(sum(inside))
        vectors = torch.stack([*canvas, *paste])[:, :, None, None]
        c, p = normalize(twin.compare.predict(twin.neck((vectors,))[0])).chunk(2)
        loss = 0
        for n in range(count):  # image n is the canvas of n and the paste of n + 1
            other = (n + 1) % count
            for part, rest in ((c[n], p[n]), (p[other], c[other])):
                if base == "BYOL":
                    loss = loss + 2 - 2 * part @ k[1][n]
                else:
                    others = [k[1][m] for m in range(count) if m != n]
                    others.append(rest.detach())
                    loss = loss + info_nce(part, k[1][n], others, t)
        return loss / (2 * count)

    agrees(model, "region", inputs, truth)
    assert sampler.num_steps == 1


@pytest.mark.parametrize("base", ["SimSiam", "SimCLR"])
def test_dense_with_a_head_of_its_own(base):
    model = unlike_target(base, "Dense")
    inputs = views(4, **DOUBLE)

    def truth(twin):
        maps = both_maps(twin, inputs)
        dense = [twin.terms.dense.head.mlp(m) for m in maps]
        queue, loss = twin.terms.dense.queue.keys, 0
        cells = [(i, j) for i in range(2) for j in range(2)]
        for a, b in ((0, 1), (1, 0)):
            for n in range(4):
                for cell in cells:
                    f = maps[a][n][:, cell[0], cell[1]]
                    likeness = [
                        cosine_similarity(f, maps[b][n][:, i, j], 0) for i, j in cells
                    ]
                    i, j = cells[int(torch.stack(likeness).argmax())]
                    r = normalize(dense[a][n][:, cell[0], cell[1]], dim=0)
                    t = normalize(dense[b][n][:, i, j], dim=0).detach()
                    # SimCLR's temperature is the base's, SimSiam has none.
                    temperature = 0.5 if base == "SimCLR" else 0.2
                    loss = loss + info_nce(r, t, queue, temperature)
        return loss / (2 * 4 * 4)

    twin = copy.deepcopy(model)
    agrees(model, "dense", inputs, truth)
    dense = [twin.terms.dense.head.mlp(maps) for maps in both_maps(twin, inputs)]
    means = [x.mean((2, 3)) for x in dense]
    kept = normalize(torch.cat([means[1], means[0]]))
    torch.testing.assert_close(model.terms.dense.queue.keys[:8], kept.detach())


def test_inter_image_on_simclr():
    hard = term("InterImage", negatives=dict(type="HardNegatives", num=6), margin=-0.3)
    model = unlike_target("SimCLR", hard)
    inputs, index = views(4, **DOUBLE), torch.tensor([3, 11, 20, 39])
    labels, members = model.terms.inter.labels, []
    draw = labels.draw_members

    def spy(rows, generator):
        members.append(draw(rows, generator))
        return members[-1]

    def truth(twin):
        bank = twin.terms.inter.bank.features.double()
        clusters = twin.terms.inter.labels.labels
        q, _ = online_and_target(twin, inputs)
        loss = 0
        for view, drawn in enumerate(members):
            for n in range(4):
                own = clusters[index[n]]
                assert clusters[drawn[n]] == own
                row = q[view][n]
                foreign = [v for v, c in zip(bank, clusters, strict=True) if c != own]
                foreign.sort(key=lambda v: -(row @ v).item())
                positive = (row @ bank[drawn[n]] + 0.3) / 0.2
                logits = [positive, *(row @ v / 0.2 for v in foreign[:6])]
                loss = loss + torch.stack(logits).logsumexp(0) - positive
        return loss / 8

    before, twin = model.terms.inter.bank.features.clone(), copy.deepcopy(model)
    with mock.patch.object(labels, "draw_members", spy):
        found = agrees(model, "inter", inputs, truth, index)
    assert len(members) == 2 and found["num_negatives"] == 6
    _, k = online_and_target(twin, inputs)  # the bank takes the first pair's targets
    after = model.terms.inter.bank.features
    torch.testing.assert_close(after[index], k[1].float())
    rest = torch.tensor([i not in index for i in range(40)])
    assert torch.equal(after[rest], before[rest])


MOMENTUM_ALONE = MOCO_V3 | dict(target=dict(type="MomentumTarget", momentum=1.0))


@pytest.mark.parametrize("config", [method("MoCo", pairs=BOTH), MOMENTUM_ALONE])
@pytest.mark.parametrize("reduce", ["mean", "sum"])
def test_both_directions(config, reduce):
    """Against a queue; or, as in MoCo v3, against the other targets of the batch."""
    momentum = dict(momentum=1.0) if config["type"] == "MoCo" else {}
    model = moved_target(double(build(config | dict(reduce=reduce) | momentum)))
    inputs = views(5, **DOUBLE)

    def truth(twin):
        q, k = online_and_target(twin, inputs)
        rows = []
        for (a, b), n in itertools.product(BOTH, range(5)):
            others = [k[b][m] for m in range(5) if m != n]
            negatives = others if model.negatives is None else twin.negatives
            temperature = model.compare.temperature
            rows.append(info_nce(q[a][n], k[b][n], negatives, temperature))
        return sum(rows) / (5 if reduce == "sum" else 10)

    twin = copy.deepcopy(model)
    agrees(model, "instance", inputs, truth)
    if model.negatives is not None:  # the targets of both views enter the queue
        _, k = online_and_target(twin, inputs)
        torch.testing.assert_close(model.negatives[:10], torch.cat([k[1], k[0]]))
        assert model.compare.queue.ptr == 10
