"""DenseCL, ResNet-50, COCO without labels, 800 epochs, 8 GPUs x 32 (arXiv 2011.09157).

Set the environment variable COCO_ROOT, or edit `data_root`. Published: VOC detection
56.7 AP (MoCo v2 on COCO: 54.7), VOC segmentation 67.5 mIoU (64.5). There is no kNN,
because COCO has no image classes; name labelled folders in `default_hooks.knn` for it.
"""

_base_ = "densecl_r50_imagenet.py"

data_root = "{{$COCO_ROOT:data/coco}}"
max_epochs = 800
lr = 0.3  # for a batch of 256

train_dataloader = dict(dataset=dict(root=data_root + "/train2017"))
default_hooks = dict(knn=None)
optim_wrapper = dict(optimizer=dict(lr=lr))
param_scheduler = [
    dict(type="CosineAnnealingLR", T_max=max_epochs, by_epoch=True, end=max_epochs)
]
train_cfg = dict(max_epochs=max_epochs)
