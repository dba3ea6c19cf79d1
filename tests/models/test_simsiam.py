"""SimSiam against mmpretrain's and against a loss built by hand."""

import copy

import pytest
import torch
from mmengine.registry import init_default_scope
from torch.nn.functional import normalize

from mmssl_ext.models.algorithms import Step
from mmssl_ext.registry import MODELS

from .common import PREDICTOR, build, losses_of, model_config, step, views

HEAD = dict(
    type="LatentPredictHead",
    loss=dict(type="CosineSimilarityLoss"),
    predictor=PREDICTOR,
)


def peer_config():
    """The same model for mmpretrain, which has the predictor in a head."""
    config = model_config("SimSiam") | dict(type="mmpretrain.SimSiam", head=HEAD)
    del config["predictor"]
    return config


def named_like_theirs(model):
    """The state of our model by mmpretrain's names."""
    names = {"compare.predictor.": "head.predictor."}
    state = {k: v for k, v in model.state_dict().items() if k != "clock.steps"}
    for ours, theirs in names.items():
        state = {k.replace(ours, theirs): v for k, v in state.items()}
    return state


def test_equals_mmpretrain_step_for_step():
    ours = build("SimSiam")
    init_default_scope("mmpretrain")
    theirs = MODELS.build(peer_config()).train()
    assert type(theirs).__module__.startswith("mmpretrain.")
    theirs.load_state_dict(named_like_theirs(ours))
    optimizers = [
        torch.optim.SGD(m.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-4)
        for m in (ours, theirs)
    ]
    start = copy.deepcopy(ours.state_dict())
    assert ours.clock.num_steps == 0
    for seed in range(3):
        inputs = views(8, seed)
        mine = step(ours, inputs, optimizers[0])["loss_instance"]
        assert mine == step(theirs, list(inputs), optimizers[1])["loss"]
        assert -1 <= mine <= 1
        for key, value in theirs.state_dict().items():
            assert torch.equal(named_like_theirs(ours)[key], value), key
    assert not torch.equal(ours.backbone.conv1.weight, start["backbone.conv1.weight"])


@pytest.mark.parametrize("given", [HEAD, HEAD | dict(loss=None)])
def test_the_predictor_may_stand_in_a_head(given):
    """As in version 0.1; another loss than the cosine is refused."""
    head = {k: v for k, v in given.items() if v is not None}
    model, old = build("SimSiam"), build("SimSiam", predictor=None, head=head)
    state = old.state_dict()
    assert state.keys() == model.state_dict().keys()
    for key, value in model.state_dict().items():
        assert torch.equal(state[key], value), key
    assert torch.equal(
        *(m(views(8), mode="loss")["loss_instance"] for m in (model, old))
    )


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
    p = [truth.compare.predictor([x])[0] for x in z]
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
    model = build("SimSiam", pairs=[(0, 1)])  # one direction of the two
    z = [torch.randn(6, 32, requires_grad=True) for _ in range(2)]
    online = {
        v: {"projection": x, "embedding": normalize(model.compare.predict(x), dim=1)}
        for v, x in enumerate(z)
    }
    target = model.target.features(model, {1: torch.empty(0)}, online)
    assert target.keys() == {1}
    losses_of(model, Step({}, None, None, online, target, {}))[
        "loss_instance"
    ].backward()
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
    with pytest.raises(ValueError, match="SimSiam has no target network"):
        model(image, mode="embed_key")


def test_wrong_views_and_sizes_say_what_to_change():
    with pytest.raises(ValueError, match="takes 2 views per image, not 1"):
        build("SimSiam")(views(4)[:1], mode="loss")
    neck = model_config("SimSiam")["neck"] | dict(in_channels=2048)
    with pytest.raises(ValueError, match=r"set neck\.in_channels to 64"):
        build("SimSiam", neck=neck)
    for changes in (dict(predictor=None), dict(head=HEAD)):  # neither, or both
        with pytest.raises(ValueError, match=r"needs one predictor.*model\.predictor"):
            build("SimSiam", **changes)
    other = HEAD | dict(loss=dict(type="CrossCorrelationLoss"))
    with pytest.raises(ValueError, match=r"not .*Cross.*; leave head\.loss out"):
        build("SimSiam", predictor=None, head=other)
