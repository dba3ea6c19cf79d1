"""Semi-supervised ImageNet: fine-tune all layers on 10 % of the labels.

Protocol, source and differences: those of semi_r50_imagenet_1pct.py.
Targets, top-1 / top-5: MoCo v2 61.80 / 85.11, v1 60.08 / 84.02 (OpenSelfSup model zoo).

    tools/dist_train.sh configs/transfer/classification/semi_r50_imagenet_10pct.py 4 \
        --cfg-options list_file=data/imagenet/10percent.txt
"""

_base_ = "./semi_r50_imagenet_1pct.py"

fraction = 0.1
list_file = None

train_dataloader = dict(
    dataset=dict(fraction=None if list_file else fraction, list_file=list_file)
)
