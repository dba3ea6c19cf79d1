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

classification = "configs/transfer/classification/"
detection = "configs/transfer/detection/"
segmentation = "configs/transfer/segmentation/"

transfers = dict(
    # ImageNet
    knn=dict(config=classification + "knn_r50_imagenet.py", title="ImageNet kNN"),
    linear=dict(
        config=classification + "linear_r50_imagenet.py", title="ImageNet linear probe"
    ),
    semi_1pct=dict(
        config=classification + "semi_r50_imagenet_1pct.py",
        title="ImageNet, 1 % of the labels",
    ),
    semi_10pct=dict(
        config=classification + "semi_r50_imagenet_10pct.py",
        title="ImageNet, 10 % of the labels",
    ),
    # PASCAL VOC
    svm=dict(config=classification + "svm_r50_voc07.py", title="VOC07 linear SVM"),
    svm_lowshot=dict(
        config=classification + "svm_lowshot_r50_voc07.py", title="VOC07 low-shot SVM"
    ),
    voc_c4=dict(
        config=detection + "faster_rcnn_r50_c4_voc0712.py", title="VOC07+12 R50-C4"
    ),
    voc_fpn=dict(
        config=detection + "faster_rcnn_r50_fpn_voc0712.py", title="VOC07+12 R50-FPN"
    ),
    voc_fcn=dict(config=segmentation + "fcn_r50_voc12aug.py", title="VOC12Aug FCN"),
    # COCO
    coco_fpn_1x=dict(
        config=detection + "mask_rcnn_r50_fpn_coco_1x.py",
        title="COCO Mask R-CNN R50-FPN 1x",
    ),
    coco_fpn_2x=dict(
        config=detection + "mask_rcnn_r50_fpn_coco_2x.py",
        title="COCO Mask R-CNN R50-FPN 2x",
    ),
    coco_c4_1x=dict(
        config=detection + "mask_rcnn_r50_c4_coco_1x.py",
        title="COCO Mask R-CNN R50-C4 1x",
    ),
    coco_c4_2x=dict(
        config=detection + "mask_rcnn_r50_c4_coco_2x.py",
        title="COCO Mask R-CNN R50-C4 2x",
    ),
    coco_retinanet=dict(
        config=detection + "retinanet_r50_fpn_coco_1x.py", title="COCO RetinaNet 1x"
    ),
    coco_fcos=dict(config=detection + "fcos_r50_fpn_coco_1x.py", title="COCO FCOS 1x"),
    # Cityscapes
    city_instance=dict(
        config=detection + "mask_rcnn_r50_fpn_cityscapes.py",
        title="Cityscapes Mask R-CNN",
    ),
    city_fcn_40k=dict(
        config=segmentation + "fcn_r50_cityscapes_40k.py", title="Cityscapes FCN 40k"
    ),
    city_fcn_80k=dict(
        config=segmentation + "fcn_r50_cityscapes_80k.py", title="Cityscapes FCN 80k"
    ),
    city_upernet_40k=dict(
        config=segmentation + "upernet_r50_cityscapes_40k.py",
        title="Cityscapes UperNet 40k",
    ),
    city_upernet_80k=dict(
        config=segmentation + "upernet_r50_cityscapes_80k.py",
        title="Cityscapes UperNet 80k",
    ),
)
