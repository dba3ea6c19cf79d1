"""MoCHi on MoCo v2, ResNet-50, ImageNet, 200 epochs, 8 GPUs x 32 (arXiv 2010.01028).

From memory, unverified: N, s, s' = 1024, 1024, 128, one of the paper's settings, and
the length of the warm-up. The linear probe, 66.9 top-1, follows from others' abstract.
"""

_base_ = ["../mocov2/mocov2_r50_imagenet.py", "../_base_/models/mochi.py"]

warmup_epochs = 15

model = dict(**_base_.mochi)
