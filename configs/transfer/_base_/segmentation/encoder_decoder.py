"""An encoder-decoder on the pretrained backbone, auxiliary FCN head of weight 0.4.

A ResNet is the plain one with the 7x7 stem that was pretrained, where mmseg
takes ResNetV1c with three 3x3 convolutions. Numbers of classes and input size come from
the config.
"""

_base_ = "../pretrained.py"

resnet = (
    dict(
        stem_channels=_base_.net.backbone.base_channels,
        num_stages=4,
        contract_dilation=True,
    )
    if _base_.net.is_resnet
    else {}
)
head = dict(
    dropout_ratio=0.1,
    norm_cfg=_base_.norm_cfg,
    loss_decode=dict(type="CrossEntropyLoss", use_sigmoid=False, loss_weight=1.0),
)
model = dict(
    type="EncoderDecoder",
    data_preprocessor=dict(
        type="SegDataPreProcessor", **_base_.pixels, bgr_to_rgb=True, pad_val=0
    ),
    pretrained=None,
    backbone=dict(**_base_.four_maps, **resnet),
    decode_head=head,
    auxiliary_head=dict(
        **{**head, "loss_decode": dict(head["loss_decode"], loss_weight=0.4)},
        type="FCNHead",
        in_channels=_base_.net.stages[2],
        in_index=2,
        num_convs=1,
        concat_input=False,
    ),
    train_cfg=dict(),
    test_cfg=dict(mode="whole"),
)
