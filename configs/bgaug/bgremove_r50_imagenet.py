"""BG_RM on MoCo v2, ResNet-50, ImageNet, 200 epochs, 8 GPUs x 32 (arXiv 2103.12719).

The rate and the gray level are reconstructions. The paper's masks are of a trained
saliency network: name the folder of such masks, `masks=FOLDER`.
"""

_base_ = ["../mocov2/mocov2_r50_imagenet.py", "../_base_/models/bgaug.py"]

read = [_base_.decoder, dict(**_base_.mask, root=_base_.train_root)]
donors = dict(type=_base_.storage, root=_base_.train_root, pipeline=read)
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
