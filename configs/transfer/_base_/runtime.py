"""What every transfer run shares: hooks, logs, seed.

The hooks are those of pretraining where they fit, so a run is watched, guarded and
resumed alike. `handover` proves that the pretrained weights stand in the model,
`result` writes result.json, `pictures` draws predictions.
"""

# BatchNorm over all GPUs; on one device it stays what it is.
sync_bn = "torch"

default_hooks = dict(
    # From mmengine
    timer=dict(type="IterTimerHook"),
    logger=dict(type="LoggerHook", interval=50),
    param_scheduler=dict(type="ParamSchedulerHook"),
    sampler_seed=dict(type="DistSamplerSeedHook"),
    # From mmssl_ext; `--cfg-options default_hooks.NAME=None` switches one off
    checkpoint=dict(type="mmssl_ext.PlainCheckpointHook", max_keep_ckpts=1),
    resume=dict(type="mmssl_ext.ExactResumeHook"),
    weights=dict(type="mmssl_ext.LoadedWeightsHook"),
    preemption=dict(type="mmssl_ext.PreemptionHook"),
    guard=dict(type="mmssl_ext.NonFiniteGuardHook"),
    progress=dict(type="mmssl_ext.ProgressHook"),
    handover=dict(type="mmssl_ext.HandoverHook"),
    pictures=dict(type="mmssl_ext.PicturesHook", num_images=8),
    result=dict(type="mmssl_ext.ResultHook"),
)

env_cfg = dict(
    cudnn_benchmark=False,  # images come in many sizes
    mp_cfg=dict(mp_start_method="fork", opencv_num_threads=0),
    dist_cfg=dict(backend="nccl"),
)
vis_backends = [dict(type="LocalVisBackend")]
log_level = "INFO"
load_from = None
resume = False
randomness = dict(seed=0)
