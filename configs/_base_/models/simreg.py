"""SimReg: a frozen network teaches, through a head of four layers.

The teacher is a ResNet by `teacher_depth`, or any backbone by
`teacher_backbone="convnext-tiny"`; docs/change_the_backbone.md names them.
"""

_base_ = []
from mmssl_ext.backbones import network

teacher_checkpoint = "teacher.pth"
teacher_depth = 50
teacher_backbone = f"resnet{teacher_depth}"
head_layers = 4  # 1: a linear layer

simreg = dict(
    type="SimReg",
    teacher=dict(
        backbone=dict(
            network(teacher_backbone)["backbone"],
            init_cfg=dict(
                type="mmssl_ext.PretrainedBackbone", checkpoint=teacher_checkpoint
            ),
        ),
    ),
    head_layers=head_layers,
)
