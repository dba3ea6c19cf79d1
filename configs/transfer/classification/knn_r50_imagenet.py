"""ImageNet kNN: k = 200 training images vote, weight exp(similarity / 0.1).

Protocol: instance discrimination (arXiv 1805.01978, section 3.4), on the globally
pooled backbone features. Nothing is trained.
Target, top-1: MoCo v2 55.7 at k = 20 (mmselfsup model zoo).

Differs: k = 200 and a temperature of 0.1, as in the MoCo CIFAR demo and the kNN of
pretraining. All training features lie in host memory, 10 GB; `bank_images` bounds them.

    python tools/train.py configs/transfer/classification/knn_r50_imagenet.py
"""

_base_ = "../_base_/classification/backbone.py"

data_root = "{{$IMAGENET_ROOT:data/imagenet}}"
train_folder = "train"
test_folder = "val"
classes = None  # names of class folders; None: all folders in train_folder
num_classes = len(classes) if classes else 1000
image_size = 224
resize = 256
batch_size = 256  # per GPU
num_workers = 8
bank_images = None  # so many training images, evenly spaced; None: all
k = 200
temperature = 0.1

labelled = dict(
    type="LabelledFolder",
    classes=classes,
    classes_from=data_root + "/" + train_folder,
    num_classes=num_classes,
    pipeline=[
        dict(type="DecodeImage"),
        dict(type="ResizeShort", size=resize),
        dict(type="CenterCrop", size=image_size),
        dict(type="PackViews"),
    ],
)
loader = dict(
    batch_size=batch_size,
    num_workers=num_workers,
    sampler=dict(type="DefaultSampler", shuffle=False),
    collate_fn=dict(type="default_collate"),
)
test_dataloader = dict(
    **loader, dataset=dict(**labelled, root=data_root + "/" + test_folder)
)
test_evaluator = []  # the loop computes the figures
test_cfg = dict(
    type="KNNTestLoop",
    train_dataloader=dict(
        **loader,
        dataset=dict(
            **labelled, root=data_root + "/" + train_folder, max_images=bank_images
        ),
    ),
    k=k,
    temperature=temperature,
)
topk = (1, 5) if num_classes > 5 else (1,)
default_hooks = dict(
    result=dict(metrics={f"top{n}": f"knn/top{n}" for n in topk}),
)
