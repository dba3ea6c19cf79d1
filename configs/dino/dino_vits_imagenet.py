"""DINO, ViT-S/16 with its class token, ImageNet, 100 epochs, 8 GPUs x 64 images.

The official code's recipe (arXiv 2104.14294): AdamW, a weight decay that rises from
0.04 to 0.4, crops of other scales than for a ResNet.
"""

_base_ = "dino_r50_imagenet.py"

backbone = "vit-small-token"
adamw_lr = 0.001  # for a batch of 512: 5e-4 for 256
adamw_decay = 0.04
crop_scale = (0.4, 1.0)
local_scale = (0.05, 0.4)

model = dict(backbone=dict(stop_grad_conv1=False, drop_path_rate=0.1))
param_scheduler = [
    *_base_.param_scheduler,
    # Tenfold in the end; what does not decay stays so.
    dict(
        type="CosineAnnealingParamScheduler",
        param_name="weight_decay",
        eta_min_ratio=10.0,
        by_epoch=True,
        end=_base_.max_epochs,
        convert_to_iter_based=True,
    ),
]
