"""PixContrast on the demo scenes: minutes on two CPU cores."""

_base_ = "pixpro_r18_demo.py"

temperature = 0.3

model = dict(
    type="PixContrast",
    pixel=dict(_delete_=True, temperature=temperature, threshold=_base_.threshold),
)
