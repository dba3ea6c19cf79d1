"""BG_RM on MoCo, ResNet-18, CIFAR-10, 200 epochs, one GPU x 512 images.

Not published. Images of 32 pixels have rough masks. Minutes on CPU cores: `cpu=True`.
"""

_base_ = ["../mocov2/mocov2_r18_cifar10.py", "../_base_/models/bgaug.py"]

read = [_base_.decoder, _base_.mask]
donors = dict(**_base_.cifar10, split="train", pipeline=read)
others = {} if _base_.background == "remove" else dict(donors=donors)
crop, *changes = _base_.view
changed = [crop, dict(**_base_.change, **others), *changes]
swapped = [crop, dict(type="SwapSubject", donors=donors), *changes]
views = [_base_.view, changed, swapped] if _base_.swaps else [changed, changed]
train_pipeline = [
    *read,
    dict(type="MakeViews", views=views, augment_on=_base_.augment_on),
    dict(type="PackViews"),
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
