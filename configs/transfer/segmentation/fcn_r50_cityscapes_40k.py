"""FCN with output stride 8, Cityscapes fine train -> val, 40k iterations.

Protocol: DenseCL (arXiv 2011.09157) as kept in mmselfsup's configs (benchmarks/
mmsegmentation/cityscapes/fcn_r50-d8_769x769_40k_cityscapes.py): 4 GPUs x 2 images, crop
769, align_corners, test by windows of 769 every 513 pixels, auxiliary FCN head 0.4.

Target mIoU, from memory of DenseCL's table, unverified (its gain with COCO pretraining,
1.8, stands in the abstract): MoCo v2 74.5, DenseCL 75.7, supervised 73.7, random 63.5.
mmseg's zoo has 71.47 for a supervised ResNetV1c with the same schedule and crop.

Differs from the source: no Pad in the pipeline, the preprocessor pads after
normalisation.

    python tools/train.py configs/transfer/segmentation/fcn_r50_cityscapes_40k.py \
        --cfg-options checkpoint=work_dirs/RUN/epoch_200.pth data_root=data/cityscapes
"""

_base_ = [
    "../_base_/segmentation/runtime.py",
    "../_base_/segmentation/fcn_d8.py",
    "../_base_/segmentation/cityscapes.py",
]

crop_size = (769, 769)  # height, width; the test window too
scale = (2049, 1025)  # largest long and short side
ratio_range = (0.5, 2.0)
lr = 0.01  # for 8 images
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

head = dict(
    num_classes=_base_.num_classes, ignore_index=_base_.ignore_index, align_corners=True
)
model = dict(
    data_preprocessor=dict(size=crop_size, seg_pad_val=_base_.ignore_index),
    decode_head=head,
    auxiliary_head=head,
    test_cfg=dict(
        mode="slide",
        crop_size=crop_size,
        stride=[-(-2 * side // 3) for side in crop_size],
    ),
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
auto_scale_lr = dict(base_batch_size=8)
