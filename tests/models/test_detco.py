"""DetCo: levels, patch sets and their queues, against one loop over all of them."""

import copy
import math
import warnings
from functools import partial
from types import SimpleNamespace
from unittest import mock

import pytest
import torch

from mmssl_ext.models.algorithms import Step
from mmssl_ext.models.comparisons import MultiLevelSoftmax
from mmssl_ext.models.layers import shuffle_batch
from mmssl_ext.models.necks import MultiLevelNeck

from . import common
from .common import (
    BACKBONE,
    DENSE_NECK,
    assert_same_gradients,
    build,
    encode_key,
    encode_query,
    sgd,
    step,
)
from .loops import dot, mean_info_nce

pytestmark = pytest.mark.filterwarnings("ignore:bn_splits=1")

LEVELS = 4
TERMS = ("loss_global", "loss_local", "loss_cross")
WEIGHTS = (0.1, 0.4, 0.7, 1.0)
STAGES = (8, 16, 32, 64)  # channels of the small backbone


detco = partial(build, "DetCo")
views = partial(common.views, type_="DetCo")


def head(**changes):
    return dict(type="MultiLevelSoftmax", temperature=0.2, **changes)


def neck(**changes):
    sizes = dict(in_channels=STAGES, out_channels=16)
    return dict(type="MultiLevelNeck") | sizes | changes


def loop_features(encoder, images, patches):
    """Unit embeddings of every level and image: global[i][n] and local[i][n]."""

    def project(head, vector):
        first, second = head[0], head[2]
        hidden = (first.weight @ vector + first.bias).clamp(min=0)
        out = second.weight @ hidden + second.bias
        return out / out.square().sum().sqrt()

    maps = encoder.backbone(images)
    # One row after another, image by image; BatchNorm does not mind the order.
    rows = torch.stack([patch for image in patches for patch in image])
    patch_maps = encoder.backbone(rows)
    whole, local = [], []
    for i in range(LEVELS):
        whole.append([])
        local.append([])
        for n in range(len(images)):
            cells = maps[i][n].flatten(1)  # C_i x h*w
            vector = sum(cells.unbind(1)) / cells.shape[1]
            whole[i].append(project(encoder.neck.global_heads[i], vector))
            pooled = []
            for j in range(9):
                cells = patch_maps[i][9 * n + j].flatten(1)
                pooled.append(sum(cells.unbind(1)) / cells.shape[1])
            local[i].append(project(encoder.neck.local_heads[i], torch.cat(pooled)))
    return whole, local


def test_loss_and_gradient_of_a_step_equal_the_loop():
    """Equation 1 and the momentum update, term by term, in fp64."""
    model = detco(queue_len=24, bn_splits=1)
    optimizer = sgd(model)
    for seed in (1, 2):  # the key encoder has left the query's weights
        step(model, views(3, seed), optimizer)
    truth, inputs = copy.deepcopy(model.double()), [view.double() for view in views(3)]
    with mock.patch.object(torch.Tensor, "float", torch.Tensor.double):
        losses = model(inputs, mode="loss")
    optimizer.zero_grad()
    sum(losses[term] for term in TERMS).backward()

    images_q, images_k, patches_q, patches_k = inputs
    query_global, query_local = loop_features(truth, images_q, patches_q)
    with torch.no_grad():
        for part in ("backbone", "neck"):
            pairs = zip(
                truth.target.get_submodule(part).parameters(),
                truth.get_submodule(part).parameters(),
                strict=True,
            )
            for old, new in pairs:
                old.copy_(0.9 * old + 0.1 * new)
        key_global, key_local = loop_features(truth.target, images_k, patches_k)
    expected = dict.fromkeys(TERMS, 0.0)
    for i, weight in enumerate(WEIGHTS):
        queue_global, queue_local = truth.compare.queue.keys[[i, 4 + i]]
        cases = (
            (query_global[i], key_global[i], queue_global),
            (query_local[i], key_local[i], queue_local),
            (query_local[i], key_global[i], queue_global),
        )
        for term, case in zip(TERMS, cases, strict=True):
            expected[term] += weight * mean_info_nce(*case, 0.2)
    truth.zero_grad()
    sum(expected.values()).backward()

    for term in TERMS:
        torch.testing.assert_close(losses[term], expected[term], rtol=1e-7, atol=0)
    deepest = mean_info_nce(
        query_global[3], key_global[3], truth.compare.queue.keys[3], 0.2
    )
    torch.testing.assert_close(losses["raw_instance"], deepest.detach())
    assert_same_gradients(model, truth, 1e-6)


def test_equal_logits_give_the_logarithm_of_their_number():
    """Invariant 1 through the whole model: 6.6 ln 65,537 = 73.2."""
    model = detco(queue_len=65536)
    for mlp in [*model.neck.global_heads, *model.neck.local_heads]:
        torch.nn.init.zeros_(mlp[2].weight)  # all embeddings are one and the same
        torch.nn.init.ones_(mlp[2].bias)
    model.compare.queue.keys.fill_(0.25)
    losses = model(views(4), mode="loss")
    for term in TERMS:
        assert losses[term].item() == pytest.approx(2.2 * math.log(65537), rel=1e-5)
    assert sum(losses[term] for term in TERMS).item() == pytest.approx(73.2, abs=0.01)


