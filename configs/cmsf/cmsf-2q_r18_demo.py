"""CMSF-2Q on the demo scenes: minutes on two CPU cores."""

_base_ = "../msf/msf_r18_demo.py"

set_size = 5  # rows k' that the earlier embedding chooses

model = dict(type="CMSF", constraint=dict(type="EarlierNeighbours", k=set_size))
