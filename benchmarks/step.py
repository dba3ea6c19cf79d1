"""A whole training step: the methods against MoCo, MoCo against its parts, and peers.

ResNet-18 with 32 images of 96 x 96 pixels, and the paper's ResNet-50 at 224 x 224 with
8 images; K = 65,536, SGD, fp32. DetCo's patches have 27 and 64 pixels. InterCLR has
ImageNet's bank of 1,281,167 features, 10,000 clusters and 16,384 negatives, in the arm
``interclr_fast`` with ``exact=False``. The parts are one forward and backward of the
query encoder, one forward of the key encoder and the optimizer: no momentum update, no
shuffle, no loss, no queue. ``moco_fast`` and ``parts_fast`` run as by
``configs/_base_/runtime_fast.py`` on a CPU: channels_last and a fused optimizer. The
arms that `bounds.py` measures are made here too. Run:

    python benchmarks/step.py
"""

import time
from collections.abc import Callable, Sequence

import common
import torch
from mmengine.optim import OptimWrapper
from mmengine.registry import init_default_scope
from mmpretrain.structures import DataSample
from torch.nn.functional import normalize

from mmssl_ext.registry import MODELS

QUEUE_LEN = 65536
IMAGES, CLUSTERS = 1_281_167, 10_000
DSC = {
    "DSC-PM": {"type": "CellPrototypes", "num_prototypes": 64},
    "DSC-KM": {"type": "CellClusters", "num_clusters": 64},
}
PATCHES = {96: 27, 224: 64}  # side of DetCo's patches by that of the image
SMALL, CROPS = {96: 32, 224: 96}, 6  # side of small crops likewise, and their number

PEER = {  # what mmpretrain says otherwise
    "head": {
        "type": "ContrastiveHead",
        "temperature": 0.2,
        "loss": {"type": "CrossEntropyLoss", "loss_weight": 1.0},
    },
    "momentum": 0.001,
    "data_preprocessor": {
        "type": "SelfSupDataPreprocessor",
        "mean": (123.675, 116.28, 103.53),
        "std": (58.395, 57.12, 57.375),
    },
}
NO_QUEUE = {"head": None, "queue_len": None, "bn_splits": None}  # None: left out
CHANGES: dict[str, dict] = {  # of MoCo, where these do not depend on the depth
    "CO2": {
        "consistency": {"type": "ConsistencyHead", "temperature": 0.05, "weight": 0.3}
    },
    "DSC-PM": {"type": "DSC", "semantic": DSC["DSC-PM"]},
    "DSC-KM": {"type": "DSC", "semantic": DSC["DSC-KM"]},
    "SimSiam": NO_QUEUE | {"momentum": None},
    "DenseSiam": NO_QUEUE | {"momentum": None},
    "LC": {"type": "MoCo", "terms": [{"type": "LocalContrast"}]},
    "BYOL": NO_QUEUE | {"momentum": 0.99},
    "PixPro": NO_QUEUE | {"momentum": 0.99},
    "LC-BYOL": NO_QUEUE
    | {"type": "BYOL", "momentum": 0.99, "terms": [{"type": "LocalContrast"}]},
    "BGSwaps": {"head": {"type": "ExtraNegativeSoftmax", "temperature": 0.2}},
}

RATIOS = (  # name, numerator, denominator
    ("co2_over_moco", "co2", "moco"),
    ("densecl_over_moco", "densecl", "moco"),
    ("regionclm_over_moco", "regionclm", "moco"),
    ("detco_over_moco", "detco", "moco"),
    ("interclr_over_moco", "interclr", "moco"),
    ("interclr_fast_over_moco", "interclr_fast", "moco"),
    ("moco_over_parts", "moco", "parts"),
    ("moco_fast_over_parts_fast", "moco_fast", "parts_fast"),
    ("moco_over_moco_fast", "moco", "moco_fast"),
    ("mmpretrain_over_moco", "mmpretrain_moco", "moco"),
    ("mmpretrain_over_moco_fast", "mmpretrain_moco", "moco_fast"),
    ("mmpretrain_over_densecl", "mmpretrain_densecl", "densecl"),
)


