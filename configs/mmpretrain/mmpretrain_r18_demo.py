"""One of mmpretrain's own methods on the demo scenes: minutes on two CPU cores.

`--cfg-options method=SimSiam`, or BarlowTwins, MoCoV3, SimCLR, SwAV. The classes are
mmpretrain's; data, schedule, monitors, checkpoints and transfer are those of all other
configs. Projectors and predictors are small, and the optimizer is SGD.
"""

_base_ = "../_base_/r18_demo.py"

method = "BYOL"
hid_channels = 512
out_channels = 128
num_prototypes = 64  # of SwAV
# BarlowTwins adds up all features' losses, of which others take the mean.
lr = 0.005 if method == "BarlowTwins" else 0.06

mlp = dict(
    type="NonLinearNeck",
    hid_channels=hid_channels,
    out_channels=out_channels,
    num_layers=2,
    norm_cfg=dict(type="BN1d"),  # mmpretrain's default is SyncBN
)
projector = dict(mlp, in_channels=_base_.backbone_channels, with_last_bn_affine=False)
predictor = dict(
    mlp,
    in_channels=out_channels,
    with_avg_pool=False,
    with_last_bn=False,
    with_last_bias=True,
)
cosine = dict(
    type="LatentPredictHead",
    loss=dict(type="CosineSimilarityLoss"),
    predictor=predictor,
)
parts = dict(
    BYOL=dict(neck=projector, head=cosine, base_momentum=0.01),
    SimSiam=dict(neck=projector, head=cosine),
    BarlowTwins=dict(
        neck=projector,
        head=dict(
            type="LatentCrossCorrelationHead",
            in_channels=out_channels,
            loss=dict(type="CrossCorrelationLoss"),
        ),
    ),
    MoCoV3=dict(
        neck=projector,
        head=dict(
            type="MoCoV3Head",
            predictor=predictor,
            loss=dict(type="CrossEntropyLoss", loss_weight=2 * 0.2),
            temperature=0.2,
        ),
        base_momentum=0.01,
    ),
    SimCLR=dict(
        neck=projector,
        head=dict(
            type="ContrastiveHead",
            loss=dict(type="CrossEntropyLoss"),
            temperature=0.5,
        ),
    ),
    SwAV=dict(
        neck=dict(
            type="SwAVNeck",
            in_channels=_base_.backbone_channels,
            hid_channels=hid_channels,
            out_channels=out_channels,
            norm_cfg=dict(type="BN1d"),
        ),
        head=dict(
            type="SwAVHead",
            loss=dict(
                type="SwAVLoss",
                feat_dim=out_channels,
                num_prototypes=num_prototypes,
                num_crops=[2, 0],
            ),
        ),
    ),
)
model = dict(type=f"mmpretrain.{method}", **parts[method])
