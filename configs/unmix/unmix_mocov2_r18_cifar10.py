"""Un-Mix on MoCo, ResNet-18, CIFAR-10, 1000 epochs, one GPU x 512 (arXiv 2003.05438).

Published kNN (k=200, t=0.1): 91.34 top-1 (MoCo: 89.11); symmetric 92.25 (90.49), by
`model.pairs="((0,1),(1,0))" model.reduce=sum`. Minutes on CPU cores: `cpu=True`.
"""

_base_ = ["../mocov2/mocov2_r18_cifar10.py", "../_base_/models/unmix.py"]

max_epochs = _base_.cpu_epochs if _base_.cpu else 1000

model = dict(terms=[_base_.unmix])
