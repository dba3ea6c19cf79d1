"""SimSiam against mmpretrain's and against a loss built by hand."""

import pytest
import torch

from .common import PREDICTOR, build, model_config, views
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


def test_wrong_predictors_say_what_to_change():
    for changes in (dict(predictor=None), dict(head=HEAD)):  # neither, or both
        with pytest.raises(ValueError, match=r"needs one predictor.*model\.predictor"):
            build("SimSiam", **changes)
    other = HEAD | dict(loss=dict(type="CrossCorrelationLoss"))
    with pytest.raises(ValueError, match=r"not .*Cross.*; leave head\.loss out"):
        build("SimSiam", predictor=None, head=other)
