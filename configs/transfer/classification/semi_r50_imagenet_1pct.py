"""Semi-supervised ImageNet: fine-tune all layers on 1 % of the labels.

Protocol: OpenSelfSup (configs/benchmarks/semi_classification): SyncBN, 20 epochs, SGD,
momentum 0.9, weight decay 5e-4, batch 256 = 4 GPUs x 64, x0.2 at 12 and 16; best of its
grid for MoCo v2: lr 0.01, the head's lr x100.
Targets, top-1 / top-5: MoCo v2 39.07 / 68.31, v1 33.15 / 61.30 (OpenSelfSup model zoo).

Differs: without `list_file` the images are drawn per class from `split_seed`; for the
published ones give SimCLR's list, `list_file=1percent.txt`.

    tools/dist_train.sh configs/transfer/classification/semi_r50_imagenet_1pct.py 4 \
        --cfg-options list_file=data/imagenet/1percent.txt
"""

_base_ = "../_base_/classification/imagenet.py"

fraction = 0.01  # of the images of each class, at least one; 1 % is part of 10 %
list_file = None  # or a text file with the name of one image per line
split_seed = 0
batch_size = 64  # per GPU
max_epochs = 20
lr = 0.01  # for 256 images
head_lr_mult = 100
val_interval = 5

train_dataloader = dict(
    batch_size=batch_size,
    dataset=dict(
        fraction=None if list_file else fraction, list_file=list_file, seed=split_seed
    ),
)
optim_wrapper = dict(
    optimizer=dict(type="SGD", lr=lr, momentum=0.9, weight_decay=5e-4),
    paramwise_cfg=dict(custom_keys={"head.": dict(lr_mult=head_lr_mult)}),
)
param_scheduler = [
    dict(
        type="MultiStepLR",
        by_epoch=True,
        milestones=[round(0.6 * max_epochs), round(0.8 * max_epochs)],
        gamma=0.2,
    )
]
train_cfg = dict(by_epoch=True, max_epochs=max_epochs, val_interval=val_interval)
default_hooks = dict(checkpoint=dict(interval=val_interval))
