"""Epochs, learning rate and optimizer of pretraining, by variables that a config sets.

The rate falls along half a cosine, after a linear rise over `lr_warmup` epochs where a
method has one. LARS leaves BatchNorm and biases alone.

Transformers and ConvNeXt are trained by AdamW, whatever the method: by `adamw_lr`,
`adamw_decay` and `adamw_warmup` in place of `lr`, `weight_decay` and `lr_warmup`.
Norms, biases, positions and scales do not decay.
"""

_base_ = "backbone.py"

max_epochs = 200
lr = 0.06  # for a batch of `lr_batch` images on all GPUs
lr_batch = 256
weight_decay = 5e-4
lars = False  # True: LARS; False: SGD
lr_warmup = 0  # epochs
lr_warmup_start = 1e-4  # share of the rate at first
lr_warmup_unit = "iteration"  # or "epoch": how often the rate rises
lr_end = 0  # share of the rate at last
uses_adamw = bool(_base_.net.adamw)
adamw_lr = _base_.net.adamw[0] * lr_batch / 256 if uses_adamw else None
adamw_decay = _base_.net.adamw[1] if uses_adamw else None
adamw_warmup = min(10, max_epochs // 10)  # epochs

no_lars = dict(decay_mult=0, lars_exclude=True)
no_decay = dict(decay_mult=0)
optimization = (
    dict(
        optimizer=dict(type="AdamW", lr=adamw_lr, weight_decay=adamw_decay),
        paramwise_cfg=dict(
            flat_decay_mult=0,  # norms, biases, scales
            custom_keys={
                "pos_embed": no_decay,
                "cls_token": no_decay,
                "relative_position_bias_table": no_decay,
            },
        ),
    )
    if uses_adamw
    else dict(
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
warmup = adamw_warmup if uses_adamw else lr_warmup
cosine = dict(
    type="CosineAnnealingLR",
    T_max=max_epochs - warmup,
    by_epoch=True,
    end=max_epochs,
    **(dict(eta_min_ratio=lr_end) if lr_end else {}),
)
unit = dict(convert_to_iter_based=True) if lr_warmup_unit == "iteration" else {}
param_scheduler = (
    [
        dict(
            type="LinearLR",
            start_factor=lr_warmup_start,
            by_epoch=True,
            end=warmup,
            **unit,
        ),
        dict(**cosine, begin=warmup, **unit),
    ]
    if warmup
    else [cosine]
)
train_cfg = dict(by_epoch=True, max_epochs=max_epochs)
auto_scale_lr = dict(base_batch_size=lr_batch)
