"""SimSiam against mmpretrain's and against a loss built by hand."""

import copy

import pytest
import torch
from mmengine.registry import init_default_scope

from mmssl_ext.registry import MODELS

from .common import build, model_config, step, views


def test_equals_mmpretrain_step_for_step():
    ours = build("SimSiam")
    init_default_scope("mmpretrain")
    theirs = MODELS.build(model_config("SimSiam", type="mmpretrain.SimSiam")).train()
    assert type(theirs).__module__.startswith("mmpretrain.")
    theirs.load_state_dict(ours.state_dict())
    optimizers = [
        torch.optim.SGD(m.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-4)
        for m in (ours, theirs)
    ]
    start = copy.deepcopy(ours.state_dict())
    for seed in range(3):
        inputs = views(8, seed)
        mine = step(ours, inputs, optimizers[0])["loss_instance"]
        assert mine == step(theirs, list(inputs), optimizers[1])["loss"]
        assert -1 <= mine <= 1
        for key, value in theirs.state_dict().items():
            assert torch.equal(ours.state_dict()[key], value), key
    assert not torch.equal(ours.backbone.conv1.weight, start["backbone.conv1.weight"])


def cosine_loss(predictions, targets):
    """Negative mean cosine, row by row."""
    pairs = zip(predictions, targets, strict=True)
    cosines = [torch.dot(p, t) / (p.norm() * t.norm()) for p, t in pairs]
    return -sum(cosines) / len(cosines)


def test_loss_and_stopped_gradient_by_hand():
    model, inputs = build("SimSiam").double(), [x.double() for x in views(6)]
    frozen, truth = copy.deepcopy(model), copy.deepcopy(model)
    loss = model(inputs, mode="loss")["loss_instance"]
    loss.backward()
    # The targets come from a model of which nothing is trained.
    with torch.no_grad():
        targets = [frozen.neck(frozen.backbone(x))[0] for x in inputs]
    z = [truth.neck(truth.backbone(x))[0] for x in inputs]
    p = [truth.head.predictor([x])[0] for x in z]
    expected = (cosine_loss(p[0], targets[1]) + cosine_loss(p[1], targets[0])) / 2
    expected.backward()
    torch.testing.assert_close(loss, expected)
    peers = zip(model.parameters(), truth.parameters(), strict=True)
    for ours, theirs in peers:
        torch.testing.assert_close(ours.grad, theirs.grad)
    for name, target in zip(("query", "key"), targets, strict=True):
        unit = torch.nn.functional.normalize(target, dim=1)
        torch.testing.assert_close(model.last_embeddings[name], unit)


def test_the_target_gets_no_gradient():
    model = build("SimSiam")
    z = [torch.randn(6, 32, requires_grad=True) for _ in range(2)]
    model.head.loss(*z).backward()
    assert z[0].grad.abs().sum() > 0 and z[1].grad is None


def test_embed_modes():
    model = build("SimSiam")
    model(views(8), mode="loss")
    model.eval()
    image = views(5)[0]
    result = model(image, mode="embed")
    maps = model(image, mode="tensor")
    torch.testing.assert_close(result["backbone"], maps[-1].mean((2, 3)))
    torch.testing.assert_close(result["embedding"], model.neck(maps)[0])
    assert result["embedding"].shape == (5, 32)
    with pytest.raises(ValueError, match="SimSiam has no key encoder"):
        model(image, mode="embed_key")


def test_wrong_views_and_sizes_say_what_to_change():
    with pytest.raises(ValueError, match="takes 2 views per image, not 1"):
        build("SimSiam")(views(4)[:1], mode="loss")
    neck = model_config("SimSiam")["neck"] | dict(in_channels=2048)
    with pytest.raises(ValueError, match=r"set neck\.in_channels to 64"):
        build("SimSiam", neck=neck)
