"""CCOP: boxes by hand, whole steps against loops over objects, and MoCo without any."""

import copy
import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch.nn.functional import normalize
from torch.utils._python_dispatch import TorchDispatchMode
from torchvision.ops import roi_align

import mmssl_ext.transfer.detection  # noqa: F401  mmdet's FPN, by the stand-in
from mmssl_ext.datasets.transforms import Objects
from mmssl_ext.models.algorithms import Step
from mmssl_ext.models.layers import box_iou, jitter_boxes, mean_of_all, pool_boxes
from mmssl_ext.models.memory import KeyQueue
from mmssl_ext.models.terms import IntraImage, ObjectContrast
from mmssl_ext.models.terms.box_noise import noisy_boxes

from ..distributed import run_ranks
from .bases import BASES
from .common import BACKBONE, initialise, sgd, total
from .loops import info_nce, unit
from .shapes import largest

pytestmark = pytest.mark.filterwarnings("ignore:bn_splits=1")
FPN = dict(
    type="mmdet.FPN",
    in_channels=[8, 16, 32, 64],
    out_channels=8,
    num_outs=4,
    norm_cfg=dict(type="BN"),
)
OBJECTS = dict(
    fpn=FPN, roi_size=2, hid_channels=24, dropout=0.0, copies=4, limits=(4, 7, 11)
)
NECK = dict(
    type="DropoutNeck", in_channels=64, hid_channels=32, out_channels=16, dropout=0.0
)


def config(objects=None, **changes):
    return (
        dict(
            type="CCOP",
            backbone=BACKBONE | dict(out_indices=(0, 1, 2, 3)),
            neck=NECK,
            head=dict(temperature=0.2),
            queue_len=64,
            momentum=0.9,
            bn_splits=1,
            objects=OBJECTS | (objects or {}),
        )
        | changes
    )


def build(seed=0, total=10, **changes):
    model = initialise(copy.deepcopy(config(**changes)), seed)
    model.clock.total = total
    return model


def images(batch=4, seed=0, size=64, **options):
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.randn(batch, 3, size, size, generator=generator, **options)
        for _ in range(2)
    ]


def boxes(batch=4, most=5, seed=0, empty=(1,)):
    """Boxes of all sizes, N x P x 2 x 4; the last one of an image is missing."""
    generator = torch.Generator().manual_seed(seed)
    draw = torch.rand(2, batch, most, 2, 2, generator=generator)
    sides = 0.1 + 0.8 * draw[0]
    low = (1 - sides) * draw[1]
    found = torch.cat([low, low + sides], -1)
    found[:, -1] = math.nan
    found[list(empty)] = math.nan
    return found


def step(model, seed=0, optimizer=None, **options):
    dtype = next(model.parameters()).dtype
    losses = model(
        images(seed=seed, dtype=dtype),
        mode="loss",
        objects=Objects.of(boxes(seed=seed)),
    )
    if optimizer is not None:
        optimizer.zero_grad()
        total(losses).backward()
        optimizer.step()
    return losses


def box(*corners):
    return torch.tensor([corners], dtype=torch.double)


# By hand: the cases of the sheet


@pytest.mark.parametrize(
    ("noise", "shift", "scale", "iou"),
    [
        ((0.5, 0, 0, 0), 0.2, 0, 0.818182),  # a tenth to the right
        ((0, 0, 0.5, 0), 0, 2 * math.log(1.2), 0.833333),  # a fifth wider
        ((0, 0.5, 0, 0), 0.4, 0, 0.666667),
        ((0, 0, 0, 0), 0.6, 1.4, 1),
    ],
)
def test_jitter_by_hand(noise, shift, scale, iou):
    whole = box(0.25, 0.25, 0.75, 0.75)
    moved = jitter_boxes(whole, box(*noise)[:, None], shift, scale)
    assert box_iou(moved, whole[:, None]).item() == pytest.approx(iou, abs=1e-6)


