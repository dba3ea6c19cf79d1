"""Half a ResNet-18 on the demo scenes: minutes on two CPU cores, for every method.

Small batches, few epochs. The stem is the usual 7x7 one, so that detectors and
segmentors take the weights. The last stage keeps its resolution, as segmentors let it:
dense methods need more than 2 x 2 cells.
"""

_base_ = ["datasets/demo.py", "schedule.py"]

max_epochs = 30
lr_batch = 64
depth = 18
base_channels = 32  # channels of the first stage
strides = (1, 2, 2, 1)  # of a ResNet: 4 x 4 cells of 16 px

model = dict(
    data_preprocessor=dict(
        type="MultiViewPreprocessor",
        mean=_base_.mean,
        std=_base_.std,
        **_base_.read_as,
    ),
    backbone=dict(
        _base_.net.backbone,
        **_base_.bands_in,
        **(dict(strides=strides) if _base_.net.is_resnet else {}),
    ),
)
optim_wrapper = _base_.optimization