def config(kind: str, depth: int) -> dict:
    """The model of one arm."""
    if kind.endswith("-crops"):
        base = config(kind.removesuffix("-crops"), depth)
        pairs = {"locals": CROPS, "targets": 1 if kind.startswith("MoCo") else 2}
        return base | {"pairs": pairs, "grouping": "size"}
    channels = {18: 512, 50: 2048}[depth]
    model = {
        "type": kind,
        "backbone": {"type": "ResNet", "depth": depth, "zero_init_residual": False},
        "neck": {
            "type": "MoCoV2Neck",
            "in_channels": channels,
            "hid_channels": channels,
            "out_channels": 128,
        },
        "head": {"type": "InstanceHead", "temperature": 0.2},
        "queue_len": QUEUE_LEN,
        "momentum": 0.999,
        "bn_splits": 1,  # the peer has no protection on one device either
    }
    if kind.startswith("mmpretrain"):
        model |= PEER | {"bn_splits": None}
    model |= CHANGES.get(kind, {})
    if kind.endswith("DenseCL") or kind.startswith("DSC"):
        model["neck"] = model["neck"] | {"type": "DenseCLNeck"}
    if kind in ("SimSiam", "DenseSiam"):
        model |= simsiam_heads(channels)
    if kind in ("BYOL", "LC-BYOL", "PixPro"):
        model |= byol_heads(kind, channels)
    if kind == "RegionCLM":
        model["region"] = {"cells": (3, 5) if depth == 50 else (1, 2), "stride": 32}
    if kind in ("CCOP", "DetCo"):
        model |= with_levels(kind, model["backbone"], channels)
    if kind.startswith("InterCLR"):
        model |= {
            "type": "InterCLR",
            "pseudo_labels": {"type": "OnlineLabels", "num_clusters": CLUSTERS},
            "negatives": {"type": "SemiHardNegatives", "exact": kind == "InterCLR"},
        }
    return {key: value for key, value in model.items() if value is not None}