def test_curriculum_by_hand():
    """H2, and the bound of H1 half way; the schedules are those of the paper."""
    model = build(total=100)
    term = model.terms.roi
    model.clock.set(50)
    shift, scale, least = term.noise.now(model.clock)
    assert (shift / 2, math.exp(scale / 2), least) == pytest.approx(
        (0.1875, 1.548830, 0.6), abs=1e-6
    )
    whole, noise = box(0.25, 0.25, 0.75, 0.75), box(0.2 / 0.375, 0, 0, 0)[:, None]
    for iteration, valid in ((0, False), (50, True)):
        model.clock.set(iteration)
        shift = term.schedules[0](model.clock)
        noise[..., 0] = 0.2 / shift  # 0.2 of the width
        moved, fits = noisy_boxes(whole, noise, *term.noise.now(model.clock))
        assert fits.tolist() == [[valid, True]]
        assert torch.equal(moved[:, -1], whole)
    assert [s.at(i, model.clock) for s in term.schedules for i in (0, 100)] == (
        pytest.approx([0.15, 0.6, 0.35, 1.4, 0.8, 0.4])
    )


def hinge(s, places, **options):
    """The hinge of one image, of similarities o @ k.T."""
    n = len(s)
    objects = Objects(
        torch.tensor(places)[:, None].expand(-1, 2, -1), torch.arange(n), n
    )
    features = dict(projection=torch.zeros(1, 1), objects=torch.tensor(s))
    made = Step(
        {}, None, None, {0: features}, {1: dict(objects=torch.eye(n))}, {}, objects
    )
    method = SimpleNamespace(pairs=((0, 1),), over_pairs=lambda losses: losses[0])
    return IntraImage(**options)(method, made).item()


def test_hinge_by_hand():
    apart = [[0, 0, 0.4, 0.4], [0.5, 0.5, 1.0, 1.0]]
    assert hinge([[0.9, 0.3], [0.7, 0.8]], apart) == pytest.approx(0.1, abs=1e-6)
    assert hinge([[0.9, 0.3], [0.4, 0.8]], apart) == 0  # invariant 6
    near = [[0, 0, 0.4, 0.4], [0.1, 0.1, 0.5, 0.5]]
    assert hinge([[0.9, 0.3], [0.7, 0.8]], near) == 0  # no pair
    assert hinge([[0.9, 0.3], [0.7, 0.8]], near, max_iou=1) == pytest.approx(0.1)


def test_choice_by_hand():
    """H4 and invariant 4: an invalid copy is not chosen at similarity -1 either."""
    for second in (0.2, -1.0):
        similarity = torch.tensor([[0.9, second, 0.6]])
        valid = torch.tensor([[True, False, True]])
        assert (similarity + 5 * ~valid).argmin(1).item() == 2


# The layers


def loop_pool(maps, places, owners, size, limits):
    """RoIAlign of one box on one level at a time."""
    found = []
    cells = maps[0].shape[2:]
    for place, owner in zip(places, owners.tolist(), strict=True):
        x0, y0, x1, y1 = place.tolist()
        side = math.sqrt((x1 - x0) * cells[1] * (y1 - y0) * cells[0])
        level = maps[sum(side > limit for limit in limits)]
        h, w = level.shape[2:]
        roi = [place.new_tensor([[x0 * w, y0 * h, x1 * w, y1 * h]])]
        found.append(roi_align(level[owner : owner + 1], roi, size, aligned=True))
    return torch.cat(found)


@pytest.mark.parametrize("strides", [(1, 2, 4, 8), (1, 2, 4, 4), (1,)])
def test_pooling_equals_a_loop_over_boxes_and_levels(strides):
    torch.manual_seed(0)
    limits = (4, 8, 12)[: len(strides) - 1]
    maps = [
        torch.randn(3, 2, 16 // s, 24 // s, dtype=torch.double, requires_grad=True)
        for s in strides
    ]
    flat = boxes(3, 9, empty=())[:, :-1, 0].reshape(-1, 4).double()
    edges = box(0, 0, 1, 1), box(0.9, 0, 1, 0.1), box(0, 0.95, 0.02, 1)
    places = torch.cat([flat, *edges])
    owners = torch.arange(len(places)) % 3
    ours, theirs = (
        pool(maps, places, owners, 3, limits) for pool in (pool_boxes, loop_pool)
    )
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)
    weights = torch.randn_like(ours)
    slopes = [torch.autograd.grad((x * weights).sum(), maps) for x in (ours, theirs)]
    for one, other in zip(*slopes, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)


