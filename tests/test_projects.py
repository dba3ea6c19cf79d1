"""The methods of projects/: short, right, and full members of the family."""

import ast
import copy
import json
import math
from pathlib import Path

import pytest
import torch
from mmengine.registry import init_default_scope
from torch.nn.functional import normalize
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from mmssl_ext.datasets.demo import make_demo
from mmssl_ext.registry import MODELS
from projects.barlow_twins.barlow_twins import (
    BarlowTwins,
    cross_correlation,
    redundancy,
)
from projects.uniformity.uniformity import uniformity

from .distributed import run_ranks
from .models.common import BACKBONE, build, step, views
from .warm import python

REPO = Path(__file__).parents[1]
BARLOW = "projects/barlow_twins/configs/barlow-twins_r18_demo.py"
UNIFORMITY = "projects/uniformity/configs/simsiam-uniformity_r18_demo.py"
NECK = dict(
    type="NonLinearNeck",
    in_channels=64,
    hid_channels=32,
    out_channels=16,
    norm_cfg=dict(type="BN1d"),
    with_last_bn=False,
)


def lines_of_code(path):
    """Lines that are neither blank nor comments nor docstrings."""
    text = (REPO / path).read_text()
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef)
    docs = {
        line
        for node in ast.walk(ast.parse(text))
        if isinstance(node, documented) and ast.get_docstring(node) is not None
        for line in range(node.body[0].lineno, node.body[0].end_lineno + 1)
    }
    return sum(
        number not in docs and line.strip() != "" and not line.lstrip().startswith("#")
        for number, line in enumerate(text.splitlines(), 1)
    )


def test_a_term_in_thirty_lines_and_a_base_in_sixty():
    """As docs/own_algorithm.md says."""
    assert 10 < lines_of_code("projects/uniformity/uniformity.py") <= 30
    assert 10 < lines_of_code("projects/barlow_twins/barlow_twins.py") <= 60
    assert lines_of_code(UNIFORMITY) <= 10 and lines_of_code(BARLOW) <= 30


# Uniformity


def slow_uniformity(z, t):
    """Equation 3 of the paper, pair by pair, in Python's own numbers."""
    z = z.tolist()
    n = len(z)
    total = 0.0
    for i in range(n):
        for j in range(n):
            if i != j:
                gap = sum((a - b) ** 2 for a, b in zip(z[i], z[j], strict=True))
                total += math.exp(-t * gap)
    return math.log(total / (n * (n - 1)))


@pytest.mark.parametrize("n", [2, 3, 7])
@pytest.mark.parametrize("t", [0.5, 2.0])
def test_uniformity_equals_the_definition(n, t):
    z = normalize(torch.randn(n, 5, dtype=torch.double), dim=1)
    assert uniformity(z, t).item() == pytest.approx(slow_uniformity(z, t))


def test_uniformity_by_hand():
    east, north = torch.eye(2)
    for points, value in (
        ([east, east, east], 0),  # a single point
        ([east, north], -4),  # |z_i - z_j|^2 = 2
        ([east, -east], -8),  # 4, the most
        # Two of six ordered pairs coincide.
        ([east, east, -east], math.log((2 + 4 * math.exp(-8)) / 6)),
    ):
        assert uniformity(torch.stack(points), 2.0).item() == pytest.approx(value)


def test_gradients_of_the_formulas():
    first, second = torch.randn(2, 4, 3, dtype=torch.double, requires_grad=True)
    unit = normalize(first.detach(), dim=1).requires_grad_()
    assert torch.autograd.gradcheck(lambda z: uniformity(z, 2.0), unit)

    def loss(a, b):
        return redundancy(cross_correlation(a, b), 0.1)

    assert torch.autograd.gradcheck(loss, (first, second))


def test_mixed_precision_changes_no_formula():
    first, second = torch.randn(2, 16, 32)
    unit = normalize(first, dim=1)
    exact = uniformity(unit, 2.0), cross_correlation(first, second)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = uniformity(unit, 2.0), cross_correlation(first, second)
    for found, truth in zip(mixed, exact, strict=True):
        assert torch.equal(found, truth)


# Barlow Twins


def slow_barlow(first, second, weight, eps=1e-5):
    """Equation 1 of the paper, entry by entry, in Python's own numbers."""
    n, d = first.shape

    def standardised(column):
        mean = sum(column) / n
        variance = sum((x - mean) ** 2 for x in column) / n
        return [(x - mean) / math.sqrt(variance + eps) for x in column]

    u, v = ([standardised(x) for x in z.T.tolist()] for z in (first, second))
    loss = 0.0
    for i in range(d):
        for j in range(d):
            c = sum(a * b for a, b in zip(u[i], v[j], strict=True)) / n
            loss += (1 - c) ** 2 if i == j else weight * c**2
    return loss


