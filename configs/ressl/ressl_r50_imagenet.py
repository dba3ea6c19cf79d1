"""ReSSL, ResNet-50, ImageNet, 200 epochs, 8 GPUs x 32 images (arXiv 2107.09282).

The official code's recipe with one weak crop. Published linear probe: 69.9 top-1.
"""

_base_ = "../ascl/ascl_r50_imagenet.py"

tau_target = 0.04  # T_k; tau_ins is T_q
queue_len = 131072
lr = 0.05
lr_warmup = 5

model = dict(
    type="ReSSL",
    head=dict(
        _delete_=True,
        type="RelationSoftmax",
        temperature=_base_.tau_ins,
        target_temperature=tau_target,
    ),
    neck=dict(hid_channels=4096, out_channels=512),
)
optim_wrapper = dict(paramwise_cfg=dict(norm_decay_mult=0, bias_decay_mult=0))
