"""A small model that the algorithm tests share."""

import torch
from mmengine.registry import init_default_scope

from mmssl_ext.registry import MODELS

BACKBONE = dict(
    type="ResNet",
    depth=18,
    stem_channels=8,
    base_channels=8,
    zero_init_residual=False,  # else half of the layers start without a gradient
)


def model_config(type_="CO2", **changes) -> dict:
    """A ResNet-18 of 1/8 width on a queue of 64 keys; ``changes`` replace keys."""
    config = dict(
        type=type_,
        backbone=BACKBONE,
        neck=dict(type="MoCoV2Neck", in_channels=64, hid_channels=64, out_channels=16),
        head=dict(type="InstanceHead", temperature=0.2),
        queue_len=64,
        feat_dim=16,
        momentum=0.9,
        bn_splits=1,
    )
    if type_ == "CO2":
        config["consistency"] = dict(
            type="ConsistencyHead", temperature=0.05, weight=0.3
        )
    return config | changes


def build(type_="CO2", seed=0, **changes):
    """Build and initialise the model of :func:`model_config`, in training mode."""
    init_default_scope("mmssl_ext")
    torch.manual_seed(seed)
    model = MODELS.build(model_config(type_, **changes))
    model.init_weights()
    return model.train()


def views(batch, seed=0, size=32):
    """Two float views per image."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(batch, 3, size, size, generator=generator) for _ in range(2)]