def test_a_mirrored_map_has_mirrored_regions():
    """Invariant 5; also mmcv's RoIAlign, which detectors use, gives the same."""
    from mmcv.ops import RoIAlign

    maps = [torch.randn(1, 2, 16, 16)]
    place, first = box(0.1, 0.2, 0.7, 0.9).float(), torch.zeros(1, dtype=torch.long)
    mirrored = place[:, [2, 1, 0, 3]] * torch.tensor([-1, 1, -1, 1])
    mirrored += torch.tensor([1, 0, 1, 0])
    found = pool_boxes(maps, place, first, 4, ())
    other = pool_boxes([maps[0].flip(3)], mirrored, first, 4, ())
    torch.testing.assert_close(other, found.flip(3))
    rois = torch.cat([first[:, None], place * 16], 1)
    torch.testing.assert_close(RoIAlign(4, sampling_ratio=0)(maps[0], rois), found)


def test_iou_is_never_nan():
    empty = box(0.5, 0.5, 0.5, 0.5)
    assert box_iou(empty, empty) == 0
    assert box_iou(box(0, 0, 0.2, 0.2), box(0.5, 0.5, 1, 1)) == 0


def test_a_ring_takes_any_number_of_valid_keys():
    queue, peer = KeyQueue(10, 3), KeyQueue(10, 3)
    peer.load_state_dict(queue.state_dict())
    generator = torch.Generator().manual_seed(0)
    for seed, share in enumerate((0.5, 0, 1, 0.9, 0.1, 0.6)):
        keys = unit(17, 3, seed=seed).float()
        valid = torch.rand(17, generator=generator) < share
        queue.enqueue_some(keys, valid)
        peer.enqueue(keys[valid])
        for name, value in peer.state_dict().items():
            assert torch.equal(queue.state_dict()[name], value), (seed, name)


# Whole steps against loops


def loop_losses(model, online, target, objects, noise):
    """L_roi and L_intra of the features of two views, one object at a time."""
    term, clock = model.terms.roi, model.clock
    shift, scale, least = term.noise.now(clock)

    def embed(encoder, features, place, image):
        maps = [features[f"level{i}"] for i in range(4)]
        head = model.target.roi_head if encoder == "target" else term.roi_head
        region = loop_pool(maps, place[None], torch.tensor([image]), 2, term.limits)
        return normalize(head.mlp(region.flatten(1))[0], dim=0)

    losses, embedded = [], []
    for m, row in enumerate(objects.rows.tolist()):
        image = row // objects.most
        mine, theirs = objects.boxes[m].double()
        o = embed("online", online, mine, image)
        kept = []
        for dx, dy, dw, dh in noise[m].tolist():
            x0, y0, x1, y1 = theirs.tolist()
            w, h = x1 - x0, y1 - y0
            cx, cy = (x0 + x1) / 2 + shift * dx * w, (y0 + y1) / 2 + shift * dy * h
            w, h = w * math.exp(scale * dw), h * math.exp(scale * dh)
            moved = [cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2]
            moved = [min(max(x, 0), 1) for x in moved]
            iw = max(0, min(x1, moved[2]) - max(x0, moved[0]))
            ih = max(0, min(y1, moved[3]) - max(y0, moved[1]))
            area = (moved[2] - moved[0]) * (moved[3] - moved[1])
            union = (x1 - x0) * (y1 - y0) + area - iw * ih
            if iw * ih / union >= least:
                kept.append(embed("target", target, theirs.new_tensor(moved), image))
        own = embed("target", target, theirs, image)
        key = min([*kept, own], key=lambda k: (o @ k).item()).detach()
        assert o @ key <= o @ own  # invariant 3
        losses.append(info_nce(o, key, term.queue.keys, 0.2))
        embedded.append((image, theirs, o, own.detach()))
    pairs = [
        (a[2] @ b[3] - b[2] @ b[3] + 0.4).clamp(min=0)
        for i, a in enumerate(embedded)
        for j, b in enumerate(embedded)
        if i != j and a[0] == b[0] and box_iou(a[1], b[1]) < 0.05
    ]
    assert len(pairs) > 3
    return sum(losses) / len(losses), sum(pairs) / len(pairs)


