"""Supervised CMSF on the demo scenes and their classes: minutes on two CPU cores."""

_base_ = "../msf/msf_r18_demo.py"

topk = 10

model = dict(type="CMSF", constraint=dict(type="SameLabel"))
train_dataloader = dict(dataset=dict(labels="subfolders"))
