"""RegionCL-M in MoCo v2's own recipe: 8 GPUs x 32 images, rate 0.03, 200 epochs.

No published figure: the paper's comes from a batch of 1024 and a rate of 0.15
(`regionclm_r50_imagenet.py`), which would be 0.0375 here. The head starts as there.
"""

_base_ = "../mocov2/mocov2_r50_imagenet.py"

cells = (3, 5)  # sides of a region, of 7 cells: 96, 128 or 160 of 224 px
stride = 32  # pixels per cell, of the last stage
region_weight = 1.0

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
