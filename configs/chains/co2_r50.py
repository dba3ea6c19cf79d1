"""CO2 R50 on ImageNet for 200 epochs, then every transfer of configs/transfer.

    tools/chain.py configs/chains/co2_r50.py                      # one machine, in turn
    tools/slurm_chain.sh configs/chains/co2_r50.py PARTITION      # a cluster, at once

Data roots come from IMAGENET_ROOT, VOC_ROOT, COCO_ROOT and CITYSCAPES_ROOT, see the
configs. `--only voc_c4 city_fcn_40k` runs some transfers, `--dry-run` checks all before
days of training. To compare with other weights, add their file to `sources`: every
transfer then also starts from them.
"""

pretrain = dict(config="configs/co2/co2_r50_imagenet.py", title="CO2 R50, 200 epochs")

sources = {"random": None, "co2": "pretrain"}

coco_2x = dict(max_iters=180_000, val_interval=30_000)
city_80k = dict(max_iters=80_000)
changes = dict(
    semi_10pct=dict(fraction=0.1),
    coco_fpn_2x=coco_2x,
    coco_c4_2x=coco_2x,
    city_fcn_80k=city_80k,
    city_upernet_80k=city_80k,
)
classification = dict(
    knn=("knn_r50_imagenet", "ImageNet kNN"),
    linear=("linear_r50_imagenet", "ImageNet linear probe"),
    semi_1pct=("semi_r50_imagenet_1pct", "ImageNet, 1 % of the labels"),
    semi_10pct=("semi_r50_imagenet_1pct", "ImageNet, 10 % of the labels"),
    svm=("svm_r50_voc07", "VOC07 linear SVM"),
    svm_lowshot=("svm_lowshot_r50_voc07", "VOC07 low-shot SVM"),
)
detection = dict(
    voc_c4=("faster_rcnn_r50_c4_voc0712", "VOC07+12 R50-C4"),
    voc_fpn=("faster_rcnn_r50_fpn_voc0712", "VOC07+12 R50-FPN"),
    coco_fpn_1x=("mask_rcnn_r50_fpn_coco_1x", "COCO Mask R-CNN R50-FPN 1x"),
    coco_fpn_2x=("mask_rcnn_r50_fpn_coco_1x", "COCO Mask R-CNN R50-FPN 2x"),
    coco_c4_1x=("mask_rcnn_r50_c4_coco_1x", "COCO Mask R-CNN R50-C4 1x"),
    coco_c4_2x=("mask_rcnn_r50_c4_coco_1x", "COCO Mask R-CNN R50-C4 2x"),
    coco_retinanet=("retinanet_r50_fpn_coco_1x", "COCO RetinaNet 1x"),
    coco_fcos=("fcos_r50_fpn_coco_1x", "COCO FCOS 1x"),
    city_instance=("mask_rcnn_r50_fpn_cityscapes", "Cityscapes Mask R-CNN"),
)
segmentation = dict(
    voc_fcn=("fcn_r50_voc12aug", "VOC12Aug FCN"),
    city_fcn_40k=("fcn_r50_cityscapes_40k", "Cityscapes FCN 40k"),
    city_fcn_80k=("fcn_r50_cityscapes_40k", "Cityscapes FCN 80k"),
    city_upernet_40k=("upernet_r50_cityscapes_40k", "Cityscapes UperNet 40k"),
    city_upernet_80k=("upernet_r50_cityscapes_40k", "Cityscapes UperNet 80k"),
)
kinds = dict(
    classification=classification, detection=detection, segmentation=segmentation
)
transfers = {
    name: dict(
        config=f"configs/transfer/{kind}/{config}.py",
        title=title,
        options=changes.get(name, {}),
    )
    for kind, stages in kinds.items()
    for name, (config, title) in stages.items()
}
