"""DSC with prototypes on CIFAR-10, the recipe of `densecl_r18_cifar10.py`.

A reconstruction. Dense learning on 32 px is a check of the method, not its use.
"""

_base_ = ["../densecl/densecl_r18_cifar10.py", "../_base_/models/dsc.py"]

num_classes = 128
semantic_start = 1 if _base_.cpu else 20

model = dict(**_base_.dsc, semantic=_base_.prototypes)