@pytest.mark.parametrize(("n", "d"), [(2, 3), (5, 1), (9, 4)])
def test_barlow_twins_equal_the_definition(n, d):
    first, second = torch.randn(2, n, d, dtype=torch.double)
    loss = redundancy(cross_correlation(first, second), 0.3)
    assert loss.item() == pytest.approx(slow_barlow(first, second, 0.3))


def test_barlow_twins_by_hand():
    # Two features that are independent over four images, in other units.
    z = torch.tensor([[3.0, 10], [3, -10], [-3, 10], [-3, -10]]) + 5
    swapped, same = z.flip(1), z[:, :1].expand(4, 2)
    for other, value in (
        (z, 0),  # C is the identity
        (-z, 8),  # minus the identity: twice (1 + 1)^2
        (swapped, 2 + 0.1 * 2),  # C = [[0, 1], [1, 0]]
    ):
        loss = redundancy(cross_correlation(z, other), 0.1)
        assert loss.item() == pytest.approx(value, abs=1e-4)
    twice = redundancy(cross_correlation(same, same), 0.1)  # all entries are 1
    assert twice.item() == pytest.approx(0.2, abs=1e-4)


# Members of the family


def small_barlow(**changes):
    """Barlow Twins of 1/8 width."""
    init_default_scope("mmssl_ext")
    torch.manual_seed(0)
    config = dict(type="BarlowTwins", backbone=BACKBONE, neck=NECK, **changes)
    model = MODELS.build(config)
    model.init_weights()
    return model.train()


def test_every_parameter_learns_from_both_views():
    model, (first, second) = small_barlow(off_diagonal=0.1), views(6)
    twin = copy.deepcopy(model)
    losses = model([first, second], mode="loss")
    assert type(model) is BarlowTwins
    assert losses.keys() == {"loss_instance", "raw_instance"}
    losses["loss_instance"].backward()
    z, other = (twin.neck(twin.backbone(view))[0] for view in (first, second))
    redundancy(cross_correlation(z, other), 0.1).backward()
    peers = zip(model.named_parameters(), twin.parameters(), strict=True)
    for (name, ours), theirs in peers:
        assert ours.grad.abs().sum() > 0, name
        torch.testing.assert_close(ours.grad, theirs.grad)
    for part, expected in (("query", z), ("key", other)):
        found = model.last_embeddings[part]
        assert not found.requires_grad
        torch.testing.assert_close(found, normalize(expected.detach(), dim=1))
    with pytest.raises(ValueError, match="BarlowTwins takes 2 views per image, not 3"):
        model([first, second, first], mode="loss")


TERM = dict(type="Uniformity", weight=0.1)


@pytest.mark.parametrize("base", ["MoCo", "DetCo", "BYOL", "SimCLR", "SimSiam"])
def test_uniformity_on_any_base(base):
    model = build(base, terms=[TERM])
    losses = model(views(6, type_=base), mode="loss")
    # The projections of one step, taken from a copy that has made none.
    twin, inputs = build(base, terms=[TERM]), views(6, type_=base)
    made = twin.step(inputs)
    expected = [
        slow_uniformity(normalize(made.online[a]["projection"], dim=1), 2.0)
        for a in sorted({a for a, _ in twin.pairs})
    ]
    found = losses["raw_uniformity"].item()
    assert found == pytest.approx(sum(expected) / len(expected), rel=1e-4)
    assert losses["loss_uniformity"].item() == pytest.approx(0.1 * found)
    losses["loss_uniformity"].backward()
    assert model.backbone.conv1.weight.grad.abs().sum() > 0


def test_terms_of_the_package_on_barlow_twins():
    consistency = dict(type="Consistency", temperature=0.05, weight=0.3)
    model = small_barlow(terms=[consistency, dict(type="Dense"), TERM])
    losses = model(views(6, size=64), mode="loss")
    names = ("instance", "consistency", "dense", "uniformity")
    assert losses.keys() == {f"{kind}_{n}" for n in names for kind in ("loss", "raw")}
    with pytest.raises(ValueError, match=r"Regions .* CrossCorrelation does not say"):
        small_barlow(terms=[dict(type="Regions", cells=(1, 1))])


def three_steps(rank, world_size):
    """Train on this rank's part of eight images.

    BatchNorm is frozen, at statistics of all images: those of a batch are a rank's.
    """
    model = small_barlow(terms=[dict(type="Uniformity")])
    norms = [m for m in model.modules() if isinstance(m, _BatchNorm)]
    for norm in norms:
        norm.momentum = 1.0
    model.encode(model, torch.cat(views(8)))
    for norm in norms:
        norm.eval()
    call = DistributedDataParallel(model) if world_size > 1 else model
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4, momentum=0.9)
    for seed in range(3):
        part = [view.chunk(world_size)[rank] for view in views(8, seed)]
        losses = step(call, part, optimizer)
    return losses, model.state_dict()


