"""IFND on MoCo v2, ResNet-50, ImageNet, 200 epochs, 8 GPUs x 32 (after 2106.03719).

Recipe of MoCo v2; levels, intervals and the rate of accepted labels are ours.
"""

_base_ = ["../mocov2/mocov2_r50_imagenet.py", "../_base_/models/ifnd.py"]

levels = (1000, 5000, 25_000)
interval = 5

model = dict(
    **_base_.ifnd,
    images=dict(
        pipeline=_base_.eval_pipeline, batch_size=256, num_workers=_base_.num_workers
    ),
)
custom_hooks = [dict(type="PseudoLabelHook")]
