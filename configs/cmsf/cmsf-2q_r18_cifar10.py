"""CMSF-2Q on MSF, CIFAR-10; no published figure. Minutes on CPU cores: `cpu=True`."""

_base_ = "../msf/msf_r18_cifar10.py"

set_size = 5  # rows k' that the earlier embedding chooses

model = dict(type="CMSF", constraint=dict(type="EarlierNeighbours", k=set_size))
