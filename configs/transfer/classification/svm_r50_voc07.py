"""VOC07 classification: a linear SVM per class on frozen res5 features, mAP on test.

Protocol: Goyal et al. (arXiv 1905.01235 and its code): LinearSVC, class weights 2 and
1, L2-normalised features, the cost of each class chosen from 26 by 3-fold
cross-validation on trainval, difficult images ignored. The features are those of
OpenSelfSup: image stretched to 224 x 224, four 6 x 6 averages of res5, 8192 values.
Targets, mAP: MoCo v2 84.26, v1 79.18 (OpenSelfSup model zoo); v2 84.04 (mmselfsup).

Differs: images with only difficult objects of a class are ignored in training too.
Averages of the whole map instead: `pool_kernel=None`. Needs scikit-learn.

Read are `data_root/folder/` with `ImageSets/Main/<split>.txt`, `Annotations/*.xml` and
`JPEGImages/*<img_suffix>`. Set the environment variable VOC_ROOT, or `data_root`.

    python tools/train.py configs/transfer/classification/svm_r50_voc07.py
"""

_base_ = "../_base_/classification/backbone.py"
from mmssl_ext.backbones import network

resnet = network(_base_.backbone, "resnet")  # other backbones are refused

data_root = "{{$VOC_ROOT:data/VOCdevkit}}"
folder = "VOC2007"
train_split = "trainval"
test_split = "test"
img_suffix = ".jpg"
classes = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair"),
    *("cow", "diningtable", "dog", "horse", "motorbike", "person", "pottedplant"),
    *("sheep", "sofa", "train", "tvmonitor"),
)
resize = 256  # short side, before the image is stretched to image_size x image_size
image_size = 224
# Mean of each 6 x 6 window of the 7 x 7 map: 4 x 2048 features. None: 1 x 2048.
pool_kernel = 6
costs = None  # None: 10^-7 to 10^2 and 2^-19 to 2^-4
jobs = -1  # processes that train SVMs; -1: one per core
batch_size = 64  # per GPU
num_workers = 8

pipeline = [
    dict(type="DecodeImage", backend="pil"),  # for torchvision's Resize
    dict(type="ResizeShort", size=resize),
    dict(type="torchvision/Resize", size=(image_size, image_size)),
    dict(type="PackViews"),
]
loader = dict(
    batch_size=batch_size,
    num_workers=num_workers,
    sampler=dict(type="DefaultSampler", shuffle=False),
    collate_fn=dict(type="default_collate"),
)
labelled = dict(
    type="VOCLabels",
    root=data_root + "/" + folder,
    classes=classes,
    img_suffix=img_suffix,
    pipeline=pipeline,
)
test_dataloader = dict(**loader, dataset=dict(**labelled, split=test_split))
test_evaluator = []  # the loop computes the figures
test_cfg = dict(
    type="SVMTestLoop",
    train_dataloader=dict(**loader, dataset=dict(**labelled, split=train_split)),
    pool_kernel=pool_kernel,
    costs=costs,
    jobs=jobs,
)
default_hooks = dict(result=dict(metrics=dict(mAP="svm/mAP")))
