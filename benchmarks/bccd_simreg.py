"""SimReg on the photographs of `bccd_run.py`: half a ResNet-18, an ImageNet teacher.

Pooled features as in the paper and, for the detector, the maps of three stages. Views
are at about the scale at which the detector sees the cells.
"""

_base_ = "mmssl_ext::simreg/simreg_r18_imagenet.py"
custom_imports = dict(imports=["benchmarks.efficientnet_lite"])

photographs = "photographs"
teacher_checkpoint = "lite0.pth"
max_epochs = 166  # 9 steps each
batch_size = 32
image_size = 128
lr = 0.05
lr_batch = 32
num_workers = 1
base_channels = 32

model = dict(
    backbone=dict(out_indices=(1, 2, 3)),
    teacher=dict(
        _delete_=True,
        backbone=dict(
            type="EfficientNetLite0",
            out_indices=(2, 4, 6, 7),  # strides 8, 16, 32 and the last layer
            init_cfg=dict(
                type="mmssl_ext.PretrainedBackbone", checkpoint=teacher_checkpoint
            ),
        ),
    ),
    terms=[
        dict(
            type="LocalRegression",
            levels=((0, 0), (1, 1), (2, 2)),
            standardise=True,
        )
    ],
)
view = [
    dict(type="RandomResizedCrop", size=image_size, scale=(0.1, 0.6)),
    dict(type="RandomFlip", prob=0.5),
]
train_pipeline = [
    dict(type="DecodeImage"),
    dict(type="MakeViews", views=[view], augment_on="worker"),
    dict(type="PackViews"),
]
train_dataloader = dict(dataset=dict(root=photographs, pipeline=train_pipeline))
default_hooks = dict(knn=None, checkpoint=dict(interval=10))
