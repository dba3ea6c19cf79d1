"""FCN with output stride 8, Cityscapes fine train -> val, 40k or 80k iterations.

Protocol: DenseCL (arXiv 2011.09157) as kept in mmselfsup's configs (benchmarks/
mmsegmentation/cityscapes/fcn_r50-d8_769x769_40k_cityscapes.py): 4 GPUs x 2 images, crop
769, align_corners, test by windows of 769 every 513 pixels, auxiliary FCN head 0.4.

Target mIoU, from memory of DenseCL's table, unverified (its gain with COCO pretraining,
1.8, stands in the abstract): MoCo v2 74.5, DenseCL 75.7, supervised 73.7, random 63.5.
mmseg's zoo has 71.47 for a supervised ResNetV1c with the same schedule and crop. For
80k, `max_iters=80000`, no self-supervised method has published a number; mmseg's zoo
has 72.64 (fcn_r50-d8_4xb2-80k_cityscapes-769x769).

Differs from the source: no Pad in the pipeline, the preprocessor pads after
normalisation.

    python tools/train.py configs/transfer/segmentation/fcn_r50_cityscapes_40k.py \
        --cfg-options checkpoint=work_dirs/RUN/epoch_200.pth data_root=data/cityscapes
"""

_base_ = [
    "../_base_/segmentation/cityscapes.py",
    "../_base_/segmentation/fcn_d8.py",
]

crop_size = (769, 769)  # height, width; the test window too
scale = (2049, 1025)  # largest long and short side
align_corners = True
lr_batch = 8

optim_wrapper = _base_.finetuning
model = dict(
    **_base_.fitted,
    test_cfg=dict(
        mode="slide",
        crop_size=crop_size,
        stride=[-(-2 * side // 3) for side in crop_size],
    ),
)
