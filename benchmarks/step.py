"""A whole training step: CO2 against MoCo, against the sum of its parts, and a peer.

ResNet-18, 32 images of 96 x 96 pixels, K = 65,536, SGD, fp32. The parts are one forward
and backward of the query encoder, one forward of the key encoder and the optimizer: no
momentum update, no shuffle, no loss, no queue. Run: python benchmarks/step.py
"""

from collections.abc import Callable

import common
import torch
from mmengine.optim import OptimWrapper
from mmengine.registry import init_default_scope
from torch.nn.functional import normalize

from mmssl_ext.registry import MODELS

BATCH, SIZE, QUEUE_LEN = 32, 96, 65536


def config(kind: str) -> dict:
    """The model of one arm."""
    peer = kind.startswith("mmpretrain")
    model = {
        "type": kind,
        "backbone": {"type": "ResNet", "depth": 18, "zero_init_residual": False},
        "neck": {
            "type": "MoCoV2Neck",
            "in_channels": 512,
            "hid_channels": 512,
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
    return model


def build(kind: str):
    """A model with its optimizer."""
    init_default_scope("mmpretrain" if kind.startswith("mmpretrain") else "mmssl_ext")
    torch.manual_seed(0)
    model = MODELS.build(config(kind)).train()
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=0.03, momentum=0.9, weight_decay=1e-4)
    return model, OptimWrapper(optimizer)


def whole_step(kind: str, batch: dict) -> Callable[[], object]:
    """``train_step`` as the Runner calls it."""
    model, wrapper = build(kind)
    return lambda: model.train_step(dict(batch), wrapper)


def parts(batch: dict) -> Callable[[], object]:
    """The convolutions and the optimizer of a step, and nothing else."""
    model, wrapper = build("MoCo")

    def run() -> None:
        views = model.data_preprocessor(dict(batch), True)["inputs"]
        q = model.neck(model.backbone(views[0]))[0]
        with torch.no_grad():
            k = model.encoder_k.neck(model.encoder_k.backbone(views[1]))[0]
        wrapper.update_params((normalize(q) * normalize(k)).sum())

    return run


def main() -> None:
    """Time and write."""
    torch.set_num_threads(1)
    images = torch.randint(256, (2, BATCH, 3, SIZE, SIZE), dtype=torch.uint8)
    batch = {"inputs": list(images), "data_samples": []}
    arms = {
        "moco": whole_step("MoCo", batch),
        "co2": whole_step("CO2", batch),
        "parts": parts(batch),
        "mmpretrain_moco": whole_step("mmpretrain.MoCo", batch),
    }
    seconds = common.time_arms(arms, blocks=7, steps=4)
    rows = []
    for name, numerator, denominator in (
        ("co2_over_moco", "co2", "moco"),
        ("moco_over_parts", "moco", "parts"),
        ("co2_over_parts", "co2", "parts"),
        ("mmpretrain_over_moco", "mmpretrain_moco", "moco"),
    ):
        value, low, high = common.ratio(seconds[numerator], seconds[denominator])
        rows.append(
            {
                "ratio": name,
                "value": round(value, 3),
                "low": round(low, 3),
                "high": round(high, 3),
                "numerator_ms": common.median_ms(seconds[numerator]),
                "denominator_ms": common.median_ms(seconds[denominator]),
                "batch": BATCH,
                "size": SIZE,
                "k": QUEUE_LEN,
            }
        )
    common.write_rows("step_cpu", rows)


if __name__ == "__main__":
    main()
