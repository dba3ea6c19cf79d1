"""SimSiam against mmpretrain's and against a loss built by hand."""

import copy

import pytest
import torch

from .common import PREDICTOR, build, model_config, views
from .loops import mean_cosine
from .peers import COSINE, assert_trains_alike, in_encoders, peer

HEAD = dict(type="LatentPredictHead", loss=COSINE, predictor=PREDICTOR)


def test_equals_mmpretrain_step_for_step():
    ours = build("SimSiam")
    config = model_config("SimSiam", head=HEAD)
    del config["predictor"]
    theirs = peer("SimSiam", config)
    names = in_encoders(ours, ("backbone", "neck", "compare.predictor"))
    names = {ours: name.replace("compare.", "head.") for ours, name in names.items()}
    losses = {"loss_instance": "loss"}
    assert_trains_alike(
        ours, theirs, names, lambda k: views(8, k), losses, rtol=0, atol=0
    )


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
    expected = -(mean_cosine(p[0], targets[1]) + mean_cosine(p[1], targets[0])) / 2
    expected.backward()
    torch.testing.assert_close(loss, expected)
    peers = zip(model.parameters(), truth.parameters(), strict=True)
    for ours, theirs in peers:
        torch.testing.assert_close(ours.grad, theirs.grad)
    for name, target in zip(("query", "key"), targets, strict=True):
        unit = torch.nn.functional.normalize(target, dim=1)
        torch.testing.assert_close(model.last_embeddings[name], unit)


def test_wrong_predictors_say_what_to_change():
    for changes in (dict(predictor=None), dict(head=HEAD)):  # neither, or both
        with pytest.raises(ValueError, match=r"needs one predictor.*model\.predictor"):
            build("SimSiam", **changes)
    other = HEAD | dict(loss=dict(type="CrossCorrelationLoss"))
    with pytest.raises(ValueError, match=r"not .*Cross.*; leave head\.loss out"):
        build("SimSiam", predictor=None, head=other)
