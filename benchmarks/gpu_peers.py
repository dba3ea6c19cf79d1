"""Arms of the peers on a GPU, as installed, and a supervised one to aim at."""

import functools
from collections.abc import Callable
from typing import Any

import peers
import torch
from gpu_ours import Ours, made_up, slim
from gpu_timing import Scale, Step
from mmengine.optim import build_optim_wrapper
from mmengine.registry import DefaultScope
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from mmssl_ext.registry import MODELS

MMPRETRAIN = "mocov2/mocov2_resnet50_8xb32-coslr-200e_in1k.py"
MMPRETRAIN_DENSECL = "densecl/densecl_resnet50_8xb32-coslr-200e_in1k.py"


class MMPretrain:
    """mmpretrain's model and optimizer from its own config.

    Args:
        name: The config that it brings along.
        scale: Of this run.
        amp: As its tools/train.py does with --amp.
    """

    def __init__(self, name: str, scale: Scale, amp: bool) -> None:
        from pipeline import mmpretrain_config

        cfg = mmpretrain_config(name)
        slim(cfg.model, scale)
        cfg.model.data_preprocessor = cfg.data_preprocessor
        if amp and scale.measures:
            cfg.optim_wrapper.type = "AmpOptimWrapper"
            cfg.optim_wrapper.setdefault("loss_scale", "dynamic")
        torch.manual_seed(0)
        with DefaultScope.overwrite_default_scope("mmpretrain"):
            self.model: Any = MODELS.build(cfg.model)
            self.model.init_weights()
            self.model.to(scale.device).train()
            self.wrapper = build_optim_wrapper(self.model, cfg.optim_wrapper)

    def step(self, batch: dict) -> object:
        """What the Runner does in an iteration, without its hooks."""
        return self.model.train_step(dict(batch), self.wrapper)


def mmpretrain_step(name: str, scale: Scale, batch: dict, amp: bool) -> Step:
    """A step of mmpretrain's."""
    return functools.partial(MMPretrain(name, scale, amp).step, batch)


def same_loss(ours: str, theirs: str, scale: Scale, **options: Any) -> float:
    """Fail unless our loss and mmpretrain's are equal for equal weights and images.

    Both in fp32, with plain BatchNorm, in the first step, whose momentum update leaves
    both key encoders at the query's weights. ``options`` are variables of our config.
    Returns the relative difference.
    """
    # Batch statistics of a toy's few values would magnify rounding errors.
    scale = Scale(**(vars(scale) | {"batch": 32 if scale.measures else 8}))
    batch, _ = made_up(scale)
    mine = Ours(ours, scale, precise=True, **options).model
    peer = MMPretrain(theirs, scale, amp=False).model
    copy = peer.encoder_k.module
    for module, key, source in zip(
        (peer.backbone, peer.neck), copy, (mine.backbone, mine.neck), strict=True
    ):
        module.load_state_dict(source.state_dict())
        key.load_state_dict(source.state_dict())
    queues = {"queue": mine.compare, "queue2": getattr(mine.terms, "dense", None)}
    for name, part in queues.items():
        if hasattr(peer, name):
            getattr(peer, name).copy_(part.queue.keys.T)
    values = []
    swapped = [view.flip(1) for view in batch["inputs"]]  # its images are BGR
    for model, views in ((mine, batch["inputs"]), (peer, swapped)):
        prepared = model.data_preprocessor(batch | {"inputs": views}, True)
        losses = model.loss(prepared["inputs"], prepared["data_samples"])
        values.append(sum(v.detach() for v in losses.values() if v.requires_grad))
    difference = float((values[0] - values[1]).abs() / values[1].abs())
    assert difference < 1e-3, (
        f"Our loss is {float(values[0])}, mmpretrain's {float(values[1])} for equal "
        "weights and images: these arms do not do the same."
    )
    return difference


def resnet(scale: Scale) -> nn.Module:
    """Torchvision's ResNet-50 without its classifier; a toy gets ResNet-18."""
    from torchvision import models

    model = models.resnet50() if scale.measures else models.resnet18()
    model.fc = nn.Identity()
    return model


