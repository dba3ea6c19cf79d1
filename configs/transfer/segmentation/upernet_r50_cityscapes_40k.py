"""UperNet, Cityscapes fine train -> val, 40k iterations.

Protocol: RegionCL, read in its log (Annbless/RegionCL, logs/RegionCLM/
CityScape-UperNet-RegionCLM-40k.log): mmseg's upernet_r50 with plain ResNet, no
dilation, 8 GPUs x 2 images, crop 512 x 1024, whole images in the test, auxiliary FCN
head of weight 0.4.

Target mIoU (RegionCL's README, 200 epochs of pretraining on ImageNet): RegionCL-M 78.1,
-D 78.7, -S 77.8. The log of -M ends at 78.50. No number for MoCo v2 was found.

Differs from the source: nothing known.

    python tools/train.py configs/transfer/segmentation/upernet_r50_cityscapes_40k.py \
        --cfg-options checkpoint=work_dirs/RUN/epoch_200.pth data_root=data/cityscapes
"""

_base_ = [
    "../_base_/segmentation/runtime.py",
    "../_base_/segmentation/upernet.py",
    "../_base_/segmentation/cityscapes.py",
]

crop_size = (512, 1024)  # height, width
scale = (2048, 1024)  # largest long and short side
ratio_range = (0.5, 2.0)
lr = 0.01  # for 16 images
max_iters = 40000
val_interval = 4000

train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadAnnotations"),
    dict(type="RandomResize", scale=scale, ratio_range=ratio_range, keep_ratio=True),
    dict(
        type="RandomCrop",
        crop_size=crop_size,
        cat_max_ratio=0.75,
        ignore_index=_base_.ignore_index,
    ),
    dict(type="RandomFlip", prob=0.5),
    dict(type="PhotoMetricDistortion"),
    dict(type="PackSegInputs"),
]
test_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="Resize", scale=scale, keep_ratio=True),
    dict(type="LoadAnnotations"),  # after Resize: scored at the size of the label map
    dict(type="PackSegInputs"),
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = dict(
    _base_.val_dataloader,
    dataset=dict(_base_.val_dataloader.dataset, pipeline=test_pipeline),
)
test_evaluator = _base_.val_evaluator

head = dict(num_classes=_base_.num_classes, ignore_index=_base_.ignore_index)
model = dict(
    data_preprocessor=dict(size=crop_size, seg_pad_val=_base_.ignore_index),
    decode_head=head,
    auxiliary_head=head,
)

optim_wrapper = dict(
    type="OptimWrapper",
    optimizer=dict(type="SGD", lr=lr, momentum=0.9, weight_decay=5e-4),
)
param_scheduler = [
    dict(type="PolyLR", power=0.9, eta_min=lr / 100, end=max_iters, by_epoch=False)
]
train_cfg = dict(
    type="IterBasedTrainLoop", max_iters=max_iters, val_interval=val_interval
)
default_hooks = dict(checkpoint=dict(interval=val_interval))
auto_scale_lr = dict(base_batch_size=16)
