"""MoCHi in the recipe of the official MoCo demo on CIFAR-10.

Not published; the warm-up is a twentieth of the training. Minutes on CPU cores:
`cpu=True`.
"""

_base_ = ["../mocov2/mocov2_r18_cifar10.py", "../_base_/models/mochi.py"]

num_hardest = 64  # of 4096
warmup_epochs = 1 if _base_.cpu else 10

model = dict(**_base_.mochi)
