"""SimReg, ResNet-18 from a ResNet-50, ImageNet, 130 epochs, 8 GPUs x 32 images.

The official recipe (arXiv 2201.05131): the teacher is MoCo v2's ResNet-50 of 800
epochs, published for the student: linear probe 65.1 top-1, 1-NN 54.8 (the teacher: 71.1
and 57.3). Any checkpoint that `mmssl_ext.PretrainedBackbone` reads can be the teacher.
"""

_base_ = ["../_base_/r50_imagenet.py", "../_base_/models/simreg.py"]

teacher_checkpoint = "moco_v2_800ep_pretrain.pth"
teacher_depth = 50
depth = 18
max_epochs = 130
lr = 0.05

model = dict(**_base_.simreg)

view = [_base_.crop, _base_.flip]
train_pipeline = [
    _base_.decoder,
    dict(type="MakeViews", views=[view], augment_on=_base_.augment_on),
    dict(type="PackViews"),
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