def test_a_whole_step_equals_loops():
    model = build(total=4).double()
    for seed in range(2):
        step(model, seed, sgd(model, 0.01))
    found = Objects.of(boxes(seed=5, most=9))
    found = found._replace(boxes=found.boxes.double())
    views = images(seed=5, dtype=torch.double)
    made = replace(model.step(views), objects=found)
    generator = torch.Generator().manual_seed(model.clock.draw_seed)
    noise = model.terms.roi.noise.draw(found, 4, generator)
    ours = [model.terms.roi(model, made), model.terms.intra(model, made)]
    wanted = loop_losses(model, made.online[0], made.target[1], found, noise)
    chosen = made.figures["valid_copies"].item()
    assert 0.3 < chosen < 1  # some are not valid
    parameters = [p for p in model.parameters() if p.requires_grad]
    for mine, other in zip(ours, wanted, strict=True):
        assert mine.item() == pytest.approx(other.item(), abs=1e-9)
        slopes = [
            torch.autograd.grad(x, parameters, retain_graph=True, allow_unused=True)
            for x in (mine, other)
        ]
        for one, two in zip(*slopes, strict=True):
            assert (one is None) == (two is None)
            if one is not None:
                torch.testing.assert_close(one, two, rtol=1e-6, atol=1e-10)


def test_gradcheck():
    torch.manual_seed(0)
    limits = (3, 6)
    maps = [
        torch.randn(2, 2, s, s, dtype=torch.double, requires_grad=True)
        for s in (8, 4, 2)
    ]
    places = boxes(2, 3, empty=())[:, :-1, 0].reshape(-1, 4).double()
    owners = torch.tensor([0, 0, 1, 1])
    keys, queue = unit(4, 8, seed=1), unit(5, 8, seed=2)

    def loss(*maps):
        rows = normalize(pool_boxes(maps, places, owners, 2, limits).flatten(1), dim=1)
        return sum(info_nce(q, k, queue, 0.2) for q, k in zip(rows, keys, strict=True))

    assert torch.autograd.gradcheck(loss, maps)


def test_every_parameter_learns_and_no_key_does():
    model = build()
    optimizer = sgd(model, 0)
    seen = {}
    for seed in range(3):
        step(model, seed, optimizer)
        for name, p in model.named_parameters():
            if p.requires_grad and p.grad.any():
                seen[name] = True
            assert p.requires_grad or p.grad is None
    assert set(seen) == {n for n, p in model.named_parameters() if p.requires_grad}
    assert not [n for n, p in model.target.named_parameters() if p.requires_grad]


def test_without_objects_it_is_moco():
    """Invariant 1: no box anywhere; and both weights 0."""
    moco = initialise(_moco()).double()
    for options in (dict(), dict(weights=dict(roi=0.0, intra=0.0))):
        ccop = build(**options).double()
        ccop.load_state_dict(moco.state_dict(), strict=False)
        peer = copy.deepcopy(moco)
        optimizers = [sgd(m) for m in (ccop, peer)]
        none = torch.full((4, 5, 2, 4), math.nan)
        for seed in range(2):
            views = images(seed=seed, dtype=torch.double)
            given = Objects.of(boxes() if options else none)
            ours = ccop(views, mode="loss", objects=given)
            theirs = peer(views, mode="loss")
            for losses, optimizer in zip((ours, theirs), optimizers, strict=True):
                optimizer.zero_grad()
                total(losses).backward()
                optimizer.step()
            if not options:
                assert ours["loss_roi"] == ours["loss_intra"] == 0
            assert abs(total(ours) - total(theirs)) < 1e-12
        grads = [p.grad for p in ccop.parameters() if p.requires_grad]
        assert all(g is not None and g.isfinite().all() for g in grads)
        state = ccop.state_dict()
        for name, value in peer.state_dict().items():
            torch.testing.assert_close(state[name], value, rtol=0, atol=1e-12)


