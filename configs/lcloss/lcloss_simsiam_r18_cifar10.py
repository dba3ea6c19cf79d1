"""LC-loss on SimSiam, CIFAR-10, the recipe of `simsiam_r18_cifar10.py`.

Not published. With 4 x 4 cells of 32 px it is a check of the method, not its use.
Minutes on CPU cores: `cpu=True`.
"""

_base_ = ["../simsiam/simsiam_r18_cifar10.py", "../_base_/models/lcloss.py"]

model = dict(
    terms=[
        dict(
            **_base_.lcloss,
            out_channels=_base_.local_channels,
            predictor_channels=_base_.predictor_channels,
        )
    ]
)
