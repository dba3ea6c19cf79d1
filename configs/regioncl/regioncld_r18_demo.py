"""RegionCL-D on the demo scenes: minutes on two CPU cores."""

_base_ = "../densecl/densecl_r18_demo.py"

cells = (2, 3)  # sides of a region, of 4 cells
stride = 16  # pixels per cell, of the last stage
region_weight = 1.0

model = dict(
    type="RegionCLD",
    region=dict(cells=cells, stride=stride),
    region_weight=region_weight,
)
