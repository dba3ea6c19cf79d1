"""One method on the demo scenes, for benchmarks/methods.py, which runs them all.

    METHOD=densecl SEED=1 python tools/chain.py configs/chains/demo_methods.py

The transfers are those of `demo_full.py`, without its COCO stage, or with TRANSFERS=few
without both stages of training a detector or segmentor. The pretraining has 10
epochs instead of 30, so that all sources with three seeds take hours and not a day;
every method keeps the last stage at its resolution, and kNN and the linear probe too.
Dense methods have views of 112 px, for 7 x 7 cells, and so have `mocov2_112` and
`byol_112`, to compare them with; kNN and the probe see images as large as the views.
Detection and segmentation see scenes of the same size after all of them.
"""

_base_ = "demo_full.py"

# Or random, or another <method>_r18_demo.py below configs/: co2, detco, msf ... with
# _112 behind it for larger views.
method = "{{$METHOD:mocov2}}"
few = "{{$TRANSFERS:all}}" == "few"
number = int("{{$SEED:0}}")  # of the pretraining and of the transfers
max_epochs = 10
base = method.removesuffix("_112")
dense = (
    *("pixpro", "pixcontrast", "densesiam", "dsc-pm", "dsc-km"),
    *("lcloss_mocov2", "lcloss_byol", "lcloss_simsiam"),
)
view = 112 if method != base or method in dense else 64  # px

folders = {  # of the config, where it is not the method's name
    "regionclm": "regioncl",
    "cmsf-2q": "cmsf",
    "cmsf-km": "cmsf",
    "unmix_mocov2": "unmix",
    "unmix_byol": "unmix",
    "lcloss_mocov2": "lcloss",
    "lcloss_byol": "lcloss",
    "lcloss_simsiam": "lcloss",
    "pixcontrast": "pixpro",
    "dsc-pm": "dsc",
    "dsc-km": "dsc",
    "bgswaps": "bgaug",
}
shortened = dict(interclr=dict(warmup_epochs=4), co2=dict(strides=_base_.strides))
pretrain = (
    None
    if method == "random"
    else dict(
        _delete_=True,
        config=f"configs/{folders.get(base, base)}/{base}_r18_demo.py",
        title=f"{method}, {max_epochs} epochs",
        options={
            "max_epochs": max_epochs,
            "randomness.seed": number,
            **({} if method == base else {"image_size": view}),
            **shortened.get(base, {}),
        },
    )
)
encoder = "key" if base in ("dino", "scfs") else "query"  # their teachers
sources = {"_delete_": True, method: None if method == "random" else "pretrain"}
seeds = (number,)
transfers = dict(
    knn=dict(options=dict(encoder=encoder, image_size=view, resize=view)),
    linear=dict(options=dict(encoder=encoder, image_size=view, resize=view * 3 // 2)),
    coco=None,  # switched off
    voc=None if few else dict(options=dict(encoder=encoder)),
    cityscapes=None
    if few
    else dict(options=dict(encoder=encoder, max_iters=150, val_interval=75)),
)
