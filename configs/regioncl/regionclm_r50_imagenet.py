"""RegionCL-M on MoCo v2, ResNet-50, ImageNet, 200 epochs, 8 GPUs x 128 images.

The official recipe (arXiv 2111.12309); the head starts by Kaiming's rule with biases of
0, that of MoCo v2 by torch's default. Published: linear probe 69.4 top-1 (MoCo v2:
67.5), COCO Mask R-CNN C4 1x 39.8 box AP (38.9). MoCo v2's own batch, without a
published figure: `batch_size=32 lr=0.03 lr_batch=256`.
"""

_base_ = ["../mocov2/mocov2_r50_imagenet.py", "../_base_/models/regioncl.py"]

cells = (3, 5)  # of 7: regions of 96, 128 or 160 of 224 px
batch_size = 128  # per GPU
lr = 0.15
lr_batch = 1024

model = dict(
    type="RegionCLM",
    **_base_.regions,
    neck=dict(
        init_cfg=dict(
            type="Kaiming", layer="Linear", mode="fan_in", nonlinearity="relu"
        )
    ),
)
