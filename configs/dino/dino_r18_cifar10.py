"""DINO, ResNet-18 with the CIFAR stem, CIFAR-10, 1000 epochs, one GPU x 256 images.

LARS, K and the teacher's momentum are solo-learn's, published linear probe: 89.52
top-1 with two crops; its rate belongs to a LARS that clips its trust ratio, and 1 is
what that takes where it does not. Four small crops of 16 pixels join the two here.
Minutes on CPU cores: `cpu=True`, whose optimizer is SGD.
"""

_base_ = ["../_base_/r18_cifar10.py", "../_base_/models/dino.py"]

lars = not _base_.cpu
max_epochs = _base_.cpu_epochs if _base_.cpu else 1000
lr = 0.06 if _base_.cpu else 1.0
lr_batch = 256
lr_warmup = 0 if _base_.cpu else 10
weight_decay = 5e-4 if _base_.cpu else 1e-6
batch_size = 256
crop_scale = (0.4, 1.0)
local_crops = 4
three_recipes = True
jitter = (0.4, 0.4, 0.2, 0.1)
num_prototypes = 1024 if _base_.cpu else 4096
hid_channels = 512 if _base_.cpu else 2048
momentum = 0.99 if _base_.cpu else 0.9995
frozen_epochs = 0 if _base_.cpu else 1

model = dict(
    **_base_.dino,
    neck=dict(**_base_.head, in_channels=_base_.backbone_channels),
    pairs=dict(locals=_base_.local_crops),
)
custom_hooks = [_base_.clip_each]
default_hooks = dict(knn=_base_.of_teacher)
