"""CIFAR-10 in the recipe of the official MoCo demo.

Set the environment variable CIFAR10_ROOT, or edit `data_root`: the folder that holds
`cifar-10-batches-py/`. With `download = True` it is fetched there if absent.
From memory, unverified: the crop scale, the absence of blur and the normalisation.
"""

_base_ = ["../default_runtime.py", "multi_crop.py"]

data_root = "{{$CIFAR10_ROOT:data/cifar10}}"
download = False
verify_md5 = True  # False for a re-packed copy of the same pixels
batch_size = 512
num_workers = 4
image_size = 32
crop_scale = (0.08, 1.0)
local_size = 16
local_scale = (0.05, 0.4)
recipe_blur = False
mean = [125.307, 122.961, 113.8575]
std = [51.5865, 50.847, 51.255]

usual = [_base_.crop, _base_.flip, _base_.color_jitter, _base_.gray]
weak = _base_.weak_view if _base_.weak_target else usual
alike = [usual, weak, [_base_.local_crop, *usual[1:]]]
view, second_view, local_view = _base_.recipes if _base_.three_recipes else alike
train_views = [view, second_view, *[local_view] * _base_.local_crops]
train_pipeline = [
    _base_.decoder,
    dict(type="MakeViews", views=train_views, augment_on=_base_.augment_on),
    dict(type="PackViews"),
]
eval_pipeline = [_base_.decoder, dict(type="PackViews")]

cifar10 = dict(type="CIFAR10", root=data_root, download=download, verify_md5=verify_md5)
train_dataloader = dict(
    **_base_.train_loader,
    pin_memory=True,
    dataset=dict(**cifar10, split="train", pipeline=train_pipeline),
)
loader = dict(**_base_.knn_loader, batch_size=512)
labelled = dict(**cifar10, pipeline=eval_pipeline)
default_hooks = dict(
    knn=dict(
        type="KNNHook",
        interval=5,
        k=200,
        temperature=0.1,
        bank_dataloader=dict(**loader, dataset=dict(**labelled, split="train")),
        query_dataloader=dict(**loader, dataset=dict(**labelled, split="test")),
    ),
)
