"""InterCLR on MoCo: pseudo labels, semi-hard negatives and the share of their loss.

The values are for CIFAR-10's 50,000 images, in the proportions of the ImageNet recipe.
"""

loss_lambda = 0.25  # share of the inter-image loss ...
warmup_epochs = 10  # ... which is 0 for so long
num_clusters = 390  # about one for 128 images
negatives = 0.013  # how many images, or which share, for every query ...
pool = 0.1  # ... from so many most similar ones
margin = -0.5  # on the positive's cosine; below 0: a less strict boundary
tau_inter = 0.1

interclr = dict(
    type="InterCLR",
    loss_lambda=dict(
        kind="step", start=0, end=loss_lambda, until=warmup_epochs, unit="epoch"
    ),
    negatives=dict(type="SemiHardNegatives", num=negatives, pool=pool),
    inter_head=dict(temperature=tau_inter, margin=margin),
)
online_labels = dict(type="OnlineLabels", num_clusters=num_clusters)
large = dict(**online_labels, interval=10, min_size=20)
custom_hooks = [dict(type="PseudoLabelHook")]
