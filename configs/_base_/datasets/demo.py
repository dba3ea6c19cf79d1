"""The demo scenes: two views for pretraining, whole scenes for kNN.

`make demo` draws them into data/demo or DEMO_ROOT. The recipe follows that of CIFAR-10,
for speed; the crops are larger, since the objects fill only a part of a scene.
"""

_base_ = ["../default_runtime.py", "multi_crop.py"]

data_root = "{{$DEMO_ROOT:data/demo}}/imagenet"
batch_size = 64
num_workers = 1
augment_on = "worker"
image_size = 64
crop_scale = (0.4, 1.0)
local_size = 32
local_scale = (0.05, 0.4)
recipe_blur = False

usual = [_base_.crop, _base_.color_jitter, _base_.gray, _base_.flip]
weak = _base_.weak_view if _base_.weak_target else usual
alike = [usual, weak, [_base_.local_crop, *usual[1:]]]
view, second_view, local_view = _base_.recipes if _base_.three_recipes else alike
train_views = [view, second_view, *[local_view] * _base_.local_crops]
train_pipeline = [
    _base_.decoder,
    dict(type="MakeViews", views=train_views, augment_on=_base_.augment_on),
    dict(type="PackViews"),
]
eval_pipeline = [
    _base_.decoder,
    dict(type="ResizeShort", size=_base_.image_size),
    dict(type="CenterCrop", size=_base_.image_size),  # your own images differ in shape
    dict(type="PackViews"),
]

train_root = data_root + "/train"
train_dataloader = dict(
    **_base_.train_loader,
    dataset=dict(type="ImageFolder", root=train_root, pipeline=train_pipeline),
)
loader = dict(_base_.knn_loader, batch_size=256, num_workers=0)
labelled = dict(type="ImageFolder", labels="subfolders", pipeline=eval_pipeline)
default_hooks = dict(
    logger=dict(interval=20),
    checkpoint=dict(interval=10),
    collapse=dict(interval=20),
    knn=dict(
        type="KNNHook",
        interval=5,
        k=20,
        temperature=0.1,
        bank_dataloader=dict(**loader, dataset=dict(**labelled, root=train_root)),
        query_dataloader=dict(
            **loader, dataset=dict(**labelled, root=data_root + "/test")
        ),
    ),
)
