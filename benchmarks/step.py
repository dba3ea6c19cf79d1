"""A whole training step: the methods against MoCo, MoCo against its parts, and peers.

ResNet-18 with 32 images of 96 x 96 pixels, and the paper's ResNet-50 at 224 x 224 with
8 images; K = 65,536, SGD, fp32. DetCo's patches have 27 and 64 pixels. InterCLR has
ImageNet's bank of 1,281,167 features, 10,000 clusters and 16,384 negatives, in the arm
``interclr_fast`` with ``exact=False``. The parts are one forward and backward of the
query encoder, one forward of the key encoder and the optimizer: no momentum update, no
shuffle, no loss, no queue. ``moco_fast`` and ``parts_fast`` run as by
``configs/_base_/runtime_fast.py`` on a CPU: channels_last and a fused optimizer. The
arms of crops have six small ones of 32 and 96 pixels besides; by their convolutions
alone they cost 1.50 and 1.83 (MoCo), 1.33 and 1.55 (SimSiam), 1.25 and 1.41 (BYOL)
times the two views. Run:

    python benchmarks/step.py
"""

from collections.abc import Callable

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

RATIOS = (  # name, numerator, denominator
    ("co2_over_moco", "co2", "moco"),
    ("ascl_over_moco", "ascl", "moco"),
    ("ressl_over_moco", "ressl", "moco"),
    ("mochi_over_moco", "mochi", "moco"),
    ("xmoco_over_moco", "xmoco", "moco"),
    ("densecl_over_moco", "densecl", "moco"),
    ("dsc_pm_over_densecl", "dsc_pm", "densecl"),
    ("dsc_km_over_densecl", "dsc_km", "densecl"),
    ("densesiam_over_simsiam", "densesiam", "simsiam"),
    ("regionclm_over_moco", "regionclm", "moco"),
    ("unmix_over_moco", "unmix", "moco"),
    ("lcloss_over_moco", "lcloss", "moco"),
    ("pixpro_over_byol", "pixpro", "byol"),
    ("lcloss_over_byol", "lcloss_byol", "byol"),
    ("tkc_over_moco", "tkc", "moco"),
    ("ccop_over_moco", "ccop", "moco"),
    ("ccop_50_over_moco", "ccop_50", "moco"),
    ("detco_over_moco", "detco", "moco"),
    ("interclr_over_moco", "interclr", "moco"),
    ("interclr_fast_over_moco", "interclr_fast", "moco"),
    ("moco_crops_over_moco", "moco_crops", "moco"),
    ("simsiam_crops_over_simsiam", "simsiam_crops", "simsiam"),
    ("byol_crops_over_byol", "byol_crops", "byol"),
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
    peer = kind.startswith("mmpretrain")
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
    }
    if peer:
        model |= {
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
    else:
        model["bn_splits"] = 1  # the peer has no protection on one device either
    if kind == "CO2":
        model["consistency"] = {
            "type": "ConsistencyHead",
            "temperature": 0.05,
            "weight": 0.3,
        }
    if kind in ("ASCL", "ReSSL", "MoCHi"):  # of five neighbours, 1,152 mixtures
        model["head"] = {"num_neighbours": 5} if kind == "ASCL" else {}
    if kind == "XMoCo":
        terms = [{"type": "CrossConsistency"}, {"type": "CrossUniformity"}]
        model |= {"type": "MoCo", "terms": terms}
    if kind.endswith("DenseCL") or kind.startswith("DSC"):
        model["neck"] = model["neck"] | {"type": "DenseCLNeck"}
    if kind.startswith("DSC"):
        model |= {"type": "DSC", "semantic": DSC[kind]}
    if kind in ("SimSiam", "DenseSiam"):
        for key in ("head", "queue_len", "momentum", "bn_splits"):
            del model[key]
        model |= simsiam_heads(channels)
    if kind == "RegionCLM":
        model["region"] = {"cells": (3, 5) if depth == 50 else (1, 2), "stride": 32}
    if kind == "UnMix":
        model |= {"type": "MoCo", "terms": [{"type": "UnMix"}]}
    if kind.startswith("LC"):
        model |= {"type": "MoCo", "terms": [{"type": "LocalContrast"}]}
    if kind in ("BYOL", "LC-BYOL", "PixPro"):
        for key in ("head", "queue_len"):
            del model[key]
        model |= {"type": kind.rpartition("-")[2], "momentum": 0.99, "bn_splits": None}
        model |= byol_heads(kind, channels)
    if kind == "TKC":
        model["temporal"] = {"interval": 10**6, "by_epoch": False, "ramp": 0}
    stages = [channels // 8, channels // 4, channels // 2, channels]
    if kind == "CCOP":
        import mmssl_ext.transfer.detection  # noqa: F401  mmdet's FPN

        fpn = {"type": "mmdet.FPN", "in_channels": stages, "out_channels": 256}
        fpn |= {"num_outs": 4, "norm_cfg": {"type": "BN"}}
        model["backbone"] = model["backbone"] | {"out_indices": (0, 1, 2, 3)}
        model["objects"] = {"fpn": fpn}
    if kind == "DetCo":
        model["backbone"] = model["backbone"] | {"out_indices": (0, 1, 2, 3)}
        model["neck"] = {"type": "MultiLevelNeck", "in_channels": stages}
        model["head"] = {"type": "MultiLevelSoftmax"}
    if kind.startswith("InterCLR"):
        model |= {
            "type": "InterCLR",
            "pseudo_labels": {"type": "OnlineLabels", "num_clusters": CLUSTERS},
            "negatives": {"type": "SemiHardNegatives", "exact": kind == "InterCLR"},
        }
    return model


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


def measure(
    depth: int, batch_size: int, size: int, blocks: int, steps: int
) -> list[dict]:
    """Time the arms at one size."""
    images = torch.randint(256, (2, batch_size, 3, size, size), dtype=torch.uint8)
    side = PATCHES[size]
    patches = torch.randint(256, (2, batch_size, 9, 3, side, side), dtype=torch.uint8)
    numbers = torch.randperm(IMAGES)[:batch_size].tolist()
    samples = [DataSample(metainfo={"sample_idx": i}) for i in numbers]
    crops = torch.tensor([(0.0, 0.0, 0.75, 0.75), (1.0, 0.25, 0.25, 1.0)])
    batch = {
        "inputs": list(images),
        "data_samples": samples,
        "boxes": crops.expand(batch_size, -1, -1),
    }
    more = batch | {"inputs": [*images, *patches]}
    shape = (CROPS, batch_size, 3, SMALL[size], SMALL[size])
    small = torch.randint(256, shape, dtype=torch.uint8)
    cropped = batch | {"inputs": [*images, *small]}
    few, many = (batch | {"objects": objects(batch_size, n)} for n in (10, 50))
    arms = {
        **{
            f"{kind.lower()}_crops": whole_step(f"{kind}-crops", depth, cropped)
            for kind in ("MoCo", "SimSiam", "BYOL")
        },
        "moco": whole_step("MoCo", depth, batch),
        "co2": whole_step("CO2", depth, batch),
        "ascl": whole_step("ASCL", depth, batch),
        "ressl": whole_step("ReSSL", depth, batch),
        "mochi": whole_step("MoCHi", depth, batch),
        "xmoco": whole_step("XMoCo", depth, batch),
        "densecl": whole_step("DenseCL", depth, batch),
        **{
            name: whole_step(kind, depth, batch)
            for name, kind in {
                "dsc_pm": "DSC-PM",
                "dsc_km": "DSC-KM",
                "simsiam": "SimSiam",
                "densesiam": "DenseSiam",
            }.items()
        },
        "regionclm": whole_step("RegionCLM", depth, batch),
        "unmix": whole_step("UnMix", depth, batch),
        "lcloss": whole_step("LC", depth, batch),
        "byol": whole_step("BYOL", depth, batch),
        "lcloss_byol": whole_step("LC-BYOL", depth, batch),
        "pixpro": whole_step("PixPro", depth, batch),
        "tkc": whole_step("TKC", depth, batch),
        "ccop": whole_step("CCOP", depth, few),
        "ccop_50": whole_step("CCOP", depth, many),
        "detco": whole_step("DetCo", depth, more),
        "interclr": whole_step("InterCLR", depth, batch),
        "interclr_fast": whole_step("InterCLR-fast", depth, batch),
        "parts": parts(depth, batch),
        "moco_fast": whole_step("MoCo", depth, batch, fast=True),
        "parts_fast": parts(depth, batch, fast=True),
        "mmpretrain_moco": whole_step("mmpretrain.MoCo", depth, batch),
        "mmpretrain_densecl": whole_step("mmpretrain.DenseCL", depth, batch),
    }
    seconds = common.time_arms(arms, blocks, steps, warmups=1)
    rows = []
    for name, numerator, denominator in RATIOS:
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
    rows = measure(depth=18, batch_size=32, size=96, blocks=7, steps=1)
    rows += measure(depth=50, batch_size=8, size=224, blocks=5, steps=1)
    common.write_rows("step_cpu", rows)


if __name__ == "__main__":
    main()
