"""BG_Swaps: one more negative of each query's own, beside MoCo."""

from __future__ import annotations

from unittest import mock

import pytest
import torch

from mmssl_ext.models.algorithms import Step

from .common import (
    build,
    double,
    initialise,
    losses_of,
    model_config,
    samples,
    total,
    views,
)
from .loops import info_nce, unit
from .shapes import largest

pytestmark = pytest.mark.filterwarnings("ignore:bn_splits=1")


def of(model, q, k, other):
    """Loss of these embeddings."""
    target = {1: {"embedding": k}, 2: {"embedding": other}}
    made = Step({}, None, None, {0: {"embedding": q}}, target, {})
    return losses_of(model, made)["loss_instance"]


def test_by_hand():
    neck = dict(type="LinearNeck", in_channels=64, out_channels=2, gap_dim=2)
    options = dict(neck=neck | dict(norm_cfg=None), queue_len=2)
    found = []
    for name in ("MoCo", "BGSwaps"):
        model = double(build(name, **options))
        model.compare.queue.keys.copy_(torch.tensor([[0.0, 1.0], [-1.0, 0.0]]))
        rows = [torch.tensor([x]).double() for x in ((1, 0), (0.8, 0.6), (0.6, 0.8))]
        found.append(of(model, *rows).item())
    assert found == pytest.approx([0.018271, 0.326652], abs=1e-6)


def test_equals_loops_with_gradient_and_no_gradient_reaches_the_negative():
    model = double(build("BGSwaps"))
    q, k, other = (unit(6, 16, seed=i).requires_grad_() for i in range(3))
    found = of(model, q, k, other)
    rows = [
        info_nce(q[n], k[n], [*model.negatives, other[n]], 0.2).squeeze()
        for n in range(6)
    ]
    truth = sum(rows) / 6
    assert found.item() == pytest.approx(truth.item(), abs=1e-12)
    ours, exact = (
        torch.autograd.grad(x, q, retain_graph=True)[0] for x in (found, truth)
    )
    torch.testing.assert_close(ours, exact)
    assert torch.autograd.grad(found, other, allow_unused=True) == (None,)
    assert torch.autograd.gradcheck(
        lambda x: of(model, x, k.detach(), other), q.detach().requires_grad_()
    )


def test_one_more_candidate_raises_the_loss_and_vanishes_far_away():
    model, moco = double(build("BGSwaps")), double(build("MoCo"))
    q, k, other = (unit(6, 16, seed=i) for i in range(3))
    plain = of(moco, q, k, other)
    assert of(model, q, k, other) > plain
    far = of(model, q, k, -1000 * q)
    assert far.item() == pytest.approx(plain.item(), abs=1e-12)


def test_the_negative_goes_through_the_target_with_the_keys_and_is_not_remembered():
    model = build("BGSwaps", bn_splits=4)
    images = views(8, type_="BGSwaps")
    with mock.patch.object(
        type(model.target.backbone),
        "forward",
        autospec=True,
        side_effect=type(model.target.backbone).forward,
    ) as spy:
        made = model.step(images)
    batches = [len(call.args[1]) for call in spy.call_args_list]
    assert batches == [8, 16]  # queries; keys and negatives as one
    assert set(made.target) == {1, 2} and set(made.online) == {0}
    assert not made.target[2]["embedding"].requires_grad
    before = model.negatives.clone()
    model.remember(made)
    fresh = model.negatives[(model.negatives != before).any(1)]
    torch.testing.assert_close(fresh, made.target[1]["embedding"])
    # Without statistics of the batch the negative is encoded as any key is.
    model.eval()
    alone = model.step([images[0], images[2], images[1]])
    torch.testing.assert_close(
        alone.target[1]["embedding"], model.step(images).target[2]["embedding"]
    )


def test_a_step_without_the_column_is_mocos():
    """Seen alone (grouping by view), keys and the gradient are those of MoCo."""
    moco, ours = build("MoCo"), build("BGSwaps", grouping="view")
    images = views(8, type_="BGSwaps")
    found = []
    with mock.patch.object(
        ours.compare,
        "pair",
        lambda q, k, extra: type(ours.compare).pair(ours.compare, q, k),
    ):
        for model in (moco, ours):
            losses = model(images[: model.num_views], samples(8), mode="loss")
            total(losses).backward()
            found.append(losses["loss_instance"].item())
    assert found[0] == found[1]
    for (name, one), two in zip(
        moco.named_parameters(), ours.parameters(), strict=True
    ):
        if one.requires_grad:
            assert torch.equal(one.grad, two.grad), name
    assert torch.equal(moco.negatives, ours.negatives)


def test_nothing_of_the_size_of_all_similarities_is_stored():
    model = build("BGSwaps", queue_len=65_536)
    q, k, other = (unit(128, 16, seed=i).float() for i in range(3))
    assert largest(lambda: of(model, q, k, other)) <= 65_536 * 128 / 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(head=dict(negative_view=1)), "View 1 cannot be the negative"),
        (dict(head=dict(negative_view=-1)), "negative_view=-1 must be the number"),
        (dict(head=dict(type="QueueSoftmax")), "ExtraNegativeSoftmax, not by Queue"),
    ],
)
def test_senseless_choices_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        build("BGSwaps", **changes)


def test_a_base_without_target_network_is_refused():
    config = model_config("SimCLR")
    config["compare"] = dict(type="ExtraNegativeSoftmax", length=8)
    config |= dict(type="Method", target=dict(type="OwnTarget"))
    with pytest.raises(ValueError, match=r"needs a target network, .* OwnTarget"):
        initialise(config)
