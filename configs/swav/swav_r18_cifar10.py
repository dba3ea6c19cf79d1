"""SwAV, ResNet-18 with the CIFAR stem, CIFAR-10, 1000 epochs, one GPU x 256 images.

solo-learn's recipe, published linear probe: 89.17 top-1. Its views could not be read:
they are MoCo's here, with SwAV's colours. With `cpu=True` there are ten prototypes for
each class, no queue, and SGD, since four epochs are too few for LARS.
"""

_base_ = ["../_base_/r18_cifar10.py", "../_base_/models/swav.py"]

lars = not _base_.cpu
max_epochs = _base_.cpu_epochs if _base_.cpu else 1000
lr = 0.06 if _base_.cpu else 0.6
lr_batch = 256
lr_warmup = 0 if _base_.cpu else 10
weight_decay = 5e-4 if _base_.cpu else 1e-6
batch_size = 256
hid_channels = 512 if _base_.cpu else 2048
num_prototypes = 100 if _base_.cpu else 3000
queue_len = 0 if _base_.cpu else 3840
queue_start = 50
frozen_epochs = 1 if _base_.cpu else 2
jitter = (0.8, 0.8, 0.8, 0.2)

model = dict(
    **_base_.swav,
    pairs=dict(locals=_base_.local_crops),
    neck=dict(
        **_base_.projector, **_base_.pooling, in_channels=_base_.backbone_channels
    ),
)
