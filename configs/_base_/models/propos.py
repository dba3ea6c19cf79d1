"""ProPos on BYOL: k-means of all images, whose prototypes are scattered.

The values are those for CIFAR-10. Published figures take the true number of classes for
the number of clusters.
"""

num_clusters = 10
temperature = 0.5  # of the prototypes' similarities
scattering_weight = 0.1
sigma = 0.001  # of the noise before the predictor
warmup_epochs = 50  # of BYOL alone
interval = 1  # epochs between two clusterings
num_prototype_keys = 0  # earlier targets that join the prototypes

propos = dict(
    type="ProPos",
    prototypes=dict(
        num_clusters=num_clusters,
        temperature=temperature,
        interval=interval,
        queue_len=num_prototype_keys,
    ),
    scattering_weight=scattering_weight,
    sigma=sigma,
    warmup=warmup_epochs,
)
