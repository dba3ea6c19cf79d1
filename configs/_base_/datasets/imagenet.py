"""ImageNet-1k: two MoCo v2 views for pretraining, plain crops for kNN.

Set the environment variable IMAGENET_ROOT, or edit `data_root`. Training reads every
image below `train/` and no labels; kNN takes its labels from the class folders
(`train/n01440764/...`, `val/n01440764/...`). Without labels, switch it off:
`--cfg-options default_hooks.knn=None`. 8 GPUs make the paper's batch of 256.
"""

_base_ = ["../runtime_fast.py", "multi_crop.py"]

data_root = "{{$IMAGENET_ROOT:data/imagenet}}"
train_folder = "train"
storage = "ImageFolder"  # or "ImageShards", by tools/make_shards.py, for train and val
on_unreadable = "raise"  # or "skip": another image takes its place, counted and listed

train_root = data_root + "/" + train_folder
usual = [_base_.crop, _base_.color_jitter, _base_.gray, _base_.blur, _base_.flip]
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
    dict(type="ResizeShort", size=256),
    dict(type="CenterCrop", size=_base_.image_size),
    dict(type="PackViews"),
]

train_dataloader = dict(
    **_base_.train_loader,
    pin_memory=True,
    dataset=dict(
        type=storage,
        root=train_root,
        pipeline=train_pipeline,
        on_error=on_unreadable,
    ),
)
loader = dict(**_base_.knn_loader, batch_size=256)
labelled = dict(type=storage, labels="subfolders", pipeline=eval_pipeline)
default_hooks = dict(
    knn=dict(
        type="KNNHook",
        interval=10,
        k=200,
        temperature=0.1,
        bank_dataloader=dict(
            **loader,  # about 100 images of each class
            dataset=dict(**labelled, root=train_root, max_images=128_000),
        ),
        query_dataloader=dict(
            **loader, dataset=dict(**labelled, root=data_root + "/val")
        ),
    ),
)
