"""LC-loss on SimSiam, on the demo scenes: minutes on two CPU cores.

The views are larger than those of other methods, for 7 x 7 cells.
"""

_base_ = ["../simsiam/simsiam_r18_demo.py", "../_base_/models/lcloss.py"]

image_size = 112
local_channels = 128

model = dict(
    terms=[
        dict(
            **_base_.lcloss,
            out_channels=_base_.local_channels,
            predictor_channels=_base_.predictor_channels,
        )
    ]
)
