"""Small models that the algorithm tests share."""

import torch
from mmengine.registry import init_default_scope
from mmpretrain.structures import DataSample
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from mmssl_ext.models.algorithms import SSLAlgorithm, Step
from mmssl_ext.models.comparisons import EarlierNeighbours, FalseNegativeSoftmax
from mmssl_ext.registry import MODELS

OF_0_1 = ("MoCo", "CO2", "DenseCL", "RegionCLM", "RegionCLD", "DetCo", "InterCLR")
SOFT = ("ASCL", "ReSSL")
QUEUE_ALGORITHMS = (*OF_0_1, *SOFT, "MoCHi", "IFND", "TKC", "BGSwaps", "DSC")
SHIFTING_ALGORITHMS = ("MSF", "CMSF")
ALGORITHMS = (
    *(*QUEUE_ALGORITHMS, "SimSiam", "RegionCLS", "BYOL", "SimCLR"),
    *SHIFTING_ALGORITHMS,
    *("PixPro", "DenseSiam", "ProPos", "SwAV", "MIRA", "DINO", "SCFS"),
)
MOMENTUM_ALGORITHMS = (
    *(*QUEUE_ALGORITHMS, "BYOL", *SHIFTING_ALGORITHMS, "PixPro", "ProPos"),
    *("MIRA", "DINO", "SCFS"),
)
NOT_DRAWN = (
    *("MoCo", "CO2", "InterCLR", "MoCHi", "IFND", "TKC", "BGSwaps"),
    *("SimSiam", "BYOL", "SimCLR", "CMSF", "ProPos"),
    *("SwAV", "MIRA", "DINO", "SCFS"),
)
CELL_ALGORITHMS = (
    *("DenseCL", "RegionCLM", "RegionCLD", "RegionCLS"),
    *("PixPro", "DenseSiam", "DSC"),
)

BACKBONE = dict(
    type="ResNet",
    depth=18,
    stem_channels=8,
    base_channels=8,
    zero_init_residual=False,  # else half of the layers start without a gradient
)
DENSE_NECK = dict(type="DenseCLNeck", in_channels=64, hid_channels=64, out_channels=16)
CONV_NECK = dict(type="ConvProjector", in_channels=64, hid_channels=32, out_channels=16)
GELU_NECK = dict(type="GELUNeck", in_channels=64, hid_channels=32, out_channels=16)
SEARCH = dict(out_channels=12, mid_channels=8, hid_channels=16)
TEMPORAL = dict(interval=3, by_epoch=False, ramp=0, hidden=24)
REGION = dict(cells=(1, 1), stride=32)


def _mlp(in_channels, hid_channels, **changes):
    """A projector or predictor of two layers and 32 outputs."""
    return dict(
        type="NonLinearNeck",
        in_channels=in_channels,
        hid_channels=hid_channels,
        out_channels=32,
        num_layers=2,
        norm_cfg=dict(type="BN1d"),
        **changes,
    )


PLAIN_NECK = _mlp(64, 32, with_bias=True, with_last_bn=False, with_last_bias=True)
PREDICTOR = _mlp(*(32, 8), with_avg_pool=False, with_last_bn=False, with_last_bias=True)


