"""MoCHi on the demo scenes: minutes on two CPU cores."""

_base_ = ["../mocov2/mocov2_r18_demo.py", "../_base_/models/mochi.py"]

num_hardest = 16  # of 1024
warmup_epochs = 2

model = dict(**_base_.mochi)
