"""FCN on a dilated ResNet of output stride 8, with an auxiliary FCN head of weight 0.4.

mmseg's own fcn_r50-d8 but for the backbone: the plain ResNet with the 7x7 stem that was
pretrained, where mmseg takes ResNetV1c with three 3x3 convolutions. Numbers of classes
and input size come from the config.
"""

checkpoint = "work_dirs/co2_r50_imagenet/epoch_200.pth"  # None: random init
encoder = "query"  # or "key"
depth = 50  # 18, 34, 50, 101
base_channels = 64  # 32: half the width

channels = base_channels * 8 * (1 if depth in (18, 34) else 4)  # of the last stage
norm_cfg = dict(type="BN", requires_grad=True)  # sync_bn of the runtime joins the GPUs
loss = dict(type="CrossEntropyLoss", use_sigmoid=False)

model = dict(
    type="EncoderDecoder",
    data_preprocessor=dict(
        type="SegDataPreProcessor",
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True,
        pad_val=0,
    ),
    pretrained=None,
    backbone=dict(
        type="ResNet",
        depth=depth,
        stem_channels=base_channels,
        base_channels=base_channels,
        num_stages=4,
        out_indices=(0, 1, 2, 3),
        strides=(1, 2, 1, 1),
        dilations=(1, 1, 2, 4),
        contract_dilation=True,
        style="pytorch",
        frozen_stages=-1,
        norm_cfg=norm_cfg,
        norm_eval=False,
        init_cfg=dict(
            type="mmssl_ext.PretrainedBackbone", checkpoint=checkpoint, encoder=encoder
        )
        if checkpoint
        else None,
    ),
    decode_head=dict(
        type="FCNHead",
        in_channels=channels,
        in_index=3,
        channels=channels // 4,
        num_convs=2,
        concat_input=True,
        dropout_ratio=0.1,
        norm_cfg=norm_cfg,
        align_corners=False,
        loss_decode=dict(**loss, loss_weight=1.0),
    ),
    auxiliary_head=dict(
        type="FCNHead",
        in_channels=channels // 2,
        in_index=2,
        channels=channels // 8,
        num_convs=1,
        concat_input=False,
        dropout_ratio=0.1,
        norm_cfg=norm_cfg,
        align_corners=False,
        loss_decode=dict(**loss, loss_weight=0.4),
    ),
    train_cfg=dict(),
    test_cfg=dict(mode="whole"),
)
