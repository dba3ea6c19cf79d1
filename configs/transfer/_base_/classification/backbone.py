"""A frozen or fine-tuned ResNet on images that arrive as RGB, decoded by PIL."""

_base_ = "../runtime.py"
default_scope = "mmssl_ext"

checkpoint = "work_dirs/co2_r50_imagenet/epoch_200.pth"  # None: random weights
encoder = "query"  # or "key"
depth = 50
base_channels = 64

pretrained = dict(
    type="mmssl_ext.PretrainedBackbone", checkpoint=checkpoint, encoder=encoder
)
# What torchvision draws: without it mmpretrain would keep torch's default weights.
random = [
    dict(type="Kaiming", layer=["Conv2d"]),
    dict(type="Constant", val=1, layer=["_BatchNorm", "GroupNorm"]),
]
model = dict(
    type="ImageClassifier",
    data_preprocessor=dict(
        type="ClsDataPreprocessor",
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        to_rgb=False,  # DecodeImage gives RGB
    ),
    backbone=dict(
        type="ResNet",
        depth=depth,
        stem_channels=base_channels,
        base_channels=base_channels,
        out_indices=(3,),
        style="pytorch",
        frozen_stages=-1,
        norm_eval=False,
        zero_init_residual=False,
        init_cfg=pretrained if checkpoint else random,
    ),
)

default_hooks = dict(
    augmentation_seed=dict(type="AugmentationSeedHook"),
    input_check=dict(type="InputCheckHook"),
    pictures=None,  # there are no boxes or masks to draw
)
env_cfg = dict(cudnn_benchmark=True)
visualizer = dict(type="Visualizer", vis_backends=[dict(type="LocalVisBackend")])
