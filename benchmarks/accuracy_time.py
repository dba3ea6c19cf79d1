"""Accuracy against time: MoCo v2 on CIFAR-10 here and in three other libraries.

Every library trains the same ResNet-18 of a quarter of the width with its own model,
loss, augmentation and loop over the same 50,000 images: batches of 256, a queue of
4,096, SGD with half a cosine, 8 epochs, one thread, no worker processes. solo-learn's
loss has both directions; its partner here has them too. The arms take turns by epoch
in one process, each with random states of its own; kNN of the frozen backbone, by one
function for all, is outside the measured time. Run, once for each seed:

    python benchmarks/accuracy_time.py --seed 0 --out work_dirs/accuracy    # an hour
    python benchmarks/accuracy_time.py --collect --out work_dirs/accuracy

CIFAR10_ROOT names the folder of the images. `make peers` installs the others.
"""

import argparse
import json
import math
import random
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
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

from mmssl_ext.evaluation.knn import weighted_knn
from mmssl_ext.registry import DATASETS, MODELS
from mmssl_ext.run.launch import load_config

NAME = "accuracy_time_cpu"
BATCH, EPOCHS, EVERY, QUEUE, WIDTH = 256, 8, 2, 4096, 128
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
    return Arm(query.network, optimizer, lambda _: batches, step)


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
    return Arm(query.network, optimizer, lambda _: batches, step)


ARMS: dict[str, Callable[[np.ndarray, int], Arm]] = {
    "ours": ours,
    "mmpretrain": mmpretrain,
    "lightly": lightly,
    "ours_symmetric": lambda arrays, seed: ours(arrays, seed, symmetric=True),
    "solo": solo,
}


class Randomness:
    """The states of all generators, one set for each arm."""

    def __init__(self, seed: int) -> None:
        random.seed(seed)
        np.random.seed(seed)  # noqa: NPY002, the one that peers draw from
        torch.manual_seed(seed)
        self.keep()

    def keep(self) -> None:
        """Remember where the generators stand."""
        self.states = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002

    def restore(self) -> None:
        """Go on from there."""
        random.setstate(self.states[0])
        np.random.set_state(self.states[1])  # noqa: NPY002
        torch.set_rng_state(self.states[2])


def read_cifar10(split: str, count: int | None) -> tuple[np.ndarray, Tensor]:
    """Images, N x 32 x 32 x 3, and labels."""
    path = common.REPOSITORY / "configs/mocov2/mocov2_r18_cifar10.py"
    given = load_config(path, {"verify_md5": False}).train_dataloader.dataset
    data = DATASETS.build({**given, "split": split, "pipeline": []})
    return data.images[:count], torch.as_tensor(np.asarray(data.labels)[:count])


def accuracy(
    backbone: nn.Module,
    train: tuple[np.ndarray, Tensor],
    test: tuple[np.ndarray, Tensor],
) -> float:
    """Top-1 of kNN (k = 200, T = 0.1) by globally pooled features, percent."""
    mean, std = (torch.tensor(x).view(1, 3, 1, 1) for x in (MEAN, STD))
    features = []
    training = backbone.training
    backbone.train(False)
    with torch.no_grad():
        for arrays, _ in (train, test):
            parts = [
                backbone((torch.from_numpy(x).permute(0, 3, 1, 2) - mean) / std)[-1]
                for x in np.split(arrays, range(500, len(arrays), 500))
            ]
            features.append(torch.cat([part.mean((2, 3)) for part in parts]))
    backbone.train(training)
    bank, query = (nn.functional.normalize(x, dim=1) for x in features)
    k = min(200, len(bank))
    scores = weighted_knn(query, bank, train[1], 10, k=k, temperature=0.1)
    return float((scores.argmax(1) == test[1]).float().mean() * 100)


def train_epoch(arm: Arm, epoch: int, epochs: int) -> None:
    """One pass over the images, with half a cosine over all of them."""
    batches = arm.batches(epoch)
    total = len(batches) * epochs  # type: ignore[arg-type]
    for number, batch in enumerate(batches):
        done = (epoch * len(batches) + number) / total  # type: ignore[arg-type]
        for group in arm.optimizer.param_groups:
            group["lr"] = LR * 0.5 * (1 + math.cos(math.pi * done))
        arm.step(batch)


def compare(seed: int, count: int | None, epochs: int) -> Iterator[dict]:
    """Rows of all arms, in turn by epoch."""
    train, test = read_cifar10("train", count), read_cifar10("test", count)
    made, states, spent = {}, {}, {}
    for name, make in ARMS.items():
        states[name] = Randomness(seed)
        try:
            made[name] = make(train[0], seed)
        except peers.PeerMissing as error:
            print(f"Left out: {name}: {error}.")
            continue
        states[name].keep()
        spent[name] = [0.0, 0.0]
    for epoch in range(epochs + 1):
        for name, arm in made.items():
            states[name].restore()
            if epoch:
                start = time.perf_counter(), time.process_time()
                train_epoch(arm, epoch - 1, epochs)
                spent[name][0] += time.perf_counter() - start[0]
                spent[name][1] += time.process_time() - start[1]
            states[name].keep()
            if epoch % EVERY == 0 or epoch == epochs:
                yield {
                    **{"arm": name, "seed": seed, "epoch": epoch},
                    "knn_top1": round(accuracy(arm.backbone, train, test), 2),
                    "wall_s": round(spent[name][0], 1),
                    "cpu_s": round(spent[name][1], 1),
                    "images": len(train[0]),
                }


def main(args: Sequence[str] | None = None) -> int:
    """Train a seed, or collect all that are there."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--images", type=int, help="fewer, to try it")
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--out", type=Path, default=Path("work_dirs/accuracy"))
    parser.add_argument("--collect", action="store_true", help="train nothing")
    chosen = parser.parse_args(args)
    if chosen.collect:
        files = sorted(chosen.out.glob("seed*.json"))
        if not files:
            print(f"{chosen.out} has no seed*.json.")
            return 1
        parts = [json.loads(line) for f in files for line in f.read_text().splitlines()]
        facts = {name: peers.installed(name) for name in ("lightly", "solo-learn")}
        common.write_rows(NAME, [row | facts for row in parts])
        return 0
    torch.set_num_threads(1)
    common.keep_freed_memory()
    chosen.out.mkdir(parents=True, exist_ok=True)
    with open(chosen.out / f"seed{chosen.seed}.json", "w", buffering=1) as file:
        for row in compare(chosen.seed, chosen.images, chosen.epochs):
            row |= {"threads": 1, "commit": common.commit()}
            print(row, flush=True)
            file.write(json.dumps(row) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
