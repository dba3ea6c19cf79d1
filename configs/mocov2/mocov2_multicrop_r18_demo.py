"""MoCo with two small crops on the demo scenes: minutes on two CPU cores.

Pairs of large crops count 0.4, as in SSLight for small networks (there with 6 crops).
"""

_base_ = "mocov2_r18_demo.py"

local_crops = 2
share = 0.4

model = dict(pairs=dict(locals=local_crops, targets=1, share=share), grouping="size")
