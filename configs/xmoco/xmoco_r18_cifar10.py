"""Cross-similarity terms, inspired by XMoCo, on the official MoCo demo on CIFAR-10.

Not published. Minutes on CPU cores: `cpu=True`.
"""

_base_ = ["../mocov2/mocov2_r18_cifar10.py", "../_base_/models/xmoco.py"]

warmup_epochs = 1 if _base_.cpu else 5

model = dict(**_base_.xmoco)
