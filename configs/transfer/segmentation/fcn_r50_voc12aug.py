"""FCN with output stride 8, VOC12 train + Aug -> val, 20k iterations.

Protocol: DenseCL (arXiv 2011.09157) as kept in mmselfsup's configs (benchmarks/
mmsegmentation/voc12aug/fcn_r50-d8_512x512_20k_voc12aug.py): 4 GPUs x 4 images, crop
512, whole images in the test, auxiliary FCN head of weight 0.4.

Target mIoU, ImageNet, 200 epochs: MoCo v2 67.5 (DenseCL's README, mean of 5 runs) and
67.55 (mmselfsup's zoo); DenseCL 69.4 and 69.47; supervised 67.7 (an older README of
DenseCL). Users of DenseCL report 45 to 47 without the Aug images (its issue 19).

Differs from mmselfsup 1.x: the preprocessor pads after normalisation, as mmselfsup 0.x
did, not a Pad in the pipeline before it.

    python tools/train.py configs/transfer/segmentation/fcn_r50_voc12aug.py \
        --cfg-options checkpoint=work_dirs/RUN/epoch_200.pth data_root=data/VOCdevkit
"""

_base_ = [
    "../_base_/segmentation/data.py",
    "../_base_/segmentation/fcn_d8.py",
]

data_root = "{{$VOC_ROOT:data/VOCdevkit}}"
release = "VOC2012"  # folder below data_root; "" for none
# List of names without suffix and folder of the label maps; any number of such pairs
train_splits = [
    ("ImageSets/Segmentation/train.txt", "SegmentationClass"),
    ("ImageSets/Segmentation/aug.txt", "SegmentationClassAug"),
]
val_split = ("ImageSets/Segmentation/val.txt", "SegmentationClass")
image_folder = "JPEGImages"
img_suffix = ".jpg"
seg_map_suffix = ".png"

dataset = dict(
    **_base_.dataset,
    data_root=f"{data_root}/{release}",
    img_suffix=img_suffix,
    seg_map_suffix=seg_map_suffix,
)
train_dataloader = dict(
    dataset=dict(
        type="ConcatDataset",
        datasets=[
            dict(
                **dataset,
                ann_file=names,
                data_prefix=dict(img_path=image_folder, seg_map_path=labels),
                pipeline=_base_.train_pipeline,
            )
            for names, labels in train_splits
        ],
    ),
)
val_dataloader = dict(
    dataset=dict(
        **dataset,
        ann_file=val_split[0],
        data_prefix=dict(img_path=image_folder, seg_map_path=val_split[1]),
        test_mode=True,
        pipeline=_base_.test_pipeline,
    ),
)
test_dataloader = val_dataloader

optim_wrapper = _base_.finetuning
model = _base_.fitted
