"""From images to a segmentor in minutes: ASCL on the demo scenes, and two transfers.

    make demo         # draws the scenes into data/demo and runs this
    make demo-full    # demo_full.py: the other transfers too, in the same folder

Everything is small: a ResNet-18 of half the width on scenes of 96 px, a few hundred
steps per transfer. The configs are those of configs/transfer with other values for
their variables, and random initialisation has the same schedule and learning rate.
"""

data_root = "{{$DEMO_ROOT:data/demo}}"
max_epochs = 6
classes = (
    *("striped_disk", "checkered_square", "dotted_star", "zigzag_cross"),
    *("ringed_triangle", "speckled_crescent", "wavy_heart", "latticed_arrow"),
)
palette = [
    *([90, 90, 90], [230, 25, 75], [60, 180, 75], [255, 225, 25], [0, 130, 200]),
    *([245, 130, 48], [145, 30, 180], [70, 240, 240], [240, 50, 230]),
]
where = "configs/transfer/"
strides = (1, 2, 2, 1)  # as in the pretraining; a segmentor sets its own
note = """\
The scenes are drawn: objects of eight textures on cluttered grounds. They show that all
parts work and what a figure looks like, not what pretraining brings for your images.
From such scenes a detector of blood cells gained, while features of photographs of
everyday objects, compared by kNN, were no better than those of random weights: pretrain
on images like those that you will use.\
"""

pretrain = dict(
    config="configs/ascl/ascl_r18_demo.py",
    title="ASCL R18 on the demo scenes",
    options={"max_epochs": max_epochs, "default_hooks.knn.interval": 3},
)
sources = {"random": None, "ascl": "pretrain"}
options = dict(depth=18, base_channels=32, num_workers=1)

folder = dict(data_root=data_root + "/imagenet", test_folder="test", num_classes=8)
transfers = dict(
    knn=dict(
        config=where + "classification/knn_r50_imagenet.py",
        title="kNN, scenes by their main object",
        options={
            **folder,
            "image_size": 64,
            "resize": 64,
            "k": 20,
            "bank_images": None,
            "model.backbone.strides": strides,
        },
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
            "max_iters": 100,
            "val_interval": 50,
            "val_dataloader.dataset.indices": 200,
        },
    ),
)
