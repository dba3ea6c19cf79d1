"""Cityscapes instances in COCO's format, and the 24k schedule of 8 images on them."""

_base_ = "coco.py"

# A data set of the same layout: its root, files and classes.
data_root = "{{$CITYSCAPES_ROOT:data/cityscapes}}"
train_annotations = "annotations/instancesonly_filtered_gtFine_train.json"
train_images = "leftImg8bit/train"
val_annotations = "annotations/instancesonly_filtered_gtFine_val.json"
val_images = "leftImg8bit/val"
dataset_type = "mmssl_ext.CityscapesDetectionDataset"
dataset_classes = 8
masks = True

short_sides = tuple(range(800, 1025, 32))  # chosen at random per image in training
test_size = 1024  # short side
max_size = 2048  # of the long side

batch_size = 1  # per GPU; 8 GPUs
lr = 0.01
lr_batch = 8
max_iters = 24000
lr_steps = (3 / 4,)

default_hooks = dict(
    result=dict(
        metrics={
            "_delete_": True,
            "mask AP": "coco/segm_mAP",
            "mask AP50": "coco/segm_mAP_50",
            "box AP": "coco/bbox_mAP",
            "box AP50": "coco/bbox_mAP_50",
        }
    ),
)
