"""InterCLR on the demo scenes: minutes on two CPU cores."""

_base_ = ["../mocov2/mocov2_r18_demo.py", "../_base_/models/interclr.py"]

num_clusters = 23  # about one for 128 of the 3,000 scenes
negatives = 0.1
pool = 0.5

model = dict(
    **_base_.interclr,
    images=dict(pipeline=_base_.eval_pipeline, batch_size=256, num_workers=0),
    pseudo_labels=_base_.online_labels,
)
custom_hooks = [
    dict(
        type="PseudoLabelHook",
        dataset=dict(labels="subfolders"),  # for purity and NMI, never for training
        interval=20,
    )
]
