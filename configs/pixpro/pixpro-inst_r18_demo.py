"""PixPro with its instance branch on the demo scenes: minutes on two CPU cores."""

_base_ = "pixpro_r18_demo.py"

instance_weight = 1.0

model = dict(
    instance_weight=instance_weight,
    instance=dict(hid_channels=_base_.hid_channels),
)
