"""What every segmentation run shares: mmseg's scope, iterations, mIoU as the result."""

_base_ = "../runtime.py"

default_scope = "mmseg"
custom_imports = dict(
    imports=["mmssl_ext.transfer.segmentation"], allow_failed_imports=False
)
log_processor = dict(by_epoch=False)
visualizer = dict(
    type="SegLocalVisualizer",
    name="visualizer",
    vis_backends=_base_.vis_backends,
    alpha=0.6,
)
default_hooks = dict(
    logger=dict(log_metric_by_epoch=False),
    checkpoint=dict(by_epoch=False),
    result=dict(metrics=dict(mIoU="mIoU", mAcc="mAcc", aAcc="aAcc")),
)
val_cfg = dict(type="ValLoop")
test_cfg = dict(type="TestLoop")
