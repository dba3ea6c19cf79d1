"""RegionCL-M on MoCo v2, ResNet-50, ImageNet, 200 epochs, 8 GPUs x 128 images.

The official recipe (arXiv 2111.12309); the head starts by Kaiming's rule with biases of
0, that of MoCo v2 by torch's default. Published: linear probe 69.4 top-1 (MoCo v2:
67.5), COCO Mask R-CNN C4 1x 39.8 box AP (38.9).
"""

_base_ = "../mocov2/mocov2_r50_imagenet.py"

cells = (3, 5)  # sides of a region, of 7 cells: 96, 128 or 160 of 224 px
stride = 32  # pixels per cell, of the last stage
region_weight = 1.0
batch_size = 128  # per GPU
lr = 0.15  # for a batch of 1024

model = dict(
    type="RegionCLM",
    neck=dict(
        init_cfg=dict(
            type="Kaiming", layer="Linear", mode="fan_in", nonlinearity="relu"
        )
    ),
    region=dict(cells=cells, stride=stride),
    region_weight=region_weight,
)
train_dataloader = dict(batch_size=batch_size)
optim_wrapper = dict(optimizer=dict(lr=lr))
auto_scale_lr = dict(base_batch_size=1024)
