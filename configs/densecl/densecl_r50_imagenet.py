"""DenseCL, ResNet-50, ImageNet, 200 epochs, 8 GPUs x 32 images (arXiv 2011.09157).

Published: linear probe 63.6 top-1 (MoCo v2: 67.5), VOC detection 58.7 AP (57.0), VOC
segmentation 69.4 mIoU (67.5). The weight of the dense loss starts at 0, as the author
says (10,000 iterations); the released configs left it out.
"""

_base_ = ["../mocov2/mocov2_r50_imagenet.py", "../_base_/models/densecl.py"]

start_iters = 10_000

model = dict(
    **_base_.densecl,
    neck=dict(
        _delete_=True,
        **_base_.dense_neck,
        in_channels=_base_.backbone_channels,
        hid_channels=_base_.backbone_channels,
        init_cfg=dict(
            type="Kaiming", layer="Linear", mode="fan_in", nonlinearity="relu"
        ),
    ),
)
