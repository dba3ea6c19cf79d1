"""ASCL's form without negatives, on BYOL, CIFAR-10.

A prediction is regressed on its target and the nearest targets of the batch; that loss
holds BYOL's own, which therefore weighs 0. The recipe is BYOL's, the label ASCL's: the
official code has no recipe of this form. Minutes on CPU cores: `cpu=True`.
"""

_base_ = "../byol/byol_r18_cifar10.py"

tau_target = 0.05  # T2, of the profile of the target
num_neighbours = 1  # n

model = dict(
    terms=[
        dict(type="Neighbours", temperature=tau_target, num_neighbours=num_neighbours)
    ],
    weights=dict(instance=0, neighbours=1),
)
