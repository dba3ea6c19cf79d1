"""Semi-supervised ImageNet: fine-tune all layers on 1 % or 10 % of the labels.

Protocol: OpenSelfSup (configs/benchmarks/semi_classification): SyncBN, 20 epochs, SGD,
momentum 0.9, weight decay 5e-4, batch 256 = 4 GPUs x 64, x0.2 at 12 and 16; best of its
grid for MoCo v2: lr 0.01, the head's lr x100.
Targets, top-1 / top-5 (OpenSelfSup model zoo), 1 %: MoCo v2 39.07 / 68.31, v1 33.15 /
61.30; 10 %, with `fraction=0.1`: MoCo v2 61.80 / 85.11, v1 60.08 / 84.02.

Differs: without `list_file` the images are drawn per class from `split_seed`; for the
published ones give SimCLR's list, `list_file=1percent.txt` or `10percent.txt`.

    tools/dist_train.sh configs/transfer/classification/semi_r50_imagenet_1pct.py 4 \
        --cfg-options list_file=data/imagenet/1percent.txt
"""

_base_ = "../_base_/classification/imagenet.py"

fraction = 0.01  # of the images of each class, at least one; 1 % is part of 10 %
list_file = None  # or a text file with the name of one image per line
split_seed = 0
batch_size = 64  # per GPU
max_epochs = 20
val_interval = 5
lr = 0.01  # for 256 images
head_lr_mult = 100
weight_decay = 5e-4
lr_step = 0.2

train_dataloader = dict(
    dataset=dict(
        fraction=None if list_file else fraction, list_file=list_file, seed=split_seed
    ),
)
optim_wrapper = dict(
    paramwise_cfg=dict(custom_keys={"head.": dict(lr_mult=head_lr_mult)})
)
