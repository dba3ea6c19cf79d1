"""projects/simclr: short, right, and a full member of the family."""

import copy
import json
import math
from functools import partial
from pathlib import Path

import pytest
import torch
from mmengine.registry import init_default_scope
from torch.nn.functional import normalize
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from mmssl_ext.datasets.demo import make_demo
from mmssl_ext.registry import MODELS
from projects.simclr.simclr import SimCLR, nt_xent

from .distributed import run_ranks
from .models.common import BACKBONE, step, views
from .warm import python

REPO = Path(__file__).parents[1]
CONFIG = "projects/simclr/configs/simclr_r18_demo.py"


def test_less_than_a_hundred_lines():
    files = REPO / "projects" / "simclr" / "simclr.py", REPO / CONFIG
    assert sum(len(file.read_text().splitlines()) for file in files) < 100


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
    first, second = normalize(torch.randn(2, n, 5, dtype=torch.double), dim=2)
    loss = nt_xent(first, second, temperature)
    assert loss.item() == pytest.approx(slow_nt_xent(first, second, temperature))


def test_loss_by_hand():
    unit = torch.eye(2)
    # The pair has cosine 1, the two views of the other image have 0.
    assert nt_xent(unit, unit, 0.5).item() == pytest.approx(math.log(1 + 2 / math.e**2))
    # The pair has cosine 0; of the other image one view has 0, the other 1.
    crossed = nt_xent(unit, unit.flip(0), 1.0).item()
    assert crossed == pytest.approx(math.log(2 + math.e))
    # A single image: nothing to be confused with.
    assert nt_xent(unit[:1], unit[1:], 0.1).item() == 0


def test_gradient_and_precision():
    first, second = torch.randn(2, 3, 4, dtype=torch.double, requires_grad=True)
    assert torch.autograd.gradcheck(lambda a, b: nt_xent(a, b, 0.5), (first, second))
    first, second = normalize(torch.randn(2, 16, 32), dim=2)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = nt_xent(first, second, 0.1)
    assert torch.equal(mixed, nt_xent(first, second, 0.1))


def build():
    init_default_scope("mmssl_ext")
    torch.manual_seed(0)
    neck = dict(type="MoCoV2Neck", in_channels=64, hid_channels=64, out_channels=16)
    head = dict(type="NTXentHead", temperature=0.2)
    model = MODELS.build(dict(type="SimCLR", backbone=BACKBONE, neck=neck, head=head))
    model.init_weights()
    return model.train()


def test_every_parameter_learns_from_both_views():
    model, (first, second) = build(), views(6)
    twin = copy.deepcopy(model)
    losses = model([first, second], mode="loss")
    assert type(model) is SimCLR and losses.keys() == {"loss_instance"}
    losses["loss_instance"].backward()
    z = normalize(twin.neck(twin.backbone(torch.cat([first, second])))[0], dim=1)
    nt_xent(*z.chunk(2), 0.2).backward()
    peers = zip(model.named_parameters(), twin.parameters(), strict=True)
    for (name, ours), theirs in peers:
        assert ours.grad.abs().sum() > 0, name
        torch.testing.assert_close(ours.grad, theirs.grad)
    for part, expected in zip(("query", "key"), z.chunk(2), strict=True):
        found = model.last_embeddings[part]
        assert not found.requires_grad
        torch.testing.assert_close(found, expected.detach())
    for take in (model.check_inputs, partial(model, mode="loss")):
        with pytest.raises(ValueError, match="SimCLR takes 2 views per image, not 3"):
            take([first, second, first])


def three_steps(rank, world_size):
    """Train on this rank's part of eight images, BatchNorm frozen."""
    model = build()
    call = DistributedDataParallel(model) if world_size > 1 else model
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            module.eval()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for seed in range(3):
        part = [view.chunk(world_size)[rank] for view in views(8, seed)]
        loss = step(call, part, optimizer)["loss_instance"]
    return loss, model.state_dict()


def test_two_ranks_equal_one():
    """Same batch in all, so same loss and weights: negatives are those of all ranks."""
    loss, truth = three_steps(0, 1)
    for other, state in run_ranks(three_steps, 2, 2):
        assert other == pytest.approx(loss, rel=1e-5)
        for name, value in truth.items():
            torch.testing.assert_close(state[name], value, rtol=1e-5, atol=1e-5)


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


def run_tool(work_dir, demo, *args):
    """Train by the command of the page, on one thread: more would round differently."""
    options = ["--work-dir", work_dir, *args, "--cfg-options"]
    options += (f"{key}={value}" for key, value in SHORT.items())
    done = python("tools/train.py", CONFIG, *options, env={"DEMO_ROOT": str(demo)})
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The work_dir of two epochs of two steps."""
    root = tmp_path_factory.mktemp("simclr")
    make_demo(root / "demo", train=12, test=6, size=64, progress=False)
    run_tool(root / "run", root / "demo")
    return root / "run"


def test_run_has_knn_health_and_a_report(trained):
    (log,) = trained.glob("*/vis_data/scalars.json")
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    steps = [row for row in rows if "loss_instance" in row]
    assert [row["iter"] for row in steps] == [1, 2, 3, 4]
    for row in steps:
        # At most ten views are mistaken for the pair, at cosines of -1 to 1, T = 0.2.
        assert 0 < row["loss_instance"] < math.log(1 + 10 * math.exp(10))
        assert 0 < row["health/std_ratio"] <= 1 and row["health/alignment"] > 0
        assert "health/pos_neg_gap" not in row  # there is no queue
    knn = [row["knn/backbone_top1"] for row in rows if "knn/backbone_top1" in row]
    assert len(knn) == 2 and all(0 <= value <= 100 for value in knn)
    assert "SimCLR" in (trained / "report.html").read_text()


def test_resumed_run_equals_the_uninterrupted_one(trained, tmp_path):
    demo = trained.parent / "demo"
    run_tool(tmp_path, demo, "--resume", str(trained / "epoch_1.pth"))
    found, truth = (
        torch.load(folder / "epoch_2.pth", weights_only=True)["state_dict"]
        for folder in (tmp_path, trained)
    )
    assert found.keys() == truth.keys()
    for name, value in truth.items():
        assert torch.equal(found[name], value), name


def test_weights_arrive_in_a_backbone(trained):
    init_default_scope("mmssl_ext")
    checkpoint = trained / "epoch_2.pth"
    init_cfg = dict(type="PretrainedBackbone", checkpoint=str(checkpoint))
    width = dict(stem_channels=32, base_channels=32)
    backbone = MODELS.build(dict(type="ResNet", depth=18, init_cfg=init_cfg, **width))
    backbone.init_weights()
    source = torch.load(checkpoint, weights_only=True)["state_dict"]
    for name, value in backbone.state_dict().items():
        assert torch.equal(value, source[f"backbone.{name}"]), name
