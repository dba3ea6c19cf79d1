"""Our algorithms beside those of mmpretrain."""

import copy

import pytest
import torch
from mmengine.registry import init_default_scope

from mmssl_ext.registry import MODELS

from .common import model_config, step

CROSS_ENTROPY = dict(type="CrossEntropyLoss", loss_weight=1.0)
CONTRAST = dict(type="ContrastiveHead", temperature=0.2, loss=CROSS_ENTROPY)
COSINE = dict(type="CosineSimilarityLoss")


def moco_config(type_="MoCo", **changes):
    """Of mmpretrain, whose momentum is the share that the target takes."""
    config = model_config(type_, feat_dim=16, head=CONTRAST, **changes)
    del config["bn_splits"]
    return config


def peer(type_, config, **changes):
    """The algorithm of this name in mmpretrain, in training mode."""
    init_default_scope("mmpretrain")
    model = MODELS.build(config | {"type": f"mmpretrain.{type_}"} | changes).train()
    assert type(model).__module__.startswith("mmpretrain.")
    return model


def in_encoders(model, names):
    """Names of the tensors in the trained encoders, which both call the same."""
    return {
        f"{part}.{key}": f"{part}.{key}"
        for part in names
        for key in model.get_submodule(part).state_dict()
    }


def in_targets(model, target):
    """Names of the parameters of the target network: ours, and where theirs has it."""
    parts = {"backbone": "module.0", "neck": "module.1"}
    return {
        f"target.{ours}.{key}": f"{target}.{theirs}.{key}"
        for ours, theirs in parts.items()
        for key, _ in model.target.get_submodule(ours).named_parameters()
    }


def assert_trains_alike(ours, theirs, names, inputs, losses, offset=0.0, **tolerance):
    """Both take three steps from the same start; they agree after each.

    Args:
        ours: A model.
        theirs: Its peer.
        names: Tensors that agree, by our name. Queues of theirs are transposed.
        inputs: ``inputs(k)`` are the views of step k.
        losses: Losses that agree, by our name.
        offset: By how much ours is larger.
        **tolerance: rtol and atol.
    """

    def assert_same(function):
        state, other = ours.state_dict(), theirs.state_dict()
        for name, peer_name in names.items():
            value, found = state[name], other[peer_name]
            function(value if value.shape == found.shape else value.T, found)

    with torch.no_grad():
        assert_same(lambda value, found: found.copy_(value))
    optimizers = [
        torch.optim.SGD(
            [p for p in model.parameters() if p.requires_grad],
            lr=0.03,
            momentum=0.9,
            weight_decay=1e-4,
        )
        for model in (ours, theirs)
    ]
    start = copy.deepcopy(ours.backbone.conv1.weight)
    close = {"rel": tolerance["rtol"], "abs": tolerance["atol"]}
    for k in range(3):
        mine, other = (
            step(model, list(inputs(k)), optimizer)
            for model, optimizer in zip((ours, theirs), optimizers, strict=True)
        )
        for name, peer_name in losses.items():
            assert mine[name] - offset == pytest.approx(other[peer_name], **close)
        assert_same(lambda *pair: torch.testing.assert_close(*pair, **tolerance))
    assert not torch.equal(ours.backbone.conv1.weight, start)