def test_eight_queues_take_the_batch_at_the_same_positions():
    model, ptr = detco(queue_len=10), 0
    assert model.compare.queue.keys.shape == (2 * LEVELS, 10, 16)
    for seed in range(3):
        before = model.compare.queue.keys.clone()
        enqueue = model.compare.queue.enqueue
        with mock.patch.object(model.compare.queue, "enqueue", wraps=enqueue) as spy:
            model(views(4, seed), mode="loss")
        (key,) = spy.call_args.args  # 4 x 2L x D
        where = [(ptr + n) % 10 for n in range(4)]
        before[:, where] = key.transpose(0, 1)
        assert torch.equal(model.compare.queue.keys, before)
        assert torch.equal(key[:, 3], model.last_embeddings["key"])
        ptr += 4


def test_patches_are_put_side_by_side_image_by_image():
    """Invariant 7: patch j of image n is row j*N + n and fills columns of its own."""
    module = MultiLevelNeck(STAGES, out_channels=16)
    seen = {}
    for i, mlp in enumerate(module.local_heads):
        mlp.register_forward_pre_hook(lambda _, x, i=i: seen.update({i: x[0]}))
    n_images = 5
    patches = torch.randn(n_images, 9, 64)  # what an image's patches look like
    maps = [torch.randn(n_images, c, 2, 2) for c in STAGES]
    patch_maps = [torch.empty(9 * n_images, c, 3, 1) for c in STAGES]
    for i, channels in enumerate(STAGES):
        for n in range(n_images):
            for j in range(9):
                vector = patches[n, j, :channels]
                noise = torch.tensor([-1.0, 0.0, 1.0])  # pooled away
                patch_maps[i][j * n_images + n, :, :, 0] = vector[:, None] + noise
    levels = module(maps, patch_maps)
    for i, channels in enumerate(STAGES):
        for n in range(n_images):
            for j in range(9):
                columns = seen[i][n, j * channels : (j + 1) * channels]
                torch.testing.assert_close(columns, patches[n, j, :channels])
        pooled = maps[i].mean((2, 3))
        torch.testing.assert_close(levels[:, i], module.global_heads[i](pooled))
        local = module.local_heads[i](patches[:, :, :channels].flatten(1))
        torch.testing.assert_close(levels[:, 4 + i], local)
    torch.testing.assert_close(module(maps), levels[:, :4])


def moved_images(encode, inputs, perturbed):
    """Images whose global and whose local embeddings move with another's input."""
    images, patches = inputs
    others = [images.clone(), patches.clone()]
    for view in others:
        view[perturbed] = torch.randn_like(view[perturbed])
    gaps = encode(*others)["levels"] - encode(images, patches)["levels"]
    moved = gaps.norm(dim=2) > 1e-5  # N x 2L
    return [
        {n for n in range(len(images)) if moved[n, part].all()}
        if torch.equal(moved[:, part].all(1), moved[:, part].any(1))
        else None  # the levels disagree
        for part in (slice(0, 4), slice(4, 8))
    ]


def test_patches_share_the_batch_norm_group_of_their_image():
    """Invariant 7 in training: statistics come from whole images."""
    model = detco(bn_splits=4)
    moved = moved_images(lambda *x: encode_query(model, x), views(8)[0::2], 5)
    assert moved == [{1, 5}, {1, 5}]


def test_key_patches_are_shuffled_with_their_image():
    """Other mates than the query's, the same for images and patches, and in order."""
    model = detco(bn_splits=4)
    assert model.shuffles
    model.target.update(model)
    model.clock.set(1)
    frozen = copy.deepcopy(model)

    def encode(*view):
        return encode_key(copy.deepcopy(frozen), view)  # always the second step

    order = shuffle_batch(torch.arange(8), 2)[0].tolist()
    groups = [{order[p] for p in range(8) if p % 4 == g} for g in range(4)]
    mates = next(group for group in groups if 5 in group)
    assert mates != {1, 5}
    assert moved_images(encode, views(8)[1::2], 5) == [mates, mates]


def test_a_batch_that_tears_images_apart_is_told():
    model = detco(bn_splits=4)
    with pytest.warns(UserWarning, match=r"batch of 6 images is no multiple.*=4"):
        model(views(6), mode="loss")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model(views(8), mode="loss")
        model.eval()
        model.check_inputs(views(1))