def _moco():
    changed = config(type="MoCo")
    del changed["objects"]
    return changed


def test_without_noise_the_choice_does_not_matter():
    """Invariant 2."""
    still = dict(shift=0.0, scale=0.0)
    one, other = (build(objects=still | dict(copies=c)).eval() for c in (1, 7))
    other.load_state_dict(one.state_dict())
    torch.testing.assert_close(step(one)["loss_roi"], step(other)["loss_roi"])


def test_order_of_boxes_does_not_matter():
    model = build(objects=dict(copies=0)).eval()
    padded = boxes(most=6)
    order = torch.tensor([3, 5, 0, 2, 4, 1])
    values = []
    for given in (padded, padded[:, order]):
        model.clock.set(0)
        losses = copy.deepcopy(model)(images(), mode="loss", objects=Objects.of(given))
        values.append([losses[name].item() for name in ("loss_roi", "loss_intra")])
    assert values[0] == pytest.approx(values[1], rel=1e-5)


def test_queues_advance_by_what_they_get():
    """Invariant 7; and the chosen keys are what is remembered."""
    model = build()
    for seed in range(2):
        step(model, seed)
    count = 2 * len(Objects.of(boxes()).rows)
    assert model.compare.queue.ptr == 8 and model.terms.roi.queue.ptr == count
    for queue in (model.compare.queue, model.terms.roi.queue):
        torch.testing.assert_close(queue.keys.norm(dim=1), torch.ones(64))


def test_accumulation_moves_target_and_queues_once():
    model = build()
    model.clock.accumulation = 2
    for seed in range(4):
        step(model, seed)
    assert model.target.num_steps == 2
    assert model.terms.roi.queue.ptr == 4 * len(Objects.of(boxes()).rows)


# What a run needs


def train_on_a_rank(rank, world=2):
    """Three steps on half of the batch, or on all of it."""
    torch.set_num_threads(1)
    model = build(bn_splits=None).double()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eval()
    optimizer = sgd(model, 0.01)
    logs = []
    for seed in range(3):
        views = [x.chunk(world)[rank] for x in images(seed=seed, dtype=torch.double)]
        given = boxes(seed=seed, empty=(0, 1) if seed == 1 else (1,))  # a rank has none
        losses = model(views, mode="loss", objects=Objects.of(given.chunk(world)[rank]))
        optimizer.zero_grad()
        total(losses).backward()
        if world > 1:
            for p in model.parameters():
                if p.requires_grad:
                    torch.distributed.all_reduce(p.grad)
                    p.grad /= world
        optimizer.step()
        logs.append([losses[n].item() for n in ("loss_roi", "loss_intra")])
    return dict(model.state_dict()), logs


def test_two_ranks_equal_one():
    one, log = train_on_a_rank(0, 1)
    ranks = run_ranks(train_on_a_rank, 2)
    for state, _ in ranks:
        for name, value in one.items():
            torch.testing.assert_close(state[name], value, rtol=1e-9, atol=1e-11)
    mean = torch.tensor([r[1] for r in ranks], dtype=torch.double).mean(0)
    torch.testing.assert_close(mean, torch.tensor(log, dtype=torch.double))


def test_resume_is_bitwise():
    """With dropout, whose draws the run restores, and the curriculum half way."""
    whole = build(objects=dict(dropout=0.1))
    torch.manual_seed(1)
    for seed in range(2):
        step(whole, seed)
    state, rng = copy.deepcopy(whole.state_dict()), torch.get_rng_state()
    expected = [{k: v.item() for k, v in step(whole, s).items()} for s in (2, 3)]
    other = build(seed=9, objects=dict(dropout=0.1))
    other.load_state_dict(state)
    torch.set_rng_state(rng)
    assert [
        {k: v.item() for k, v in step(other, s).items()} for s in (2, 3)
    ] == expected
    # Another length of the training is another curriculum
    again = build(seed=9, total=1000, objects=dict(dropout=0.1))
    again.load_state_dict(state)
    torch.set_rng_state(rng)
    assert step(again, 2)["valid_copies"] > expected[0]["valid_copies"]


