"""ProPos, ResNet-18 with the CIFAR stem, CIFAR-10, 1000 epochs, 4 GPUs x 128 images.

The official code's recipe (arXiv 2111.11821), of the training images alone; there the
test images are trained on, too. Minutes on CPU cores: `cpu=True`.
"""

_base_ = [
    "../_base_/r18_cifar10.py",
    "../_base_/models/byol.py",
    "../_base_/models/propos.py",
]

max_epochs = _base_.cpu_epochs if _base_.cpu else 1000
batch_size = 256 if _base_.cpu else 128
lr = 0.1  # for a batch of 512: 0.05 for 256
lr_warmup = 0 if _base_.cpu else 50
warmup_epochs = 1 if _base_.cpu else 50
hid_channels = 512 if _base_.cpu else 4096
sync_bn = None  # statistics of a GPU; the target's images are shuffled among them
predictor_rate = 10  # times the rate of the network

model = dict(
    **_base_.propos,
    predictor=_base_.byol["predictor"],
    neck=dict(
        **_base_.projector, **_base_.pooling, in_channels=_base_.backbone_channels
    ),
    bn_splits=4,  # one GPU only: groups as on the paper's 4
    images=dict(
        pipeline=_base_.eval_pipeline,
        batch_size=512,
        num_workers=0 if _base_.cpu else _base_.num_workers,
    ),
)
optim_wrapper = dict(
    paramwise_cfg=dict(custom_keys={"predictor": dict(lr_mult=predictor_rate)})
)
custom_hooks = [dict(type="PseudoLabelHook")]
