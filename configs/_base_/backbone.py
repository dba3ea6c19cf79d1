"""The backbone of a pretraining, by its name, and what it needs.

A ResNet by `depth` and `base_channels`, or any other by
`backbone="convnext-tiny"`: docs/change_the_backbone.md names them.
"""

_base_ = []
from mmssl_ext.backbones import network

depth = 50
base_channels = 64  # of the first stage; 32: half the width
backbone = f"resnet{depth}-w{base_channels}"

net = network(backbone)
backbone_channels = net["channels"]  # of the last stage
# A projector takes the mean of a map; a class token is a vector already.
pooling = {} if net["maps"] else dict(with_avg_pool=False)
linear_pooling = {} if net["maps"] else dict(gap_dim=0)