def test_two_ranks_equal_one():
    """Correlations and distances are those of all images, and so are the gradients."""
    losses, truth = three_steps(0, 1)
    assert losses["raw_uniformity"] < -0.1 and losses["raw_instance"] > 1
    for others, state in run_ranks(three_steps, 2, 2):
        for name, value in losses.items():
            assert others[name] == pytest.approx(value, rel=1e-4), name
        for name, value in truth.items():
            torch.testing.assert_close(state[name], value, rtol=1e-4, atol=1e-5)


SHORT = {
    "max_epochs": 2,
    "batch_size": 6,
    "train_dataloader.num_workers": 0,
    "train_dataloader.persistent_workers": False,
    "default_hooks.checkpoint.interval": 1,
    "default_hooks.collapse.interval": 1,
    "default_hooks.logger.interval": 1,
    "default_hooks.knn.k": 3,
}
LOSSES = {BARLOW: {"instance"}, UNIFORMITY: {"instance", "uniformity"}}


def run_tool(config, work_dir, demo, *args):
    """Train by the command of the page, on one thread: more would round differently."""
    options = ["--work-dir", work_dir, *args, "--cfg-options"]
    options += (f"{key}={value}" for key, value in SHORT.items())
    done = python("tools/train.py", config, *options, env={"DEMO_ROOT": str(demo)})
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """Twelve scenes to train on."""
    root = tmp_path_factory.mktemp("projects") / "demo"
    make_demo(root, train=12, test=6, size=64, progress=False)
    return root


@pytest.fixture(
    scope="module",
    params=[  # the README of the other one trains it, too
        pytest.param(n, marks=[pytest.mark.slow] * (n == BARLOW), id=Path(n).stem)
        for n in LOSSES
    ],
)
def trained(request, demo):
    """A config and its work_dir after two epochs of two steps."""
    work_dir = demo.parent / Path(request.param).stem
    run_tool(request.param, work_dir, demo)
    return request.param, work_dir


def test_run_has_knn_health_and_a_report(trained):
    config, work_dir = trained
    (log,) = work_dir.glob("*/vis_data/scalars.json")
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    steps = [row for row in rows if "loss_instance" in row]
    assert [row["iter"] for row in steps] == [1, 2, 3, 4]
    names = {f"{kind}_{name}" for name in LOSSES[config] for kind in ("loss", "raw")}
    for row in steps:
        assert {n for n in row if n.startswith(("loss_", "raw_"))} == names
        assert row["loss"] == pytest.approx(
            sum(row[n] for n in names if n.startswith("loss_")), rel=1e-4
        )
        if "uniformity" in LOSSES[config]:
            assert -8 <= row["raw_uniformity"] <= 0
            scaled = pytest.approx(0.1 * row["raw_uniformity"], rel=1e-4)
            assert row["loss_uniformity"] == scaled
        assert 0 < row["health/std_ratio"] <= 1 and row["health/alignment"] > 0
        assert "health/pos_neg_gap" not in row  # there is no queue
    knn = [row["knn/backbone_top1"] for row in rows if "knn/backbone_top1" in row]
    assert len(knn) == 2 and all(0 <= value <= 100 for value in knn)
    method = "BarlowTwins" if config == BARLOW else "SimSiam"
    assert method in (work_dir / "report.html").read_text()


@pytest.mark.slow
def test_resumed_run_equals_the_uninterrupted_one(trained, demo, tmp_path):
    config, work_dir = trained
    run_tool(config, tmp_path, demo, "--resume", str(work_dir / "epoch_1.pth"))
    found, truth = (
        torch.load(folder / "epoch_2.pth", weights_only=True)["state_dict"]
        for folder in (tmp_path, work_dir)
    )
    assert found.keys() == truth.keys()
    for name, value in truth.items():
        assert torch.equal(found[name], value), name


def test_weights_arrive_in_a_backbone(trained):
    _, work_dir = trained
    init_default_scope("mmssl_ext")
    checkpoint = work_dir / "epoch_2.pth"
    init_cfg = dict(type="PretrainedBackbone", checkpoint=str(checkpoint))
    width = dict(stem_channels=32, base_channels=32)
    backbone = MODELS.build(dict(type="ResNet", depth=18, init_cfg=init_cfg, **width))
    backbone.init_weights()
    source = torch.load(checkpoint, weights_only=True)["state_dict"]
    for name, value in backbone.state_dict().items():
        assert torch.equal(value, source[f"backbone.{name}"]), name
