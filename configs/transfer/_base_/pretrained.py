"""The pretrained backbone of every transfer: file, network, and how it is normalised.

Any backbone that has a name, by `backbone="convnext-tiny"`; a ResNet by `depth` and
`base_channels` too. docs/change_the_backbone.md names them.
"""

_base_ = []
from mmssl_ext.backbones import network

checkpoint = "work_dirs/co2_r50_imagenet/epoch_200.pth"  # None: random weights
encoder = "query"  # or "key"
pretrained_neck = False  # True: the FPN too, where the pretraining has one (CCOP)
adapt_input = False  # True: of other bands than these images, see PretrainedBackbone
depth = 50  # 18, 34, 50, 101
base_channels = 64  # 32: half the width
backbone = f"resnet{depth}-w{base_channels}"

net = network(backbone, "transfer")
backbone_channels = net["channels"]  # of the last stage
norm_cfg = dict(type="BN", requires_grad=True)  # SyncBN on several GPUs: sync_bn
# What is missing in every pretraining: norms behind the first stages.
absent = dict(absent=net["fresh"]) if net["fresh"] else {}
pretrained = (
    dict(
        type="mmssl_ext.PretrainedBackbone",
        checkpoint=checkpoint,
        encoder=encoder,
        **absent,
        adapt_input=adapt_input,
    )
    if checkpoint
    else None
)
trunk = dict(
    **net["backbone"],
    **(dict(init_cfg=pretrained) if checkpoint or net["is_resnet"] else {}),
)
normed = dict(**trunk, norm_cfg=norm_cfg) if net["is_resnet"] else trunk
# Maps of strides 4, 8, 16 and 32
four_maps = (
    dict(type="mmssl_ext.SimplePyramid", backbone=trunk, channels=backbone_channels)
    if net["flat"]
    else dict(**normed, out_indices=tuple(net["levels"]))
)
pixels = dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375])

# Transformers and ConvNeXt: AdamW, by a rate of its own in place of `lr`.
adamw_lr = net["adamw"][0] if net["adamw"] else None  # for 16 images
no_decay = dict(decay_mult=0)
finetuning = (
    dict(
        optimizer=dict(
            _delete_=True, type="AdamW", lr=adamw_lr, weight_decay=net["adamw"][1]
        ),
        paramwise_cfg=dict(
            _delete_=True,
            flat_decay_mult=0,  # norms, biases, scales
            custom_keys={
                "pos_embed": no_decay,
                "cls_token": no_decay,
                "relative_position_bias_table": no_decay,
            },
        ),
    )
    if net["adamw"]
    else {}
)
