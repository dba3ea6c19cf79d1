"""CMSF-KM on the demo scenes: minutes on two CPU cores."""

_base_ = "../msf/msf_r18_demo.py"

num_clusters = 117  # one for about 26 of the 3,000 scenes, as in the ImageNet recipe

model = dict(
    type="CMSF", constraint=dict(type="SameCluster", num_clusters=num_clusters)
)
custom_hooks = [
    dict(
        type="PseudoLabelHook",
        dataset=dict(labels="subfolders"),  # for purity and NMI, never for training
        interval=20,
    )
]
