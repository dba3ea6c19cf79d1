"""ProPos on the demo scenes: minutes on two CPU cores."""

_base_ = ["../byol/byol_r18_demo.py", "../_base_/models/propos.py"]

lr = 0.12  # twice BYOL's, for the losses of both directions are averaged
num_clusters = 8  # as many as classes
warmup_epochs = 3

model = dict(
    **_base_.propos,
    images=dict(pipeline=_base_.eval_pipeline, batch_size=256, num_workers=0),
)
custom_hooks = [
    dict(
        type="PseudoLabelHook",
        dataset=dict(labels="subfolders"),  # for purity and NMI, never for training
        interval=20,
    )
]
