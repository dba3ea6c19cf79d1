"""ASCL on MoCo v2, ResNet-50, ImageNet, 200 epochs, 8 GPUs x 32 (arXiv 2207.11163).

The official code; its rate is MoCo v2's, unverified. The temperature of the loss, 0.1,
is not MoCo v2's. The second view, the key's, is cropped and mirrored alone.
"""

_base_ = ["../mocov2/mocov2_r50_imagenet.py", "../_base_/models/ascl.py"]

tau_ins = 0.1  # T1, of the loss
weak_target = True

model = dict(**_base_.ascl)
