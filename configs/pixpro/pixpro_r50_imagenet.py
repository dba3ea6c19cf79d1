"""PixPro, ResNet-50, ImageNet, 100 epochs, 8 GPUs x 128 images (arXiv 2011.10043).

The official code's recipe, without the instance branch; BYOL's views. Published VOC
detection: 58.8 AP, with `max_epochs=400` 60.2 (MoCo v2: 57.6).
"""

_base_ = ["../byol/byol_r50_imagenet.py", "../_base_/models/pixpro.py"]

max_epochs = 100
lr = 4.0  # for a batch of 1024
lr_batch = 1024
lr_warmup = 5
lr_warmup_start = 0.01
weight_decay = 1e-5
batch_size = 128  # per GPU

model = dict(
    _delete_=True,
    type="PixPro",
    pixel=_base_.pixel,
    momentum=_base_.byol["momentum"],
    neck=dict(
        type="ConvProjector",
        in_channels=_base_.backbone_channels,
        hid_channels=_base_.hid_channels,
        out_channels=_base_.out_channels,
    ),
    backbone=dict(
        _base_.model["backbone"],
        **(dict(zero_init_residual=True) if _base_.net.is_resnet else {}),
    ),
    data_preprocessor=_base_.model["data_preprocessor"],
)