def model_config(type_="CO2", **changes) -> dict:
    """A ResNet-18 of 1/8 width, queues of 64 keys; ``changes`` replace keys."""
    config: dict = dict(type=type_, backbone=BACKBONE)
    if type_ in QUEUE_ALGORITHMS:
        config |= dict(
            neck=dict(
                type="MoCoV2Neck", in_channels=64, hid_channels=64, out_channels=16
            ),
            head=dict(type="QueueSoftmax", temperature=0.2),
            queue_len=64,
            momentum=0.9,
            bn_splits=1,
        )
    elif type_ in ("DINO", "SCFS"):
        config |= dict(neck=GELU_NECK, num_prototypes=24, momentum=0.9)
    else:
        config["neck"] = _mlp(64, 32, with_last_bn_affine=False)
        if type_ in ("SwAV", "MIRA"):
            config |= dict(neck=PLAIN_NECK, num_prototypes=12)
        elif type_ not in ("SimCLR", "PixPro"):
            config["predictor"] = PREDICTOR
    if type_ in ("BYOL", *SHIFTING_ALGORITHMS, "PixPro", "ProPos", "MIRA"):
        config["momentum"] = 0.9
    if type_ == "SwAV":
        config |= dict(queue_len=64, queue_start=0)
    if type_ == "MIRA":
        config["beta"] = 2 / 3
    if type_ == "DenseSiam":
        config["pixel"] = dict(num_layers=2, num_points=3)
        config["region"] = dict(num_regions=4, hid_channels=16, num_points=3)
    if type_ == "PixPro":
        config |= dict(neck=CONV_NECK, instance_weight=0.5)
    if type_ in SHIFTING_ALGORITHMS:
        config |= dict(bank_len=64, topk=3)
    if type_ == "CMSF":
        config["constraint"] = dict(type="EarlierNeighbours", k=4)
    if type_ == "CO2":
        config["consistency"] = dict(temperature=0.05, weight=0.3)
    if type_ in SOFT:
        config["head"] = dict(temperature=0.2)
    if type_ == "BGSwaps":
        config["head"] = dict(temperature=0.2)
    if type_ == "MoCHi":
        config["head"] = dict(
            temperature=0.2, num_hardest=8, num_mixed=6, num_with_query=3
        )
    if type_ == "DSC":
        config["dense"] = dict(num_neighbours=2)
        config["semantic"] = dict(num_prototypes=5)
    if type_ in ("DenseCL", "RegionCLD", "DSC"):
        config["neck"] = DENSE_NECK
    if type_.startswith("RegionCL"):
        config["region"] = REGION
    if type_ == "DetCo":
        config |= dict(
            backbone=BACKBONE | dict(out_indices=(0, 1, 2, 3)),
            neck=dict(
                type="MultiLevelNeck", in_channels=(8, 16, 32, 64), out_channels=16
            ),
            head=dict(type="MultiLevelSoftmax", temperature=0.2),
        )
    if type_ == "InterCLR":
        config |= dict(
            pseudo_labels=dict(
                type="OnlineLabels", num_clusters=6, interval=2, min_size=4
            ),
            negatives=dict(type="SemiHardNegatives", num=12, pool=0.5),
            inter_head=dict(temperature=0.2, margin=-0.5),
        )
    if type_ == "SCFS":
        config["backbone"] = BACKBONE | dict(out_indices=(1, 2, 3))
        config["search"] = SEARCH
    if type_ == "IFND":
        config["false_negatives"] = dict(levels=(3, 7), rate=0.5, warmup=0, interval=1)
    if type_ == "ProPos":
        config |= dict(prototypes=dict(num_clusters=4), warmup=0, scattering_weight=0.5)
    if type_ == "TKC":
        config["temporal"] = TEMPORAL | dict(interval=1, learn_weights=True)
    return config | changes


def initialise(config, seed=0, images=100):
    """Build and initialise a model, in training mode.

    InterCLR's bank, what CMSF remembers of an earlier epoch, the labels of IFND and
    ProPos for so many images, if any, and TKC's teachers are made of noise.
    """
    init_default_scope("mmssl_ext")
    torch.manual_seed(seed)
    model = MODELS.build(config)
    model.init_weights()
    if images and "inter" in model.terms:
        generator = torch.Generator().manual_seed(seed)
        model.terms.inter.fill(torch.randn(images, model.dim, generator=generator))
    constraint = getattr(model.compare, "constraint", None)
    if images and isinstance(constraint, EarlierNeighbours):
        generator = torch.Generator().manual_seed(seed)
        constraint.last.fill(torch.randn(images, model.dim, generator=generator))
        constraint.earlier.labels.zero_()
    if images and isinstance(model.compare, FalseNegativeSoftmax):
        generator = torch.Generator().manual_seed(seed)
        model.compare.prepare(images)
        model.compare.cluster(torch.randn(images, model.dim, generator=generator), 0.5)
    scattering = dict(model.terms.items()).get("scattering")
    if images and scattering is not None and scattering.clusters is not None:
        generator = torch.Generator().manual_seed(seed)
        scattering.clusters.prepare(images)
        features = torch.randn(images, model.dim, generator=generator)
        scattering.clusters.cluster(features)
    if images and "temporal" in model.terms:
        generator = torch.Generator().manual_seed(seed)
        teach(model, generator)
    return model.train()


@torch.no_grad()
def teach(model, generator):
    """Temporal teachers that are near the network, behind transformers of noise."""
    temporal = model.terms.temporal
    while len(temporal.snapshots) < temporal.num_teachers:
        temporal.take(model)
    noisy = [*temporal.snapshots.parameters()]
    for transformer in temporal.transformers:
        noisy += getattr(transformer, "outer", transformer).parameters()
    for parameter in noisy:
        parameter += 0.1 * torch.randn(parameter.shape, generator=generator)


