"""LC-loss on SimSiam, ResNet-50, ImageNet, the recipe of `simsiam_r50_imagenet.py`.

A reconstruction, inspired by arXiv 2207.04398, whose recipe could not be read.
"""

_base_ = ["../simsiam/simsiam_r50_imagenet.py", "../_base_/models/lcloss.py"]

model = dict(
    terms=[
        dict(
            **_base_.lcloss,
            out_channels=_base_.local_channels,
            predictor_channels=_base_.predictor_channels,
        )
    ]
)
