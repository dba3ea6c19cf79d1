"""PixContrast, ResNet-50, ImageNet, the recipe of `pixpro_r50_imagenet.py`.

Not in the released code; the temperature is an unofficial code's.
"""

_base_ = "pixpro_r50_imagenet.py"

temperature = 0.3

model = dict(
    type="PixContrast",
    pixel=dict(_delete_=True, temperature=temperature, threshold=_base_.threshold),
)
