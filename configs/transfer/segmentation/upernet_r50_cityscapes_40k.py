"""UperNet, Cityscapes fine train -> val, 40k or 80k iterations.

Protocol: RegionCL, read in its log (Annbless/RegionCL, logs/RegionCLM/
CityScape-UperNet-RegionCLM-40k.log): mmseg's upernet_r50 with plain ResNet, no
dilation, 8 GPUs x 2 images, crop 512 x 1024, whole images in the test, auxiliary FCN
head of weight 0.4.

Target mIoU (RegionCL's README, 200 epochs of pretraining on ImageNet): RegionCL-M 78.1,
-D 78.7, -S 77.8. The log of -M ends at 78.50. For 80k,
`max_iters=80000` (the log beside it): RegionCL-M 79.0 (its log ends at 78.99), -D 79.5,
-S 78.7. No number for MoCo v2 was found.

Differs from the source: nothing known.

    python tools/train.py configs/transfer/segmentation/upernet_r50_cityscapes_40k.py \
        --cfg-options checkpoint=work_dirs/RUN/epoch_200.pth data_root=data/cityscapes
"""

_base_ = [
    "../_base_/segmentation/cityscapes.py",
    "../_base_/segmentation/upernet.py",
]

crop_size = (512, 1024)  # height, width
scale = (2048, 1024)  # largest long and short side

optim_wrapper = _base_.finetuning
model = _base_.fitted
