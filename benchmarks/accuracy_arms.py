"""The arms of accuracy_time.py: MoCo v2 on CIFAR-10 here and in three other libraries.

Each has its own model, loss, augmentation and loop around one network.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import common
import numpy as np
import peers
import torch
from mmengine.dataset import Compose, default_collate
from mmengine.optim import OptimWrapper
from mmengine.registry import DefaultScope, init_default_scope
from PIL import Image
from pipeline import mmpretrain_config
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from mmssl_ext.registry import DATASETS, MODELS
from mmssl_ext.run.launch import load_config

BATCH, QUEUE, WIDTH = 256, 4096, 128
LR, DECAY, MOMENTUM, TEMPERATURE = 0.03, 5e-4, 0.99, 0.2
MEAN, STD = [125.307, 122.961, 113.8575], [51.5865, 50.847, 51.255]
NETWORK = {
    "type": "mmpretrain.ResNet_CIFAR",
    "depth": 18,
    "base_channels": 16,
    "strides": (2, 2, 2, 1),
}
NECK = {
    "type": "MoCoV2Neck",
    "in_channels": WIDTH,
    "hid_channels": WIDTH,
    "out_channels": 128,
}


class Arm(NamedTuple):
    """A library's training: what gives the batches of an epoch, and what takes one."""

    backbone: nn.Module
    model: nn.Module  # the whole, with queue and slow copies
    optimizer: torch.optim.Optimizer
    batches: Callable[[int], Iterable]
    step: Callable[[Any], object]


class Images(Dataset):
    """Arrays of uint8, N x 32 x 32 x 3, through a library's transform."""

    def __init__(self, arrays: np.ndarray, transform: Callable) -> None:
        self.arrays, self.transform = arrays, transform

    def __len__(self) -> int:
        return len(self.arrays)

    def __getitem__(self, index: int) -> Any:
        """What the transform makes of an image."""
        return self.transform(self.arrays[index])


def loader(data: Dataset, collate: Callable | None = None) -> DataLoader:
    """Whole batches in a new order for each epoch."""
    return DataLoader(data, BATCH, shuffle=True, drop_last=True, collate_fn=collate)


def sgd(modules: Sequence[nn.Module], fused: bool = False) -> torch.optim.Optimizer:
    """The optimizer of all arms."""
    trained = [p for m in modules for p in m.parameters() if p.requires_grad]
    return torch.optim.SGD(
        trained, lr=LR, momentum=0.9, weight_decay=DECAY, fused=fused
    )


def ours(arrays: np.ndarray, seed: int, symmetric: bool = False) -> Arm:
    """This package, with the runtime that ``pretrain`` has on a CPU."""
    init_default_scope("mmssl_ext")
    options = {"cpu": True, "augment_on": "worker", "verify_md5": False}
    path = common.REPOSITORY / "configs/mocov2/mocov2_r18_cifar10.py"
    given = load_config(path, options).train_dataloader.dataset
    given["max_images"] = len(arrays)
    data = DATASETS.build(given)
    model = MODELS.build(
        {
            "type": "MoCo",
            "data_preprocessor": {
                "type": "MultiViewPreprocessor",
                **{"mean": MEAN, "std": STD, "channels_last": True},
            },
            "backbone": NETWORK,
            "neck": NECK,
            "head": {"type": "InstanceHead", "temperature": TEMPERATURE},
            "queue_len": QUEUE,
            "momentum": MOMENTUM,
            "bn_splits": 1,  # as the others on one device
            **({"pairs": ((0, 1), (1, 0))} if symmetric else {}),
        }
    ).train()
    model.init_weights()
    model.to(memory_format=torch.channels_last)
    optimizer = sgd([model], fused=True)
    wrapper = OptimWrapper(optimizer)
    batches = loader(data, default_collate)

    def of_epoch(epoch: int) -> DataLoader:
        data.set_augmentation_seed(seed, epoch)
        return batches

    return Arm(
        model.backbone,
        model,
        optimizer,
        of_epoch,
        lambda batch: model.train_step(batch, wrapper),
    )


def mmpretrain(arrays: np.ndarray, seed: int) -> Arm:
    """Its algorithm and transforms."""
    steps = mmpretrain_config("_base_/datasets/imagenet_bs32_mocov2.py").train_pipeline
    (views,) = (step for step in steps if step["type"] == "MultiView")
    ((*view,),) = views["transforms"]
    view = [t for t in view if t["type"] != "GaussianBlur"]
    (crop,) = (t for t in view if t["type"] == "RandomResizedCrop")
    crop.update(scale=32, crop_ratio_range=(0.08, 1.0))
    views["transforms"] = [view]
    with DefaultScope.overwrite_default_scope("mmpretrain"):
        transform = Compose(
            [step for step in steps if step["type"] != "LoadImageFromFile"]
        )
        model = MODELS.build(
            {
                "type": "mmpretrain.MoCo",
                "data_preprocessor": {
                    "type": "SelfSupDataPreprocessor",
                    **{"mean": MEAN, "std": STD},
                },
                "backbone": NETWORK,
                "neck": {**NECK, "with_avg_pool": True},
                "head": {
                    "type": "ContrastiveHead",
                    "temperature": TEMPERATURE,
                    "loss": {"type": "CrossEntropyLoss"},
                },
                "queue_len": QUEUE,
                "momentum": 1 - MOMENTUM,
            }
        ).train()
        model.init_weights()
    optimizer = sgd([model])
    wrapper = OptimWrapper(optimizer)

    def of_array(array: np.ndarray) -> Any:
        return transform({"img": array, "img_shape": array.shape[:2]})

    batches = loader(Images(arrays, of_array), default_collate)
    return Arm(
        model.backbone,
        model,
        optimizer,
        lambda _: batches,
        lambda batch: model.train_step(batch, wrapper),
    )


