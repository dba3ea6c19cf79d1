"""InterCLR on the demo scenes: minutes on two CPU cores."""

_base_ = "../mocov2/mocov2_r18_demo.py"

loss_lambda = 0.25  # share of the inter-image loss ...
warmup_epochs = 10  # ... which is 0 at first, 10 epochs of 30
num_clusters = 23  # about one for 128 of the 3,000 scenes
negatives = 0.1  # share of the images that are drawn for a query ...
pool = 0.5  # ... from this share of most similar ones
margin = -0.5  # below 0: a less strict boundary
tau_inter = 0.1

model = dict(
    type="InterCLR",
    loss_lambda=dict(
        kind="step", start=0, end=loss_lambda, until=warmup_epochs, unit="epoch"
    ),
    images=dict(pipeline=_base_.eval_pipeline, batch_size=256, num_workers=0),
    pseudo_labels=dict(type="OnlineLabels", num_clusters=num_clusters),
    negatives=dict(type="SemiHardNegatives", num=negatives, pool=pool),
    inter_head=dict(temperature=tau_inter, margin=margin),
)
custom_hooks = [
    dict(
        type="PseudoLabelHook",
        dataset=dict(labels="subfolders"),  # for purity and NMI, never for training
        interval=20,
    )
]
