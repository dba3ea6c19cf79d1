"""InterCLR on CIFAR-10 in the recipe of the official MoCo demo; no published figure.

Clusters, pool and negatives are in the proportions of the ImageNet recipe. Minutes on
CPU cores: `cpu=True`.
"""

_base_ = ["../mocov2/mocov2_r18_cifar10.py", "../_base_/models/interclr.py"]

warmup_epochs = 2 if _base_.cpu else 10

model = dict(
    **_base_.interclr,
    images=dict(
        pipeline=_base_.eval_pipeline,
        batch_size=512,
        num_workers=0 if _base_.cpu else _base_.num_workers,
    ),
    pseudo_labels=_base_.large,
)
