"""Cityscapes, or any data of its layout; the pipelines come from the config.

Images and label maps stand in two folders with the same tree below; their names differ
in the suffix only. A label map holds one class number per pixel.
"""

data_root = "{{$CITYSCAPES_ROOT:data/cityscapes}}"
train_images = "leftImg8bit/train"
train_labels = "gtFine/train"
train_list = ""  # text file of names without suffix; "" takes all images of the folder
val_images = "leftImg8bit/val"
val_labels = "gtFine/val"
val_list = ""
img_suffix = "_leftImg8bit.png"
seg_map_suffix = "_gtFine_labelTrainIds.png"
classes = None  # names of the class numbers 0, 1, ...; None: the 19 of Cityscapes
palette = None  # [[r, g, b], ...] for pictures, with `classes`; None: drawn at random
ignore_index = 255
reduce_zero_label = False  # True: 0 is ignored and 1 becomes the first class
batch_size = 2  # per GPU
num_workers = 4

num_classes = len(classes) if classes else 19
dataset = dict(
    type="BaseSegDataset" if classes else "CityscapesDataset",
    data_root=data_root,
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
        **dataset,
        ann_file=train_list,
        data_prefix=dict(img_path=train_images, seg_map_path=train_labels),
    ),
)
val_dataloader = dict(
    batch_size=1,
    num_workers=num_workers,
    persistent_workers=num_workers > 0,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(
        **dataset,
        ann_file=val_list,
        data_prefix=dict(img_path=val_images, seg_map_path=val_labels),
        test_mode=True,
    ),
)
val_evaluator = dict(
    type="mmssl_ext.SegmentationMetric",
    iou_metrics=["mIoU"],
    ignore_index=ignore_index,
)
