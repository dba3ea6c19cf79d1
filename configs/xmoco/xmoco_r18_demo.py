"""Cross-similarity terms, inspired by XMoCo, on the demo scenes: minutes on a CPU."""

_base_ = ["../mocov2/mocov2_r18_demo.py", "../_base_/models/xmoco.py"]

warmup_epochs = 2

model = dict(**_base_.xmoco)
