"""FCN with output stride 8, Cityscapes fine train -> val, 80k iterations.

As fcn_r50_cityscapes_40k.py, twice as long. No self-supervised method has published a
number for it; mmseg's zoo has 72.64 mIoU for a supervised ResNetV1c (fcn_r50-d8_4xb2-
80k_cityscapes-769x769), 1.2 above its 40k.

    python tools/train.py configs/transfer/segmentation/fcn_r50_cityscapes_80k.py \
        --cfg-options checkpoint=work_dirs/RUN/epoch_200.pth data_root=data/cityscapes
"""

_base_ = "fcn_r50_cityscapes_40k.py"

lr = 0.01  # for 8 images
max_iters = 80000
val_interval = 8000

optim_wrapper = dict(optimizer=dict(lr=lr))
param_scheduler = [
    dict(type="PolyLR", power=0.9, eta_min=lr / 100, end=max_iters, by_epoch=False)
]
train_cfg = dict(max_iters=max_iters, val_interval=val_interval)
default_hooks = dict(checkpoint=dict(interval=val_interval))
