"""COCO 2017 with boxes and masks."""

_base_ = "coco.py"

train_dataloader = dict(
    dataset=dict(
        pipeline=[
            dict(step, with_mask=True) if step["type"] == "LoadAnnotations" else step
            for step in _base_.train_pipeline
        ]
    )
)
val_dataloader = dict(
    dataset=dict(
        pipeline=[
            dict(step, with_mask=True) if step["type"] == "LoadAnnotations" else step
            for step in _base_.test_pipeline
        ]
    )
)
test_dataloader = val_dataloader
val_evaluator = dict(metric=["bbox", "segm"])
test_evaluator = val_evaluator
default_hooks = dict(
    result=dict(
        metrics={
            "_delete_": True,
            "box AP": "coco/bbox_mAP",
            "box AP50": "coco/bbox_mAP_50",
            "box AP75": "coco/bbox_mAP_75",
            "mask AP": "coco/segm_mAP",
            "mask AP50": "coco/segm_mAP_50",
            "mask AP75": "coco/segm_mAP_75",
        }
    ),
)
