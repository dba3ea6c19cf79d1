"""Detection of blood cells (BCCD, VOC layout) from what `bccd_run.py` pretrained.

    BCCD_ROOT=DIR BCCD_RUNS=OUT python tools/chain.py benchmarks/bccd.py

BCCD_ROOT holds `VOCdevkit/VOC2007`, with 292 images in `trainval` and 72 in `test`.
"""

runs = "{{$BCCD_RUNS:-}}"  # without it, detectors from random weights alone
sources = {
    "random": None,
    **{
        name: f"{runs}/{name}.pth"
        for name in ("co2_demo", "distilled", "co2", "byol")
        if runs != "-"
    },
}
seeds = (0, 1, 2)
transfers = dict(
    voc=dict(
        config="configs/transfer/detection/faster_rcnn_r50_fpn_voc0712.py",
        title="Blood cells (BCCD), VOC layout",
        options=dict(
            depth=18,
            base_channels=32,
            data_root="{{$BCCD_ROOT:data/bccd_voc}}/VOCdevkit",
            classes=("RBC", "WBC", "Platelets"),
            train_splits=(("VOC2007", "trainval"),),
            short_sides=(192, 208, 224),
            test_size=208,
            max_size=400,
            batch_size=4,
            num_workers=1,
            lr=0.005,
            max_iters=300,
            val_interval=300,
            fpn_channels=64,
            fc_channels=128,
            rpn_samples=64,
            roi_samples=64,
            anchor_sizes=(16, 32, 64, 128, 256),
        ),
    ),
)
