"""SwAV, ResNet-50, ImageNet, 200 epochs, 8 GPUs x 32 images (arXiv 2006.09882).

The official recipe for 256 images: 2 x 224 + 6 x 96 crops and a queue. Published linear
probe: 72.7 top-1, 74.3 with `max_epochs=400`. Large batches: swav-4096_r50_imagenet.py.
"""

_base_ = ["../_base_/r50_imagenet.py", "../_base_/models/swav.py"]

lars = True
lr = 0.6
lr_end = 1e-3
weight_decay = 1e-6
queue_len = 3840
local_crops = 6
crop_scale = (0.14, 1.0)
jitter = (0.8, 0.8, 0.8, 0.2)

model = dict(
    **_base_.swav,
    pairs=dict(locals=_base_.local_crops),
    neck=dict(
        **_base_.projector, **_base_.pooling, in_channels=_base_.backbone_channels
    ),
)
