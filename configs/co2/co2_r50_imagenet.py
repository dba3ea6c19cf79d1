"""CO2 on MoCo v2, ResNet-50, ImageNet, 200 epochs, 8 GPUs x 32 (arXiv 2010.02217).

Published linear probe: 68.0 top-1 (MoCo v2: 67.5). From memory, unverified: alpha and
tau_con.
"""

_base_ = "../mocov2/mocov2_r50_imagenet.py"

alpha = 0.3  # weight of the consistency term
tau_con = 0.05

model = dict(type="CO2", consistency=dict(temperature=tau_con, weight=alpha))
