"""ImageNet linear probe: one fc on the frozen, globally pooled features.

Protocol: MoCo (arXiv 1911.05722, appendix, and main_lincls.py): SGD, momentum 0.9,
lr 30, no weight decay, batch 256 = 8 GPUs x 32, 100 epochs, x0.1 at 60 and 80, random
resized crop and flip. BatchNorm statistics are frozen too, which FrozenBackboneHook
proves.
Targets, top-1: MoCo v2 67.5 +- 0.1 after 200 epochs, 71.1 after 800, v1 60.6 (MoCo
README); 67.69 OpenSelfSup; 67.5 mmpretrain; CO2 68.0 (arXiv 2010.02217).

Differs: draws are keyed by seed, epoch and image. Validation each 10 epochs.

    tools/dist_train.sh configs/transfer/classification/linear_r50_imagenet.py 8 \
        --cfg-options checkpoint=work_dirs/co2_r50_imagenet/epoch_200.pth
"""

_base_ = "../_base_/classification/imagenet.py"

model = dict(backbone=dict(frozen_stages=4))  # parameters, and BatchNorm in eval mode
default_hooks = dict(frozen=dict(type="FrozenBackboneHook"))
