"""The whole way in minutes: CO2 on the demo scenes, then every kind of transfer.

    make demo         # draws the scenes into data/demo, runs this, writes the report

Everything is small: a ResNet-18 of half the width on scenes of 96 px, a few hundred
steps per transfer. The configs are those of configs/transfer with other values for
their variables, and random initialisation has the same schedule and learning rate.
Detection sees the scenes at about the scale of the pretraining crops; enlarged to
160 px, pretraining helped it no more.
"""

data_root = "{{$DEMO_ROOT:data/demo}}"
classes = (
    *("striped_disk", "checkered_square", "dotted_star", "zigzag_cross"),
    *("ringed_triangle", "speckled_crescent", "wavy_heart", "latticed_arrow"),
)
palette = [
    *([90, 90, 90], [230, 25, 75], [60, 180, 75], [255, 225, 25], [0, 130, 200]),
    *([245, 130, 48], [145, 30, 180], [70, 240, 240], [240, 50, 230]),
]
where = "configs/transfer/"

pretrain = dict(
    config="configs/co2/co2_r18_demo.py", title="CO2 R18 on the demo scenes"
)
sources = {"random": None, "co2": "pretrain"}
options = dict(depth=18, base_channels=32, num_workers=1)

folder = dict(data_root=data_root + "/imagenet", test_folder="test", num_classes=8)
detector = {
    "classes": classes,
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
    knn=dict(
        config=where + "classification/knn_r50_imagenet.py",
        title="kNN, scenes by their main object",
        options=dict(folder, image_size=64, resize=64, k=20, bank_images=None),
    ),
    linear=dict(
        config=where + "classification/linear_r50_imagenet.py",
        title="Linear probe",
        options=dict(
            folder,
            image_size=64,
            resize=96,
            max_epochs=10,
            val_interval=5,
            batch_size=128,
            lr=3,
        ),
    ),
    voc=dict(
        config=where + "detection/faster_rcnn_r50_fpn_voc0712.py",
        title="Detection, VOC layout",
        options={
            **detector,
            "data_root": data_root + "/VOCdevkit",
            "train_splits": (("VOC2007", "trainval"),),
        },
    ),
    coco=dict(
        config=where + "detection/mask_rcnn_r50_fpn_coco_1x.py",
        title="Instance segmentation, COCO layout",
        options={**detector, "data_root": data_root + "/coco"},
    ),
    cityscapes=dict(
        config=where + "segmentation/fcn_r50_cityscapes_40k.py",
        title="Semantic segmentation, Cityscapes layout",
        options={
            "data_root": data_root + "/cityscapes",
            "classes": ("background", *classes),
            "palette": palette,
            "seg_map_suffix": "_gtFine_demoIds.png",
            "crop_size": (96, 96),
            "scale": (192, 96),
            "batch_size": 16,
            "max_iters": 150,
            "val_interval": 75,
            "val_dataloader.dataset.indices": 200,
        },
    ),
)
