"""BYOL, ResNet-18 with the CIFAR stem, CIFAR-10, 1000 epochs, one GPU x 256 images.

Views, widths, weight decay and schedule are solo-learn's, published linear probe: 92.58
top-1. The rate is the official one for a ResNet-18 and this batch (Imagenette):
solo-learn's belongs to a LARS that clips its trust ratio, which mmpretrain's does not.
With `cpu=True` hidden layers have 512 channels, and the optimizer is SGD, since four
epochs are too few for LARS.
"""

_base_ = ["../_base_/r18_cifar10.py", "../_base_/models/byol.py"]

lars = not _base_.cpu
max_epochs = _base_.cpu_epochs if _base_.cpu else 1000
# For a batch of 256. SGD: of 0.2 and 0.06, MoCo's, this is the better after an epoch.
lr = 0.2 if _base_.cpu else 2.0
lr_batch = 256
lr_warmup = 0 if _base_.cpu else 10
weight_decay = 5e-4 if _base_.cpu else 1e-5
batch_size = 256
hid_channels = 512 if _base_.cpu else 4096
jitter = (0.4, 0.4, 0.2, 0.1)

model = dict(
    **_base_.byol,
    neck=dict(
        **_base_.projector, **_base_.pooling, in_channels=_base_.backbone_channels
    ),
)

second = [*_base_.view, dict(type="RandomSolarize", threshold=128, prob=0.2)]
train_pipeline = [
    _base_.decoder,
    dict(type="MakeViews", views=[_base_.view, second], augment_on=_base_.augment_on),
    dict(type="PackViews"),
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
