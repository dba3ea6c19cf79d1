"""ResNet with FPN and SyncBN in both, from a pretrained checkpoint."""

checkpoint = "work_dirs/co2_r50_imagenet/epoch_200.pth"  # None: random weights
encoder = "query"  # or "key"
depth = 50  # 18, 34, 50, 101
base_channels = 64  # 32 for half the width
fpn_channels = 256

expansion = 4 if depth >= 50 else 1
norm_cfg = dict(type="BN", requires_grad=True)  # SyncBN on several GPUs: sync_bn

model = dict(
    data_preprocessor=dict(
        type="DetDataPreprocessor",
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True,
        pad_mask=True,
        pad_size_divisor=32,
    ),
    backbone=dict(
        type="ResNet",
        depth=depth,
        base_channels=base_channels,
        out_indices=(0, 1, 2, 3),
        frozen_stages=-1,
        norm_cfg=norm_cfg,
        norm_eval=False,
        style="pytorch",
        init_cfg=dict(
            type="mmssl_ext.PretrainedBackbone", checkpoint=checkpoint, encoder=encoder
        )
        if checkpoint
        else None,
    ),
    neck=dict(
        type="FPN",
        in_channels=[base_channels * 2**stage * expansion for stage in range(4)],
        out_channels=fpn_channels,
        norm_cfg=norm_cfg,
        num_outs=5,
    ),
)
