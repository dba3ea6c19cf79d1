"""Mask R-CNN on FPN, in the two variants of the literature."""

_base_ = "rcnn_fpn.py"

# "A": SyncBN in backbone and FPN only, a box head of 2 fc layers.
# "B": a box head of 4 convolutions with SyncBN and 1 fc, SyncBN in the mask head too.
fpn_variant = "A"

fpn_width = _base_.fpn_channels
head_norm = dict(A=None, B=dict(type="BN", requires_grad=True))[fpn_variant]
box_head = dict(
    A=dict(),
    B=dict(
        type="Shared4Conv1FCBBoxHead", conv_out_channels=fpn_width, norm_cfg=head_norm
    ),
)[fpn_variant]

model = dict(
    type="MaskRCNN",
    roi_head=dict(
        bbox_head=box_head,
        mask_roi_extractor=dict(
            type="SingleRoIExtractor",
            roi_layer=dict(type="RoIAlign", output_size=14, sampling_ratio=0),
            out_channels=fpn_width,
            featmap_strides=[4, 8, 16, 32],
        ),
        mask_head=dict(
            type="FCNMaskHead",
            num_convs=4,
            in_channels=fpn_width,
            conv_out_channels=fpn_width,
            norm_cfg=head_norm,
            loss_mask=dict(type="CrossEntropyLoss", use_mask=True),
        ),
    ),
    train_cfg=dict(rcnn=dict(mask_size=28)),
    test_cfg=dict(rcnn=dict(mask_thr_binary=0.5)),
)
