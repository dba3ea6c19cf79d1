"""Cityscapes, or any data of its layout, 40k iterations.

Images and label maps stand in two folders with the same tree below; their names differ
in the suffix only. A label map holds one class number per pixel.
"""

_base_ = "data.py"

data_root = "{{$CITYSCAPES_ROOT:data/cityscapes}}"
train_images = "leftImg8bit/train"
train_labels = "gtFine/train"
train_list = ""  # text file of names without suffix; "" takes all images of the folder
val_images = "leftImg8bit/val"
val_labels = "gtFine/val"
val_list = ""
img_suffix = "_leftImg8bit.png"
seg_map_suffix = "_gtFine_labelTrainIds.png"
dataset_classes = 19
dataset_type = "CityscapesDataset"
batch_size = 2  # per GPU
max_iters = 40000

dataset = dict(
    **_base_.dataset,
    data_root=data_root,
    img_suffix=img_suffix,
    seg_map_suffix=seg_map_suffix,
)
train_dataloader = dict(
    dataset=dict(
        **dataset,
        ann_file=train_list,
        data_prefix=dict(img_path=train_images, seg_map_path=train_labels),
        pipeline=_base_.train_pipeline,
    ),
)
val_dataloader = dict(
    dataset=dict(
        **dataset,
        ann_file=val_list,
        data_prefix=dict(img_path=val_images, seg_map_path=val_labels),
        test_mode=True,
        pipeline=_base_.test_pipeline,
    ),
)
test_dataloader = val_dataloader
