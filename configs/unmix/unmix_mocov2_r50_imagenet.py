"""Un-Mix on MoCo v2, ResNet-50, ImageNet, 200 epochs, 8 GPUs x 32 (arXiv 2003.05438).

Published linear probe: 68.6 top-1 (MoCo v2: 67.5).
"""

_base_ = ["../mocov2/mocov2_r50_imagenet.py", "../_base_/models/unmix.py"]

model = dict(terms=[_base_.unmix])
