"""The demo with every kind of transfer: a linear probe and two detectors besides.

    make demo-full    # keeps what `make demo` has finished

Detection sees the scenes at about the scale of the pretraining crops; enlarged to 160
px, pretraining helped it no more.
"""

_base_ = "demo.py"

detector = {
    "classes": _base_.classes,
    "max_iters": 600,
    "val_interval": 300,
    "batch_size": 4,
    "lr": 0.01,
    "short_sides": (96, 112),
    "test_size": 104,
    "max_size": 300,
    "fpn_channels": 64,
    "fc_channels": 128,
    "anchor_sizes": (16, 32, 64, 128, 256),
    "rpn_samples": 64,
    "roi_samples": 64,
    # Proposals: a scene has few objects, and NMS of thousands takes a third of a step.
    "model.train_cfg.rpn_proposal.nms_pre": 500,
    "model.train_cfg.rpn_proposal.max_per_img": 200,
    "model.test_cfg.rpn.nms_pre": 300,
    "model.test_cfg.rpn.max_per_img": 100,
    "val_dataloader.dataset.indices": 200,
}
transfers = dict(
    linear=dict(
        config=_base_.where + "classification/linear_r50_imagenet.py",
        title="Linear probe",
        options={
            **_base_.folder,
            "image_size": 64,
            "resize": 96,
            "max_epochs": 10,
            "val_interval": 5,
            "batch_size": 128,
            "lr": 3,
            "model.backbone.strides": _base_.strides,
        },
    ),
    voc=dict(
        config=_base_.where + "detection/faster_rcnn_r50_fpn_voc0712.py",
        title="Detection, VOC layout",
        options={
            **detector,
            "data_root": _base_.data_root + "/VOCdevkit",
            "train_splits": (("VOC2007", "trainval"),),
        },
    ),
    coco=dict(
        config=_base_.where + "detection/mask_rcnn_r50_fpn_coco_1x.py",
        title="Instance segmentation, COCO layout",
        options={**detector, "data_root": _base_.data_root + "/coco"},
    ),
)