class Pooled(nn.Module):
    """The network, and behind it what makes a row of 128 numbers of an image."""

    def __init__(self) -> None:
        super().__init__()
        self.network = MODELS.build(NETWORK)
        self.network.init_weights()

    def forward(self, images: Tensor) -> Tensor:
        """N x 3 x 32 x 32 to N x 128."""
        return self.network(images)[-1].mean((2, 3))


def lightly(arrays: np.ndarray, seed: int) -> Arm:
    """Its modules as its own example of MoCo v2 puts them together."""
    transforms = peers.load("lightly.transforms.moco_transform")
    losses = peers.load("lightly.loss")
    heads = peers.load("lightly.models.modules.heads")
    utils = peers.load("lightly.models.utils")
    of_image = transforms.MoCoV2Transform(
        input_size=32,
        **{"cj_strength": 1.0, "cj_hue": 0.1, "min_scale": 0.08, "gaussian_blur": 0.0},
        normalize={"mean": [x / 255 for x in MEAN], "std": [x / 255 for x in STD]},
    )
    query, key = Pooled(), Pooled()
    heads_of = [heads.MoCoProjectionHead(WIDTH, WIDTH, 128) for _ in range(2)]
    for source, copy in ((query, key), heads_of):
        copy.load_state_dict(source.state_dict())
        utils.deactivate_requires_grad(copy)
    criterion = losses.NTXentLoss(
        temperature=TEMPERATURE, memory_bank_size=(QUEUE, 128)
    )
    optimizer = sgd([query, heads_of[0]])
    model = nn.ModuleList([query, key, *heads_of, criterion])

    def step(views: list[Tensor]) -> None:
        utils.update_momentum(query, key, m=MOMENTUM)
        utils.update_momentum(*heads_of, m=MOMENTUM)
        q = heads_of[0](query(views[0]))
        with torch.no_grad():
            shuffled, order = utils.batch_shuffle(views[1])
            k = utils.batch_unshuffle(heads_of[1](key(shuffled)), order)
        loss = criterion(q, k)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    batches = loader(Images(arrays, lambda x: of_image(Image.fromarray(x))))
    return Arm(query.network, model, optimizer, lambda _: batches, step)


def solo(arrays: np.ndarray, seed: int) -> Arm:
    """Its method, both directions, on the shared network."""
    module = peers.load_solo("solo.methods.mocov2plus")
    loaders = peers.load_solo("solo.utils.pretrain_dataloader")
    of_image = loaders.CifarTransform(
        *(0.4, 0.4, 0.4, 0.1), gaussian_prob=0.0, min_scale=0.08
    )
    # Its transform ends with the usual statistics of CIFAR-10; the others have these.
    of_image.transform.transforms[-1].mean = [x / 255 for x in MEAN]
    of_image.transform.transforms[-1].std = [x / 255 for x in STD]
    model = module.MoCoV2Plus(
        **{"proj_output_dim": 128, "proj_hidden_dim": WIDTH, "queue_size": QUEUE},
        **{"temperature": TEMPERATURE, "momentum_classifier": False},
        **{"base_tau_momentum": MOMENTUM, "final_tau_momentum": MOMENTUM},
        **{"encoder": "resnet18", "num_classes": 10, "max_epochs": 1},
        backbone_args={"zero_init_residual": False, "cifar": True},
        **{"batch_size": BATCH, "optimizer": "sgd", "lars": False, "lr": LR},
        **{"weight_decay": DECAY, "classifier_lr": 0.1, "exclude_bias_n_norm": False},
        **{"accumulate_grad_batches": 1, "extra_optimizer_args": {"momentum": 0.9}},
        **{"scheduler": "none", "min_lr": 0.0, "warmup_start_lr": 0.0},
        **{"warmup_epochs": 0, "num_large_crops": 2, "num_small_crops": 0},
    )
    model.log = model.log_dict = lambda *_, **__: None  # there is no trainer
    query, key = Pooled(), Pooled()
    key.load_state_dict(query.state_dict())
    key.requires_grad_(False)
    replaced = 0
    for name in ("backbone", "encoder"):
        if hasattr(model, name):
            setattr(model, name, query)
            setattr(model, f"momentum_{name}", key)
            replaced += 1
    assert replaced == 1, "solo-learn calls its network otherwise"
    model.classifier = nn.Linear(WIDTH, 10)
    for head in (model.projector, model.momentum_projector):
        head[0] = nn.Linear(WIDTH, WIDTH)
    model.momentum_projector.load_state_dict(model.projector.state_dict())
    model.momentum_projector.requires_grad_(False)
    optimizer = sgd([query, model.projector])
    labels = torch.zeros(BATCH, dtype=torch.long)

    def step(views: list[Tensor]) -> None:
        loss = model.training_step([None, views, labels], 0)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        for pair in model.momentum_pairs:  # as its on_train_batch_end
            model.momentum_updater.update(*pair)

    def of_array(array: np.ndarray) -> list[Tensor]:
        image = Image.fromarray(array)
        return [of_image(image), of_image(image)]

    batches = loader(Images(arrays, of_array))
    return Arm(query.network, model, optimizer, lambda _: batches, step)


ARMS: dict[str, Callable[[np.ndarray, int], Arm]] = {
    "ours": ours,
    "mmpretrain": mmpretrain,
    "lightly": lightly,
    "ours_symmetric": lambda arrays, seed: ours(arrays, seed, symmetric=True),
    "solo": solo,
}
