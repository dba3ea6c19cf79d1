"""DenseCL, ResNet-50, COCO without labels, 800 epochs, 8 GPUs x 32 (arXiv 2011.09157).

Set the environment variable COCO_ROOT, or edit `data_root`. Published: VOC detection
56.7 AP (MoCo v2 on COCO: 54.7), VOC segmentation 67.5 mIoU (64.5). There is no kNN,
because COCO has no image classes; name labelled folders in `default_hooks.knn` for it.
"""

_base_ = "densecl_r50_imagenet.py"

data_root = "{{$COCO_ROOT:data/coco}}"
train_folder = "train2017"
max_epochs = 800
lr = 0.3

default_hooks = dict(knn=None)
