"""IFND on the demo scenes: minutes on two CPU cores."""

_base_ = ["../mocov2/mocov2_r18_demo.py", "../_base_/models/ifnd.py"]

levels = (12, 60)
warmup_epochs = 3

model = dict(
    **_base_.ifnd,
    images=dict(pipeline=_base_.eval_pipeline, batch_size=256, num_workers=0),
)
custom_hooks = [
    dict(
        type="PseudoLabelHook",
        dataset=dict(labels="subfolders"),  # for purity and NMI, never for training
        interval=20,
    )
]
