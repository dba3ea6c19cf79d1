"""A frozen or fine-tuned backbone on images that arrive as RGB, decoded by PIL."""

_base_ = ["../runtime.py", "../pretrained.py", "../bands.py"]
default_scope = "mmssl_ext"

decoder = (
    dict(type="DecodeBands", **_base_.read_as)
    if _base_.read_as
    else dict(type="DecodeImage")
)

# As torchvision starts: without it mmpretrain would keep torch's default weights.
resnet_random = [
    dict(type="Kaiming", layer=["Conv2d"]),
    dict(type="Constant", val=1, layer=["_BatchNorm", "GroupNorm"]),
]
resnet = (
    dict(
        stem_channels=_base_.net.backbone.base_channels,
        zero_init_residual=False,
        init_cfg=_base_.pretrained or resnet_random,
    )
    if _base_.net.is_resnet
    else {}
)
last_map = {} if _base_.net.flat else dict(out_indices=(_base_.net.levels[-1],))
model = dict(
    type="ImageClassifier",
    data_preprocessor=dict(type="MultiViewPreprocessor", **_base_.as_bands)
    if _base_.as_bands
    else dict(
        type="ClsDataPreprocessor",
        **_base_.pixels,
        to_rgb=False,  # DecodeImage gives RGB
    ),
    backbone=dict(_base_.trunk, **resnet, **last_map, **_base_.bands_in),
)

default_hooks = dict(
    augmentation_seed=dict(type="AugmentationSeedHook"),
    input_check=dict(type="InputCheckHook"),
    pictures=None,  # there are no boxes or masks to draw
)
env_cfg = dict(cudnn_benchmark=True)
visualizer = dict(type="Visualizer", vis_backends=_base_.vis_backends)