def with_levels(kind: str, backbone: dict, channels: int) -> dict:
    """Maps of all stages, and what CCOP or DetCo makes of them."""
    stages = [channels // 8, channels // 4, channels // 2, channels]
    backbone = backbone | {"out_indices": (0, 1, 2, 3)}
    if kind == "DetCo":
        return {
            "backbone": backbone,
            "neck": {"type": "MultiLevelNeck", "in_channels": stages},
            "head": {"type": "MultiLevelSoftmax"},
        }
    import mmssl_ext.transfer.detection  # noqa: F401  mmdet's FPN

    fpn = {"type": "mmdet.FPN", "in_channels": stages, "out_channels": 256}
    fpn |= {"num_outs": 4, "norm_cfg": {"type": "BN"}}
    return {"backbone": backbone, "objects": {"fpn": fpn}}


def byol_heads(kind: str, channels: int) -> dict:
    """Projector and predictor of BYOL, or of PixPro, in the paper's widths."""
    widths = {"hid_channels": 4096, "out_channels": 256}
    if kind == "PixPro":
        return {"neck": {"type": "ConvProjector", "in_channels": channels, **widths}}
    mlp = {"type": "NonLinearNeck", **widths, "num_layers": 2, "with_bias": True}
    mlp |= {"norm_cfg": {"type": "BN1d"}, "with_last_bn": False}
    return {
        "neck": mlp | {"in_channels": channels},
        "predictor": mlp | {"in_channels": 256, "with_avg_pool": False},
    }


def simsiam_heads(channels: int) -> dict:
    """Projector and predictor of SimSiam in the paper's widths."""
    mlp = {"type": "NonLinearNeck", "out_channels": 2048, "norm_cfg": {"type": "BN1d"}}
    return {
        "neck": {
            **mlp,
            "in_channels": channels,
            "hid_channels": 2048,
            "num_layers": 3,
            "with_last_bn_affine": False,
        },
        "predictor": {
            **mlp,
            "in_channels": 2048,
            "hid_channels": 512,
            "with_avg_pool": False,
            "with_last_bn": False,
            "with_last_bias": True,
        },
    }


def build(kind: str, depth: int, fast: bool = False):
    """A model with its optimizer."""
    init_default_scope("mmpretrain" if kind.startswith("mmpretrain") else "mmssl_ext")
    torch.manual_seed(0)
    model = MODELS.build(config(kind, depth)).train()
    if kind == "CCOP":
        model.clock.total = 1_000_000
    if not kind.startswith("mmpretrain"):
        common.let_remember(model, IMAGES)
    if fast:
        model.to(memory_format=torch.channels_last)
        model.data_preprocessor.channels_last = True
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(
        trained, lr=0.03, momentum=0.9, weight_decay=1e-4, fused=fast
    )
    return model, OptimWrapper(optimizer)


def whole_step(
    kind: str, depth: int, batch: dict, fast: bool = False
) -> Callable[[], object]:
    """``train_step`` as the Runner calls it."""
    model, wrapper = build(kind, depth, fast)
    return lambda: model.train_step(dict(batch), wrapper)


def parts(depth: int, batch: dict, fast: bool = False) -> Callable[[], object]:
    """The convolutions and the optimizer of a step, and nothing else."""
    model, wrapper = build("MoCo", depth, fast)

    def run() -> None:
        views = model.data_preprocessor(dict(batch), True)["inputs"]
        q = model.neck(model.backbone(model.prepare(views[0])))[0]
        with torch.no_grad():
            key = model.target.backbone(model.prepare(views[1]))
            k = model.target.neck(key)[0]
        wrapper.update_params((normalize(q) * normalize(k)).sum())

    return run


def objects(batch_size: int, count: int) -> torch.Tensor:
    """Boxes of objects of all sizes, N x P x V x 4."""
    sides = 0.1 + 0.8 * torch.rand(batch_size, count, 2, 2)
    low = (1 - sides) * torch.rand_like(sides)
    return torch.cat([low, low + sides], -1)


def batches(batch_size: int, size: int) -> dict[str, dict]:
    """What steps take: images, and with DetCo's patches, a third view or objects."""
    images = torch.randint(256, (3, batch_size, 3, size, size), dtype=torch.uint8)
    side = PATCHES[size]
    patches = torch.randint(256, (2, batch_size, 9, 3, side, side), dtype=torch.uint8)
    numbers = torch.randperm(IMAGES)[:batch_size].tolist()
    crops = torch.tensor([(0.0, 0.0, 0.75, 0.75), (1.0, 0.25, 0.25, 1.0)])
    plain = {
        "inputs": list(images[:2]),
        "data_samples": [DataSample(metainfo={"sample_idx": i}) for i in numbers],
        "boxes": crops.expand(batch_size, -1, -1),
    }
    shape = (CROPS, batch_size, 3, SMALL[size], SMALL[size])
    small = torch.randint(256, shape, dtype=torch.uint8)
    return {
        "plain": plain,
        "patches": plain | {"inputs": [*images[:2], *patches]},
        "crops": plain | {"inputs": [*images[:2], *small]},
        "three": plain | {"inputs": list(images)},
        "few": plain | {"objects": objects(batch_size, 10)},
        "many": plain | {"objects": objects(batch_size, 50)},
    }


ARMS = {  # name: type of the model, and its batch
    "moco": ("MoCo", "plain"),
    "co2": ("CO2", "plain"),
    "densecl": ("DenseCL", "plain"),
    "dsc_pm": ("DSC-PM", "plain"),
    "dsc_km": ("DSC-KM", "plain"),
    "simsiam": ("SimSiam", "plain"),
    "densesiam": ("DenseSiam", "plain"),
    "regionclm": ("RegionCLM", "plain"),
    "lcloss": ("LC", "plain"),
    "byol": ("BYOL", "plain"),
    "lcloss_byol": ("LC-BYOL", "plain"),
    "pixpro": ("PixPro", "plain"),
    "bgswaps": ("BGSwaps", "three"),
    "moco_crops": ("MoCo-crops", "crops"),
    "simsiam_crops": ("SimSiam-crops", "crops"),
    "byol_crops": ("BYOL-crops", "crops"),
    "ccop": ("CCOP", "few"),
    "ccop_50": ("CCOP", "many"),
    "detco": ("DetCo", "patches"),
    "interclr": ("InterCLR", "plain"),
    "interclr_fast": ("InterCLR-fast", "plain"),
    "mmpretrain_moco": ("mmpretrain.MoCo", "plain"),
    "mmpretrain_densecl": ("mmpretrain.DenseCL", "plain"),
}


def arm(name: str, depth: int, given: dict[str, dict]) -> Callable[[], object]:
    """A step, by name; ``_fast`` and ``parts`` beside those of ARMS."""
    if name in ARMS:
        kind, batch = ARMS[name]
        return whole_step(kind, depth, given[batch])
    fast = name.endswith("_fast")
    if name.startswith("parts"):
        return parts(depth, given["plain"], fast)
    return whole_step("MoCo", depth, given["plain"], fast)


def measure(
    depth: int,
    batch_size: int,
    size: int,
    blocks: int,
    ratios: Sequence[tuple[str, str, str]] = RATIOS,
    clock: Callable[[], float] = time.perf_counter,
) -> list[dict]:
    """Time the arms of ratios at one size, in turn."""
    given = batches(batch_size, size)
    names = dict.fromkeys(name for _, *both in ratios for name in both)
    arms = {name: arm(name, depth, given) for name in names}
    seconds = common.time_arms(arms, blocks, 1, warmups=1, clock=clock)
    rows = []
    for name, numerator, denominator in ratios:
        value, low, high = common.ratio(seconds[numerator], seconds[denominator])
        rows.append(
            {
                "depth": depth,
                "batch": batch_size,
                "size": size,
                "k": QUEUE_LEN,
                "threads": torch.get_num_threads(),
                "ratio": name,
                "value": round(value, 3),
                "low": round(low, 3),
                "high": round(high, 3),
                "numerator_ms": common.median_ms(seconds[numerator]),
                "denominator_ms": common.median_ms(seconds[denominator]),
            }
        )
    return rows


def main() -> None:
    """Time and write."""
    common.keep_freed_memory()
    rows = measure(depth=18, batch_size=32, size=96, blocks=7)
    rows += measure(depth=50, batch_size=8, size=224, blocks=5)
    common.write_rows("step_cpu", rows)


if __name__ == "__main__":
    main()
