"""PASCAL VOC, and the 24k schedule of MoCo's detection transfer on it."""

_base_ = "data.py"

# A data set of the same layout: its root, folders, splits and classes.
data_root = "{{$VOC_ROOT:data/VOCdevkit}}"
train_splits = (("VOC2007", "trainval"), ("VOC2012", "trainval"))
test_split = ("VOC2007", "test")
dataset_classes = 20
img_suffix = ".jpg"  # of the images
eval_mode = "11points"  # what detectron2 uses on VOC 2007; "area" on VOC 2012

short_sides = tuple(range(480, 801, 32))  # chosen at random per image in training
num_workers = 2
max_iters = 24000
validations = 4
longest_warmup = 100
lr_steps = (3 / 4, 11 / 12)

dataset = dict(
    type="mmssl_ext.VOCDetectionDataset",
    data_root=data_root,
    metainfo=_base_.metainfo,
    img_suffix=img_suffix,
)
train_dataloader = dict(
    dataset=dict(
        type="ConcatDataset",
        ignore_keys=["dataset_type"],  # it names the year
        datasets=[
            dict(
                **dataset,
                ann_file=f"{folder}/ImageSets/Main/{split}.txt",
                data_prefix=dict(sub_data_root=f"{folder}/"),
                filter_cfg=dict(filter_empty_gt=True),
                pipeline=_base_.train_pipeline,
            )
            for folder, split in train_splits
        ],
    ),
)
val_dataloader = dict(
    dataset=dict(
        **dataset,
        ann_file=f"{test_split[0]}/ImageSets/Main/{test_split[1]}.txt",
        data_prefix=dict(sub_data_root=f"{test_split[0]}/"),
        test_mode=True,
        pipeline=_base_.test_pipeline,
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(type="mmssl_ext.VOCDetectionMetric", eval_mode=eval_mode)
test_evaluator = val_evaluator
default_hooks = dict(
    result=dict(
        metrics={
            "AP": "voc/AP",
            "AP50": "voc/AP50",
            "AP75": "voc/AP75",
            "AP50 (11 points)": "voc/AP50_11point",
        }
    ),
)
