"""ProPos, ResNet-50, ImageNet, 200 epochs, 8 GPUs x 32 images (arXiv 2111.11821).

The official code's recipe: that of BYOL, with gradients of 16 batches for each step of
the optimizer, so that prototypes need earlier targets.
"""

_base_ = ["../byol/byol_r50_imagenet.py", "../_base_/models/propos.py"]

max_epochs = 200
batch_size = 32  # per GPU
accumulative_counts = 16  # 4096 images for a step of the optimizer, as the rate wants
lr_batch = 256  # of an iteration
num_clusters = 1000
scattering_weight = 0.001
sigma = 0.0001
warmup_epochs = 10
interval = 10
num_prototype_keys = 10_240

model = dict(
    **_base_.propos,
    images=dict(
        pipeline=_base_.eval_pipeline, batch_size=256, num_workers=_base_.num_workers
    ),
)
optim_wrapper = dict(accumulative_counts=accumulative_counts)
custom_hooks = [dict(type="PseudoLabelHook")]
