"""COCO 2017 with boxes, or masks too, and the 1x schedule (90k iterations of 16)."""

_base_ = "data.py"

# A data set of the same layout: its root, files and classes.
data_root = "{{$COCO_ROOT:data/coco}}"
train_annotations = "annotations/instances_train2017.json"
train_images = "train2017"
val_annotations = "annotations/instances_val2017.json"
val_images = "val2017"
dataset_type = "mmssl_ext.CocoDetectionDataset"

dataset = dict(type=dataset_type, data_root=data_root, metainfo=_base_.metainfo)
train_dataloader = dict(
    dataset=dict(
        **dataset,
        ann_file=train_annotations,
        data_prefix=dict(img=train_images),
        filter_cfg=dict(filter_empty_gt=True),
        pipeline=_base_.train_pipeline,
    ),
)
val_dataloader = dict(
    dataset=dict(
        **dataset,
        ann_file=val_annotations,
        data_prefix=dict(img=val_images),
        test_mode=True,
        pipeline=_base_.test_pipeline,
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(
    type="mmssl_ext.CocoDetectionMetric",
    ann_file=f"{data_root}/{val_annotations}",
    metric=["bbox", "segm"] if _base_.masks else ["bbox"],
)
test_evaluator = val_evaluator
figures = (
    {"box ": "coco/bbox_mAP", "mask ": "coco/segm_mAP"}
    if _base_.masks
    else {"": "coco/bbox_mAP"}
)
default_hooks = dict(
    result=dict(
        metrics={
            f"{what}AP{iou}": f"{key}_{iou}" if iou else key
            for what, key in figures.items()
            for iou in ("", "50", "75")
        }
    ),
)
