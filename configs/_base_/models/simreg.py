"""SimReg: a frozen ResNet teaches, through a head of four layers."""

teacher_checkpoint = "teacher.pth"
teacher_depth = 50
head_layers = 4  # 1: a linear layer

simreg = dict(
    type="SimReg",
    teacher=dict(
        backbone=dict(
            type="ResNet",
            depth=teacher_depth,
            init_cfg=dict(
                type="mmssl_ext.PretrainedBackbone", checkpoint=teacher_checkpoint
            ),
        ),
    ),
    head_layers=head_layers,
)
