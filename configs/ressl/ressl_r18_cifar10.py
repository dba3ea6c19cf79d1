"""ReSSL, ResNet-18 with the CIFAR stem, CIFAR-10, 200 epochs, one GPU x 256 images.

Projector, temperatures and crops are solo-learn's, published linear probe after 1000
epochs: 90.63 top-1. Queue, momentum, rate and the other changes of the strong view are
those of `ascl_r18_cifar10.py`: solo-learn's queue is longer than the data set. Minutes
on CPU cores: `cpu=True`.
"""

_base_ = "../ascl/ascl_r18_cifar10.py"

tau_target = 0.04  # T_k; tau_ins is T_q
crop_scale = (0.08, 1.0)
hid_channels = _base_.backbone_channels if _base_.cpu else 4096

model = dict(
    type="ReSSL",
    head=dict(
        _delete_=True,
        type="RelationSoftmax",
        temperature=_base_.tau_ins,
        target_temperature=tau_target,
    ),
    neck=dict(out_channels=256),
)
