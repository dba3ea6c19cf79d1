"""ASCL, ResNet-18 with the CIFAR stem, CIFAR-10, 200 epochs, one GPU x 256 images.

The official code's recipe for CIFAR; no figure of it could be read. Minutes on CPU
cores: `cpu=True`, without the warm-up and with hidden layers of the backbone's width.
"""

_base_ = ["../mocov2/mocov2_r18_cifar10.py", "../_base_/models/ascl.py"]

batch_size = 256
lr = 0.03  # for a batch of 256
lr_batch = 256
lr_warmup = 0 if _base_.cpu else 5
crop_scale = (0.2, 1.0)
hid_channels = _base_.backbone_channels if _base_.cpu else 2048

model = dict(
    **_base_.ascl,
    neck=dict(
        _delete_=True,
        type="MoCoV2Neck",
        **_base_.pooling,
        in_channels=_base_.backbone_channels,
        hid_channels=hid_channels,
        out_channels=128,
    ),
)

strong = [_base_.crop, _base_.flip, _base_.color_jitter, _base_.gray, _base_.blur]
train_pipeline = [
    _base_.decoder,
    dict(
        type="MakeViews", views=[strong, _base_.weak_view], augment_on=_base_.augment_on
    ),
    dict(type="PackViews"),
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
