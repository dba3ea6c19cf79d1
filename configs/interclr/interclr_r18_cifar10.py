"""InterCLR on CIFAR-10 in the recipe of the official MoCo demo; no published figure.

Clusters, pool and negatives are in the proportions of the ImageNet recipe.
"""

_base_ = "../mocov2/mocov2_r18_cifar10.py"

loss_lambda = 0.25  # share of the inter-image loss ...
warmup_epochs = 10  # ... which is 0 at first, 10 epochs of 200
num_clusters = 390  # about one for 128 of the 50,000 images
negatives = 0.013  # share of the images that are drawn for every query ...
pool = 0.1  # ... from this share of most similar ones
margin = -0.5  # on the positive's cosine; below 0: a less strict boundary
tau_inter = 0.1

model = dict(
    type="InterCLR",
    loss_lambda=dict(
        kind="step", start=0, end=loss_lambda, until=warmup_epochs, unit="epoch"
    ),
    images=dict(
        pipeline=_base_.eval_pipeline, batch_size=512, num_workers=_base_.num_workers
    ),
    pseudo_labels=dict(
        type="OnlineLabels", num_clusters=num_clusters, interval=10, min_size=20
    ),
    negatives=dict(type="SemiHardNegatives", num=negatives, pool=pool),
    inter_head=dict(temperature=tau_inter, margin=margin),
)
custom_hooks = [dict(type="PseudoLabelHook")]
