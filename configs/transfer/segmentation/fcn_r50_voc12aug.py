"""FCN with output stride 8, VOC12 train + Aug -> val, 20k iterations.

Protocol: DenseCL (arXiv 2011.09157) as kept in mmselfsup's configs (benchmarks/
mmsegmentation/voc12aug/fcn_r50-d8_512x512_20k_voc12aug.py): 4 GPUs x 4 images, crop
512, whole images in the test, auxiliary FCN head of weight 0.4.

Target mIoU, ImageNet, 200 epochs: MoCo v2 67.5 (DenseCL's README, mean of 5 runs) and
67.55 (mmselfsup's zoo); DenseCL 69.4 and 69.47; supervised 67.7 (an older README of
DenseCL). Users of DenseCL report 45 to 47 without the Aug images (its issue 19).

Differs from mmselfsup 1.x: the preprocessor pads after normalisation, as mmselfsup 0.x
did, not a Pad in the pipeline before it.

    python tools/train.py configs/transfer/segmentation/fcn_r50_voc12aug.py \
        --cfg-options checkpoint=work_dirs/RUN/epoch_200.pth data_root=data/VOCdevkit
"""

_base_ = [
    "../_base_/segmentation/runtime.py",
    "../_base_/segmentation/fcn_d8.py",
]

data_root = "{{$VOC_ROOT:data/VOCdevkit}}"
release = "VOC2012"  # folder below data_root; "" for none
# List of names without suffix and folder of the label maps; any number of such pairs
train_splits = [
    ("ImageSets/Segmentation/train.txt", "SegmentationClass"),
    ("ImageSets/Segmentation/aug.txt", "SegmentationClassAug"),
]
val_split = ("ImageSets/Segmentation/val.txt", "SegmentationClass")
image_folder = "JPEGImages"
img_suffix = ".jpg"
seg_map_suffix = ".png"
classes = None  # names of the class numbers 0, 1, ...; None: VOC's 20 and background
palette = None  # [[r, g, b], ...] for pictures, with `classes`; None: drawn at random
ignore_index = 255
reduce_zero_label = False  # True: 0 is ignored and 1 becomes the first class
crop_size = (512, 512)  # height, width
scale = (2048, 512)  # largest long and short side
ratio_range = (0.5, 2.0)
batch_size = 4  # per GPU
num_workers = 4
lr = 0.01  # for 16 images
max_iters = 20000
val_interval = 2000

train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadAnnotations"),
    dict(type="RandomResize", scale=scale, ratio_range=ratio_range, keep_ratio=True),
    dict(
        type="RandomCrop",
        crop_size=crop_size,
        cat_max_ratio=0.75,
        ignore_index=ignore_index,
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

num_classes = len(classes) if classes else 21
dataset = dict(
    type="BaseSegDataset" if classes else "PascalVOCDataset",
    data_root=f"{data_root}/{release}",
    img_suffix=img_suffix,
    seg_map_suffix=seg_map_suffix,
    metainfo=dict(classes=classes, palette=palette or []) if classes else None,
    ignore_index=ignore_index,
    reduce_zero_label=reduce_zero_label,
)
train_dataloader = dict(
    batch_size=batch_size,
    num_workers=num_workers,
    persistent_workers=num_workers > 0,
    sampler=dict(type="InfiniteSampler", shuffle=True),
    dataset=dict(
        type="ConcatDataset",
        datasets=[
            dict(
                **dataset,
                ann_file=names,
                data_prefix=dict(img_path=image_folder, seg_map_path=labels),
                pipeline=train_pipeline,
            )
            for names, labels in train_splits
        ],
    ),
)
val_dataloader = dict(
    batch_size=1,
    num_workers=num_workers,
    persistent_workers=num_workers > 0,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(
        **dataset,
        ann_file=val_split[0],
        data_prefix=dict(img_path=image_folder, seg_map_path=val_split[1]),
        test_mode=True,
        pipeline=test_pipeline,
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(
    type="mmssl_ext.SegmentationMetric",
    iou_metrics=["mIoU"],
    ignore_index=ignore_index,
)
test_evaluator = val_evaluator

head = dict(num_classes=num_classes, ignore_index=ignore_index)
model = dict(
    data_preprocessor=dict(size=crop_size, seg_pad_val=ignore_index),
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
