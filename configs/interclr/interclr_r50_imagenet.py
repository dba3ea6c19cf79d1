"""InterCLR on MoCo v2, ResNet-50, ImageNet, 200 epochs, 8 GPUs x 32 (arXiv 2008.11702).

Published by the released code: 68.04 top-1 by the probe of the last stage, where MoCo
v2 has 66.24 by the same probe. Every GPU and every checkpoint holds a bank of 656 MB,
with `bank_dtype = "float16"` of 328 MB.
"""

_base_ = ["../mocov2/mocov2_r50_imagenet.py", "../_base_/models/interclr.py"]

warmup_epochs = 0  # the released code has no warm-up
num_clusters = 10_000
negatives = 16_384
pool = 128_000
tau_inter = 0.2
bank_dtype = "float32"  # or "float16"

model = dict(
    **_base_.interclr,
    images=dict(
        pipeline=_base_.eval_pipeline, batch_size=256, num_workers=_base_.num_workers
    ),
    bank_dtype=bank_dtype,
    pseudo_labels=_base_.large,
)