def mixed_step(
    loss: Callable[[], Tensor], optimizer: torch.optim.Optimizer, scale: Scale
) -> Step:
    """Lightning's precision 16-mixed: autocast to fp16 with a gradient scaler."""
    enabled = scale.measures
    scaler = torch.amp.GradScaler(scale.device.type, enabled=enabled)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(scale.device.type, torch.float16, enabled=enabled):
            value = loss()
        scaler.scale(value).backward()
        scaler.step(optimizer)
        scaler.update()

    return step


def lightly_step(scale: Scale, views: list[Tensor]) -> Step:
    """Lightly's modules as in its own ImageNet benchmark, without the classifier.

    (There the optimizer is given the key encoder; here it is the one with gradients.)
    """
    losses = peers.load("lightly.loss")
    heads = peers.load("lightly.models.modules.heads")
    utils = peers.load("lightly.models.utils")
    torch.manual_seed(0)
    query, key = resnet(scale), resnet(scale)
    width = 2048 if scale.measures else 512
    query_head, key_head = (
        heads.MoCoProjectionHead(width, width, 128) for _ in range(2)
    )
    for source, copy in ((query, key), (query_head, key_head)):
        copy.load_state_dict(source.state_dict())
        utils.deactivate_requires_grad(copy)
    size = (scale.queue or 65536, 128)
    criterion = losses.NTXentLoss(temperature=0.2, memory_bank_size=size)
    modules = [m.to(scale.device) for m in (query, key, query_head, key_head)]
    criterion.to(scale.device)
    trained = [p for m in modules for p in m.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=0.03, momentum=0.9, weight_decay=1e-4)

    def loss() -> Tensor:
        q = query_head(query(views[1]).flatten(start_dim=1))
        utils.update_momentum(query, key, m=0.999)
        utils.update_momentum(query_head, key_head, m=0.999)
        with torch.no_grad():
            shuffled, order = utils.batch_shuffle(views[0])
            k = key_head(key(shuffled).flatten(start_dim=1))
            k = utils.batch_unshuffle(k, order)
        return criterion(q, k)

    return mixed_step(loss, optimizer, scale)


def solo_step(scale: Scale, views: list[Tensor]) -> Step:
    """solo-learn's MoCoV2Plus; its loss is symmetric: two positive pairs per image."""
    module = peers.load_solo("solo.methods.mocov2plus")
    torch.manual_seed(0)
    model = module.MoCoV2Plus(
        proj_output_dim=128,
        proj_hidden_dim=2048,
        temperature=0.2,
        queue_size=scale.queue or 65536,
        base_tau_momentum=0.999,
        final_tau_momentum=0.999,
        momentum_classifier=False,
        encoder="resnet50" if scale.measures else "resnet18",
        num_classes=1000,
        backbone_args={"zero_init_residual": False},
        max_epochs=1,
        batch_size=scale.batch,
        optimizer="sgd",
        lars=False,
        lr=0.03,
        weight_decay=1e-4,
        classifier_lr=0.1,
        exclude_bias_n_norm=False,
        accumulate_grad_batches=1,
        extra_optimizer_args={"momentum": 0.9},
        scheduler="none",
        min_lr=0.0,
        warmup_start_lr=0.0,
        warmup_epochs=0,
        num_large_crops=2,
        num_small_crops=0,
    ).to(scale.device)
    model.log = model.log_dict = lambda *_, **__: None  # there is no trainer to log to
    targets = torch.zeros(len(views[0]), dtype=torch.long, device=scale.device)
    batch = [None, views, targets]
    step = mixed_step(
        lambda: model.training_step(batch, 0), model.configure_optimizers(), scale
    )

    def run() -> None:
        step()
        for pair in model.momentum_pairs:  # as its on_train_batch_end
            model.momentum_updater.update(*pair)

    return run


def supervised_step(scale: Scale, view: Tensor) -> Step:
    """ResNet-50 with labels, as fast as torch alone makes it: the step to aim at."""
    torch.manual_seed(0)
    model = resnet(scale)
    model.fc = nn.Linear(2048 if scale.measures else 512, 1000)
    model.to(scale.device, memory_format=torch.channels_last)
    images = view.to(memory_format=torch.channels_last)
    labels = torch.arange(len(view), device=scale.device) % 1000
    fused = {"fused": True} if scale.measures else {}
    optimizer = torch.optim.SGD(
        model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4, **fused
    )

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(scale.device.type, torch.bfloat16, enabled=scale.measures):
            loss = cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()

    return step
