"""IFND on CIFAR-10 in the recipe of the official MoCo demo; no published figure.

Minutes on CPU cores: `cpu=True`.
"""

_base_ = ["../mocov2/mocov2_r18_cifar10.py", "../_base_/models/ifnd.py"]

warmup_epochs = 1 if _base_.cpu else 20

model = dict(
    **_base_.ifnd,
    images=dict(
        pipeline=_base_.eval_pipeline,
        batch_size=512,
        num_workers=0 if _base_.cpu else _base_.num_workers,
    ),
)
custom_hooks = [dict(type="PseudoLabelHook")]
