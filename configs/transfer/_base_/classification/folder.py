"""Any folder in ImageNet's layout, as the classifier sees it in the test.

`data_root/train_folder/<class>/*.JPEG` to learn from, `data_root/test_folder/<class>/`
to test on. Set the environment variable IMAGENET_ROOT, or `data_root`.
"""

_base_ = "backbone.py"

data_root = "{{$IMAGENET_ROOT:data/imagenet}}"
train_folder = "train"
test_folder = "val"
classes = None  # names of class folders; None: all folders in train_folder
num_classes = len(classes) if classes else 1000
image_size = 224
resize = 256  # short side of a test image before the central crop
num_workers = 8

train_root = data_root + "/" + train_folder
test_root = data_root + "/" + test_folder
test_pipeline = [
    _base_.decoder,
    dict(type="ResizeShort", size=resize),
    dict(type="CenterCrop", size=image_size),
    dict(type="PackViews"),
]
labelled = dict(
    type="LabelledFolder",
    classes=classes,
    classes_from=train_root,
    num_classes=num_classes,
)
loader = dict(
    num_workers=num_workers,
    sampler=dict(type="DefaultSampler", shuffle=False),
    collate_fn=dict(type="default_collate"),
)
topk = (1, 5) if num_classes > 5 else (1,)
