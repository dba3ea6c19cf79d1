"""Small bases and terms that are put together freely."""

import copy

import torch

from .common import BACKBONE, TEMPORAL, boxes, initialise, total

DIM = 16
MLP = dict(
    type="NonLinearNeck",
    in_channels=64,
    hid_channels=24,
    out_channels=DIM,
    num_layers=2,
    norm_cfg=dict(type="BN1d"),
)
PREDICTOR = MLP | dict(
    in_channels=DIM,
    hid_channels=8,
    with_avg_pool=False,
    with_last_bn=False,
    with_last_bias=True,
)
BASES: dict = {
    "MoCo": dict(
        neck=dict(type="MoCoV2Neck", in_channels=64, hid_channels=32, out_channels=DIM),
        head=dict(type="QueueSoftmax", temperature=0.2),
        queue_len=32,
        momentum=0.9,
        bn_splits=None,
    ),
    "BYOL": dict(neck=MLP, predictor=PREDICTOR, momentum=0.9),
    "SimSiam": dict(neck=MLP, predictor=PREDICTOR),
    "SimCLR": dict(neck=MLP, temperature=0.5),
    "MSF": dict(neck=MLP, predictor=PREDICTOR, bank_len=32, topk=3, momentum=0.9),
}
TERMS: dict = {
    "Consistency": dict(temperature=0.1),
    "Regions": dict(cells=(1, 1), stride=32),
    "UnMix": {},
    "Dense": dict(hid_channels=16, queue_len=32),
    "InterImage": dict(
        labels=dict(type="OnlineLabels", num_clusters=4, interval=2, min_size=2),
        negatives=dict(type="SemiHardNegatives", num=6, pool=0.5),
    ),
    "CrossConsistency": {},
    "CrossUniformity": {},
    "PixelConsistency": dict(hid_channels=16, layers=2),
    "PixelSimilarity": dict(num_layers=2, num_points=3),
    "RegionSimilarity": dict(num_regions=4, hid_channels=16, num_points=3),
    "LocalContrast": dict(hid_channels=16, points=3, exclude_near=False),
    "TemporalTeachers": TEMPORAL,
    "PrototypeScattering": dict(num_clusters=4),
}
# On bases that regress their target alone.
REGRESSION_TERMS: dict = {"Neighbours": dict(temperature=0.2, num_neighbours=2)}
IMAGES = 40  # of the bank


def term(name: str, base: str = "MoCo", **changes) -> dict:
    """Config of a term; a queue of its own is short, too."""
    own_queue = name == "Consistency" and base != "MoCo"
    return (
        dict(type=name)
        | (TERMS | REGRESSION_TERMS)[name]
        | (dict(queue_len=32) if own_queue else {})
        | changes
    )


def method(base: str, *terms, **changes) -> dict:
    """Config of a base of 1/8 width with the terms by name or config."""
    built = [term(t, base) if isinstance(t, str) else t for t in terms]
    return (
        dict(type=base, backbone=BACKBONE, terms=built) | BASES.get(base, {}) | changes
    )


def build(config: dict, seed: int = 0):
    """The model, initialised, in training mode; a bank is filled with noise."""
    return initialise(copy.deepcopy(config), seed, IMAGES)


def views(batch: int = 8, seed: int = 0, size: int = 64, count: int = 2, **options):
    """Float views of the images, 2 x 2 cells of 32 pixels."""
    generator = torch.Generator().manual_seed(seed)
    shape = (batch, 3, size, size)
    return [torch.randn(shape, generator=generator, **options) for _ in range(count)]


def losses(model, inputs, index=None):
    """What the model makes of the views of the first images, or of those."""
    index = torch.arange(len(inputs[0])) if index is None else index
    where = boxes(len(inputs[0]), len(inputs))
    return model(inputs, mode="loss", index=index, boxes=where)


def train(model, inputs, optimizer, index=None):
    """One step; all figures by name."""
    found = losses(model, inputs, index)
    optimizer.zero_grad()
    total(found).backward()
    optimizer.step()
    return {name: value.item() for name, value in found.items()}


def sgd(model, lr=0.05):
    return torch.optim.SGD(model.parameters(), lr=lr)
