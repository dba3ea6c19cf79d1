"""The pretrained ResNet of every transfer: file, size, and how it is normalised."""

checkpoint = "work_dirs/co2_r50_imagenet/epoch_200.pth"  # None: random weights
encoder = "query"  # or "key"
adapt_input = False  # True: of other bands than these images, see PretrainedBackbone
depth = 50  # 18, 34, 50, 101
base_channels = 64  # 32: half the width

backbone_channels = base_channels * 8 * (4 if depth >= 50 else 1)  # of the last stage
norm_cfg = dict(type="BN", requires_grad=True)  # SyncBN on several GPUs: sync_bn
pretrained = (
    dict(
        type="mmssl_ext.PretrainedBackbone",
        checkpoint=checkpoint,
        encoder=encoder,
        adapt_input=adapt_input,
    )
    if checkpoint
    else None
)
resnet = dict(
    type="ResNet",
    depth=depth,
    base_channels=base_channels,
    frozen_stages=-1,
    norm_eval=False,
    style="pytorch",
)
pixels = dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375])