def test_bfloat16_is_finite():
    model = build()
    with torch.autocast("cpu", torch.bfloat16):
        losses = step(model)
        total(losses).backward()
    assert all(x.isfinite() for x in losses.values())


class _Waits(TorchDispatchMode):
    """Operations that wait for a device, or whose size depends on values."""

    def __init__(self):
        super().__init__()
        self.found = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        if name in ("_local_scalar_dense", "nonzero", "masked_select", "unique"):
            self.found.add(name)
        if name == "index" and any(
            isinstance(x, torch.Tensor) and x.dtype == torch.bool for x in args[1]
        ):
            self.found.add("index by a mask")
        return func(*args, **(kwargs or {}))


def test_fifty_boxes_per_image_without_waiting_and_without_a_large_matrix():
    model = build(objects=dict(queue_len=65_536))
    given = Objects.of(boxes(2, 51, empty=()))
    assert len(given.rows) == 100

    def run():
        total(model(images(2), mode="loss", objects=given)).backward()

    run()  # what is checked only once
    assert largest(run) <= 65_536 * 16  # the queue itself, not 100 times as much
    with _Waits() as waits:
        run()
    assert not waits.found


@pytest.mark.parametrize("base", ["BYOL", "SimSiam"])
def test_on_bases_without_a_queue(base):
    """Both directions: each view is asked, each is a target."""
    terms = [dict(type="ObjectContrast", queue_len=64, **OBJECTS)]
    options = BASES[base] | dict(terms=[*terms, dict(type="IntraImage")])
    backbone = BACKBONE | dict(out_indices=(0, 1, 2, 3))
    model = initialise(copy.deepcopy(dict(type=base, backbone=backbone) | options))
    model.clock.total = 10
    losses = step(model, 0, sgd(model))
    assert losses["loss_roi"] > 0 and all(x.isfinite() for x in losses.values())
    assert model.terms.roi.queue.ptr == 2 * len(Objects.of(boxes()).rows) % 64


# What does not fit


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (dict(objects=dict(limits=(4, 7))), "limits=.* must be 3 rising sizes"),
        (dict(objects=dict(limits=(7, 4, 9))), "must be 3 rising sizes"),
        (dict(objects=dict(limits=5)), "limits=5 must be 3 rising sizes"),
        (dict(objects=dict(limits=("a", "b", "c"))), "must be 3 rising sizes"),
        (dict(objects=dict(hid_channels=0)), "hid_channels=0 must be a whole number"),
        (dict(objects=dict(roi_size=0)), "roi_size=0 of ObjectContrast"),
        (dict(objects=dict(copies=-1)), "roi.copies=-1"),
        (dict(objects=dict(min_iou=1.5)), "roi.min_iou=1.5 must lie in"),
        (dict(objects=dict(dropout=1)), "dropout=1 is the chance"),
        (dict(objects=dict(temperature=0)), "temperature=0 is not a temperature"),
        (dict(intra=dict(margin=3)), "margin=3 is between two cosines"),
        (dict(intra=dict(max_iou=0)), "max_iou=0 must be above 0"),
        (_moco() | dict(terms=[dict(type="IntraImage")]), "put that among the terms"),
    ],
)
def test_what_does_not_fit_is_refused(changes, sentence):
    with pytest.raises(ValueError, match=sentence):
        build(**changes) if "type" not in changes else initialise(changes)


def test_a_backbone_without_the_levels_is_refused():
    model = build(backbone=BACKBONE)
    with pytest.raises(ValueError, match=r"maps of \[64\] channels.*out_indices"):
        step(model)


def test_a_batch_without_boxes_is_refused():
    with pytest.raises(ValueError, match=r"no boxes of any.*LoadProposals behind"):
        build()(images(), mode="loss")


def test_defaults():
    term = ObjectContrast(fpn=FPN)
    assert (term.noise.copies, term.roi_size, term.limits) == (10, 7, (12, 24, 48))
    intra = IntraImage()
    assert (intra.margin, intra.max_iou) == (0.4, 0.05)


def test_a_mean_of_nothing_is_zero():
    nothing = torch.zeros(())
    assert mean_of_all(nothing, nothing) == 0