def build(type_="CO2", seed=0, images=100, **changes):
    """The model of :func:`model_config`."""
    return initialise(model_config(type_, **changes), seed, images)


def sgd(model, lr=0.1):
    return torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9)


def train_in_double(ours, rank, world_size):
    """Losses of three steps of a rank's share of six images each, and the state."""
    call = DistributedDataParallel(ours) if world_size > 1 else ours
    optimizer, history = sgd(ours), []
    for seed in range(3):
        given = [x.double().chunk(world_size)[rank] for x in views(6, seed)]
        loss = total(call(given, mode="loss"))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        history.append(loss.item())
    return history, ours.state_dict()


def total(losses):
    """The sum that is trained."""
    return sum(value for name, value in losses.items() if name.startswith("loss"))


def freeze_norms(model):
    """BatchNorm by its running statistics, so that images do not see each other."""
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            module.eval()
    return model


def assert_same_gradients(model, truth, relative, absolute=0.0):
    """Of all parameters that are trained, relative to the norm of each.

    One that is 0 but for rounding, such as of a bias before BatchNorm, has only an
    absolute error.
    """
    peers = dict(truth.named_parameters())
    for name, parameter in model.named_parameters():
        ours, exact = parameter.grad, peers[name].grad
        if ours is None or exact is None:  # none where the other is 0
            found = [x for x in (ours, exact) if x is not None]
            assert not any(x.any() for x in found), name
        else:
            allowed = relative * exact.norm() + absolute
            assert (ours - exact).norm() <= allowed, name


def views(batch, seed=0, size=None, type_="CO2"):
    """Float views of the images: two, and for DetCo two sets of nine patches more.

    BGSwaps has a third, the negatives.

    Images are 32 pixels wide, where a method looks at cells 64 (2 x 2 of them).
    """
    if size is None:
        size = 64 if type_ in CELL_ALGORITHMS else 32
    generator = torch.Generator().manual_seed(seed)
    count = 3 if type_ == "BGSwaps" else 2
    shape = (batch, 3, size, size)
    images = [torch.randn(shape, generator=generator) for _ in range(count)]
    if type_ != "DetCo":
        return images
    return images + [
        torch.randn(batch, 9, 3, 32, 32, generator=generator) for _ in range(2)
    ]


def samples(images):
    """Data samples of the images with these numbers, or of the first so many."""
    images = range(images) if isinstance(images, int) else images
    return [DataSample(metainfo=dict(sample_idx=int(i))) for i in images]


def boxes(batch, count=2):
    """Where the views were cut: two that overlap, every other view mirrored."""
    rows = [(0, 0, 0.75, 0.75), (1, 0.25, 0.25, 1)]
    return torch.tensor([rows[v % 2] for v in range(count)]).expand(batch, -1, -1)


def step(model, inputs, optimizer, images=None):
    """One optimizer step; the losses and other figures by name.

    ``images`` are the numbers of the images in the dataset, the first ones unless told.
    """
    images = len(inputs[0]) if images is None else images
    where = dict(boxes=boxes(len(inputs[0]), len(inputs)))
    if not isinstance(getattr(model, "module", model), SSLAlgorithm):  # a peer
        where = {}
    losses = model(inputs, samples(images), mode="loss", **where)
    optimizer.zero_grad()
    total(losses).backward()
    optimizer.step()
    return {k: v.item() for k, v in losses.items()}


def double(model):
    """The model in float64, but for what is always float32: banks and labels."""
    model.double()
    if "inter" in model.terms:
        model.terms.inter.float()
    return model


def encode_query(model, view):
    """Online features of the query view, as a step has them."""
    return model.look({0: view}, model.active())[1][0]


def encode_key(model, view):
    """Target features of the key view; a target network moves first, as in a step."""
    return model.target.features(model, {1: view}, {})[1]


def losses_of(model, made):
    """Losses of a :class:`Step`, against the memory as it stands; nothing changes."""
    raw = model.compare(model, made)
    raw |= {term.name: term(model, made) for term in model.active()}
    return model.weigh(raw) | made.figures


def contrast(model, query, key, index=None):
    """Losses of the features of a query and a key view."""
    return losses_of(model, Step({}, None, index, {0: query}, {1: key}, {}))
