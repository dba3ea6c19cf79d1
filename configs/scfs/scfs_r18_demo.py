"""SCFS on the demo scenes: minutes on two CPU cores; small heads at three stages."""

_base_ = ["../dino/dino_r18_demo.py", "../_base_/models/scfs.py"]
from mmssl_ext.backbones import network

stage_channels = 64
mid_channels = 32
stage_hidden = 128

levels = network(_base_.backbone, "stages")  # a ViT has maps of one size
model = dict(**_base_.scfs, backbone=dict(out_indices=tuple(levels["levels"][1:])))
