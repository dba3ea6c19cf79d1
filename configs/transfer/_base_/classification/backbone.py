"""A frozen or fine-tuned ResNet on images that arrive as RGB, decoded by PIL."""

_base_ = ["../runtime.py", "../pretrained.py", "../bands.py"]
default_scope = "mmssl_ext"

decoder = (
    dict(type="DecodeBands", **_base_.read_as)
    if _base_.read_as
    else dict(type="DecodeImage")
)

# As torchvision starts: without it mmpretrain would keep torch's default weights.
random = [
    dict(type="Kaiming", layer=["Conv2d"]),
    dict(type="Constant", val=1, layer=["_BatchNorm", "GroupNorm"]),
]
model = dict(
    type="ImageClassifier",
    data_preprocessor=dict(type="MultiViewPreprocessor", **_base_.as_bands)
    if _base_.as_bands
    else dict(
        type="ClsDataPreprocessor",
        **_base_.pixels,
        to_rgb=False,  # DecodeImage gives RGB
    ),
    backbone=dict(
        **_base_.resnet,
        **_base_.bands_in,
        stem_channels=_base_.base_channels,
        out_indices=(3,),
        zero_init_residual=False,
        init_cfg=_base_.pretrained or random,
    ),
)

default_hooks = dict(
    augmentation_seed=dict(type="AugmentationSeedHook"),
    input_check=dict(type="InputCheckHook"),
    pictures=None,  # there are no boxes or masks to draw
)
env_cfg = dict(cudnn_benchmark=True)
visualizer = dict(type="Visualizer", vis_backends=_base_.vis_backends)
