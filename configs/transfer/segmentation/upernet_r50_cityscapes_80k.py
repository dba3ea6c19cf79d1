"""UperNet, Cityscapes fine train -> val, 80k iterations.

As upernet_r50_cityscapes_40k.py, twice as long (RegionCL, logs/RegionCLM/
CityScape-UperNet-RegionCLM-80k.log).

Target mIoU (RegionCL's README): RegionCL-M 79.0 (its log ends at 78.99), -D 79.5, -S
78.7. No number for MoCo v2 was found.

    python tools/train.py configs/transfer/segmentation/upernet_r50_cityscapes_80k.py \
        --cfg-options checkpoint=work_dirs/RUN/epoch_200.pth data_root=data/cityscapes
"""

_base_ = "upernet_r50_cityscapes_40k.py"

lr = 0.01  # for 16 images
max_iters = 80000
val_interval = 8000

optim_wrapper = dict(optimizer=dict(lr=lr))
param_scheduler = [
    dict(type="PolyLR", power=0.9, eta_min=lr / 100, end=max_iters, by_epoch=False)
]
train_cfg = dict(max_iters=max_iters, val_interval=val_interval)
default_hooks = dict(checkpoint=dict(interval=val_interval))
