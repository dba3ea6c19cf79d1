"""IFND on MoCo: clusters of all images at three levels, whose labels mask the queue.

The numbers of clusters are for CIFAR-10's 50,000 images, in the proportions of those
for ImageNet.
"""

levels = (40, 200, 1000)  # about one cluster for 1,280, 256 and 51 images
action = "eliminate"  # or "attract"
warmup_epochs = 20  # before the first clustering
interval = 1  # epochs between two clusterings

ifnd = dict(
    type="IFND",
    false_negatives=dict(
        levels=levels,
        action=action,
        rate=dict(kind="linear", start=0, end=1),  # over all of the training
        warmup=warmup_epochs,
        interval=interval,
    ),
)
