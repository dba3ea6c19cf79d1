"""Epochs, learning rate and optimizer of pretraining, by variables that a config sets.

The rate falls along half a cosine, after a linear rise over `lr_warmup` epochs where a
method has one. LARS leaves BatchNorm and biases alone.
"""

max_epochs = 200
lr = 0.06  # for a batch of `lr_batch` images on all GPUs
lr_batch = 256
weight_decay = 5e-4
lars = False  # True: LARS; False: SGD
lr_warmup = 0  # epochs
lr_warmup_start = 1e-4  # share of the rate at first
lr_warmup_unit = "iteration"  # or "epoch": how often the rate rises

no_lars = dict(decay_mult=0, lars_exclude=True)
optimization = (
    dict(
        optimizer=dict(
            type="LARS", lr=lr, momentum=0.9, weight_decay=weight_decay, eta=1e-3
        ),
        # BatchNorm and biases; the BatchNorm of a shortcut is downsample.1
        paramwise_cfg=dict(
            custom_keys={"bn": no_lars, "bias": no_lars, "downsample.1": no_lars}
        ),
    )
    if lars
    else dict(
        optimizer=dict(type="SGD", lr=lr, momentum=0.9, weight_decay=weight_decay)
    )
)
cosine = dict(
    type="CosineAnnealingLR",
    T_max=max_epochs - lr_warmup,
    by_epoch=True,
    end=max_epochs,
)
unit = dict(convert_to_iter_based=True) if lr_warmup_unit == "iteration" else {}
param_scheduler = (
    [
        dict(
            type="LinearLR",
            start_factor=lr_warmup_start,
            by_epoch=True,
            end=lr_warmup,
            **unit,
        ),
        dict(**cosine, begin=lr_warmup, **unit),
    ]
    if lr_warmup
    else [cosine]
)
train_cfg = dict(by_epoch=True, max_epochs=max_epochs)
auto_scale_lr = dict(base_batch_size=lr_batch)
