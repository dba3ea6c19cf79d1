"""Parts that do not fit are named in one sentence, with what to set."""

import pytest
import torch
from mmengine.registry import init_default_scope
from torch import nn

from mmssl_ext.fit import check_parts, pooled
from mmssl_ext.registry import MODELS
from tests.models.common import BACKBONE, build, views

VIT = {
    "type": "mmpretrain.VisionTransformer",
    "arch": {
        "embed_dims": 48,
        "num_layers": 1,
        "num_heads": 3,
        "feedforward_channels": 96,
    },
    "img_size": 32,
    "patch_size": 16,
}
LINEAR = {"type": "LinearNeck", "in_channels": 48, "out_channels": 16, "gap_dim": 2}
RESNET = {"type": "torchvision.models.resnet18"}
CONVNEXT = {
    "type": "mmpretrain.ConvNeXt",
    "arch": {"depths": [1, 1, 1, 1], "channels": [8, 8, 16, 48]},
}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"backbone": {**BACKBONE, "in_channels": 1}},
            r"^ResNet \(before MoCoV2Neck\) fails on images of 3 x 32 x 32 \(Given "
            r"groups=1.*\); its first layer takes 1 channels: set backbone\.in_channels"
            r" to 3, ",
        ),
        (
            {"backbone": VIT, "neck": LINEAR},
            "^VisionTransformer returns 1 x 48, on which LinearNeck fails .*; set "
            r"backbone\.out_type='featmap' for maps, or neck\.gap_dim=0",
        ),
        (
            {"backbone": CONVNEXT, "neck": LINEAR},
            r"^ConvNeXt returns 1 x 48, .*set backbone\.gap_before_final_norm=False",
        ),
        (
            {
                "backbone": {**VIT, "out_type": "featmap"},
                "neck": {**LINEAR, "in_channels": 32},
            },
            "48 x 2 x 2, on which LinearNeck fails .*; set neck.in_channels to 48\\.$",
        ),
        (
            {"backbone": RESNET, "neck": {**LINEAR, "in_channels": 512}},
            "^ResNet returns one tensor of 1 x 1000, but a backbone with LinearNeck "
            "must return a tuple of feature maps, .*; take a class",
        ),
        (
            {"backbone": {**BACKBONE, "out_indices": (2, 3)}},
            "32 x 2 x 2 and 1 x 64 x 1 x 1, on which MoCoV2Neck fails .*out_indices",
        ),
    ],
)
def test_parts_that_do_not_fit(changes, message):
    model = build("MoCo", **changes).eval()
    with pytest.raises(ValueError, match=message) as caught:
        model.check_inputs(views(1))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "changes",
    [
        {"backbone": {**VIT, "out_type": "featmap"}, "neck": LINEAR},
        {"backbone": VIT, "neck": {**LINEAR, "gap_dim": 0}},  # the class token
    ],
)
def test_transformers_train_and_are_measured(changes):
    model = build("MoCo", **changes)
    model.eval().check_inputs(views(1))
    found = model(views(3)[0], mode="embed")
    assert found["backbone"].shape == (3, 48)
    assert found["embedding"].shape == (3, 16)
    loss = sum(model.train()(views(4), mode="loss").values())
    loss.backward()
    assert loss.isfinite()


def test_a_predictor_of_another_width():
    linear = {**LINEAR, "gap_dim": 0}
    expected = "returns 32 features, but the predictor takes 48; set predictor.in_ch"
    with pytest.raises(ValueError, match=expected):
        build("SimSiam", predictor=linear)
    expected = "predictor returns 16 features, but .* has 32; set predictor.out_ch"
    with pytest.raises(ValueError, match=expected):
        build("SimSiam", predictor={**linear, "in_channels": 32})


@pytest.mark.parametrize(("width", "fits"), [(64, True), (100, False)])
def test_a_classifier_of_another_width(width, fits):
    init_default_scope("mmssl_ext")
    model = MODELS.build(
        {
            "type": "ImageClassifier",
            "backbone": BACKBONE,
            "neck": {"type": "GlobalAveragePooling"},
            "head": {"type": "LinearClsHead", "num_classes": 3, "in_channels": width},
        }
    ).eval()
    if fits:
        check_parts(model, torch.zeros(1, 3, 32, 32))
        return
    with pytest.raises(ValueError, match=r"set head\.in_channels to 64"):
        check_parts(model, torch.zeros(1, 3, 32, 32))


def test_out_of_memory_is_no_matter_of_fit():
    class Full(nn.Module):
        def forward(self, images):
            raise torch.cuda.OutOfMemoryError("full")

    model = nn.Module()
    model.backbone = Full()
    with pytest.raises(torch.cuda.OutOfMemoryError):
        check_parts(model, torch.zeros(1, 3, 4, 4))


def test_pooled():
    maps = torch.arange(8.0).reshape(1, 2, 2, 2)
    assert pooled((maps[:, :1], maps)).tolist() == [[1.5, 5.5]]
    assert pooled((maps[0, 0],)).tolist() == maps[0, 0].tolist()
    assert pooled(maps).tolist() == [[1.5, 5.5]]