def test_sizes_of_a_resnet50():
    """Invariant 8 and section 2, variant A."""
    with torch.device("meta"):
        module = MultiLevelNeck()
        wide = MultiLevelNeck(hid_channels=2048)
        listed = MultiLevelNeck(hid_channels=(64, 128, 256, 512))

    def millions(heads):
        counts = [sum(p.numel() for p in mlp.parameters()) for mlp in heads]
        return [count / 1e6 for count in counts]

    widths = [mlp[0].in_features for mlp in module.local_heads]
    assert widths == [2304, 4608, 9216, 18432]
    local = [0.62, 2.43, 9.57, 38.0]
    assert millions(module.local_heads) == pytest.approx(local, rel=0.01)
    whole = [0.10, 0.33, 1.18, 4.46]
    assert millions(module.global_heads) == pytest.approx(whole, rel=0.02)
    for neck, hidden in ((wide, [2048] * 4), (listed, [64, 128, 256, 512])):
        for heads in (neck.global_heads, neck.local_heads):
            assert [mlp[2].in_features for mlp in heads] == hidden


def test_levels_and_terms_are_weighed_by_hand():
    losses = torch.tensor([[1.0, 2, 3, 4], [5, 6, 7, 8], [9, 10, 11, 12]])
    compare = MultiLevelSoftmax(level_weights=WEIGHTS, term_weights=(1, 0.5, 2))
    # 0.1 + 0.8 + 2.1 + 4 = 7; 0.5 + 2.4 + 4.9 + 8 = 15.8; 0.9 + 4 + 7.7 + 12 = 24.6
    expected = torch.tensor([7, 7.9, 49.2])
    method = SimpleNamespace(pairs=((0, 1),))
    levels = {0: {"levels": torch.empty(1, 8, 16)}}
    made = Step({}, None, None, levels, {1: levels[0]}, {})
    with mock.patch.object(compare, "losses", return_value=losses):
        found = compare(method, made)
    assert list(found) == ["global", "local", "cross"]
    torch.testing.assert_close(torch.stack([*found.values()]), expected)


def test_inspect():
    model = detco()
    step(model, views(8), sgd(model))
    model(views(8), mode="loss")
    model.eval()
    inputs = views(3)
    with torch.no_grad():
        query = model.encode(model, (inputs[0], inputs[2]))["levels"]
        key = model.encode(model.target, (inputs[1], inputs[3]))["levels"]
    cross = model(inputs, mode="inspect")["cross"]
    assert not cross.requires_grad
    pairs = zip(query, key, strict=True)
    expected = [[dot(q[4 + i], k[i]) for i in range(4)] for q, k in pairs]
    torch.testing.assert_close(cross, torch.tensor(expected))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(backbone=BACKBONE | dict(out_indices=(3,))), r"returns 1 levels"),
        (
            dict(neck=neck(in_channels=STAGES[1:])),
            r"4 levels \(out_indices\), the neck has heads for 3",
        ),
        (dict(head=head(level_weights=(0.4, 0.7, 1))), r"weights for 3"),
        (dict(head=head(term_weights=(1, 1))), "global, local and cross"),
        (dict(head=head(level_weights=(-1, 0.4, 0.7, 1))), "none of them negative"),
        (dict(neck=neck(hid_channels=(8, 16, 32))), "not one width for each of the 4"),
        (dict(neck=DENSE_NECK), "DenseCLNeck knows no levels; set neck.type"),
        (
            dict(head=dict(type="QueueSoftmax")),
            "QueueSoftmax knows no levels; set head",
        ),
    ],
)
def test_levels_that_do_not_fit_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        detco(**changes)


def test_channels_of_another_level_are_refused_before_training():
    model = detco(neck=neck(in_channels=(8, 16, 64, 32))).eval()
    for call in (model.check_inputs, lambda x: model(x, mode="loss")):
        with pytest.raises(ValueError, match=r"\(8, 16, 32, 64\) channels.*neck has"):
            call(views(2))


@pytest.mark.parametrize(
    "spoil",
    [
        lambda x: [x[0], x[1], x[0], x[1]],  # no patches
        lambda x: [x[2], x[3], x[0], x[1]],  # the wrong order
        lambda x: [x[0], x[1], x[2][:, :4], x[3][:, :4]],  # a grid of 2 x 2
        lambda x: [x[0], x[1], x[2], x[3].flatten(0, 1)],
    ],
)
def test_views_that_are_no_patches_are_refused(spoil):
    model = detco().eval()
    model.check_inputs(views(2))
    for call in (model.check_inputs, lambda x: model(x, mode="loss")):
        with pytest.raises(ValueError, match=r"two of 9 patches.*CutPatches"):
            call(spoil(views(2)))


def test_fewer_levels_and_patches():
    model = detco(
        backbone=BACKBONE | dict(out_indices=(2, 3)),
        neck=neck(in_channels=(32, 64), num_patches=4),
        head=head(level_weights=(0.5, 1)),
    )
    inputs = views(4)
    losses = model([*inputs[:2], *(p[:, :4] for p in inputs[2:])], mode="loss")
    assert model.compare.queue.keys.shape == (4, 64, 16)
    assert all(torch.isfinite(v) for v in losses.values())
