"""The methods against each other on the demo scenes: kNN and three dense transfers.

Pretrain each by its demo config first, into work_dirs/<config>; then

    python tools/chain.py configs/chains/demo_methods.py --jobs 2

The transfers are those of `demo.py`. For kNN the backbone keeps the strides of the
pretraining; the detectors and the segmentor have their usual ones.
"""

_base_ = "demo.py"

runs = "work_dirs"

pretrain = None
sources = dict(
    _delete_=True,
    random=None,
    moco=runs + "/mocov2_r18_demo/epoch_30.pth",
    densecl=runs + "/densecl_r18_demo/epoch_30.pth",
    regionclm=runs + "/regionclm_r18_demo/epoch_30.pth",
    detco=runs + "/detco_r18_demo/epoch_30.pth",
    interclr=runs + "/interclr_r18_demo/epoch_30.pth",
)
transfers = dict(
    knn=dict(options={"model.backbone.strides": (1, 2, 2, 1)}),
    linear=dict(options={"model.backbone.strides": (1, 2, 2, 1)}),
)
