"""What every pretraining run shares: hooks, logs, seed."""

default_scope = "mmssl_ext"

default_hooks = dict(
    # From mmengine
    timer=dict(type="IterTimerHook"),
    logger=dict(type="LoggerHook", interval=50),
    param_scheduler=dict(type="ParamSchedulerHook"),
    sampler_seed=dict(type="DistSamplerSeedHook"),
    # From mmssl_ext; `--cfg-options default_hooks.NAME=None` switches one off
    runtime_info=dict(type="DeferredRuntimeInfoHook"),
    performance=dict(type="PerformanceHook"),
    checkpoint=dict(type="PlainCheckpointHook", interval=10, max_keep_ckpts=3),
    resume=dict(type="ExactResumeHook"),
    weights=dict(type="LoadedWeightsHook"),
    preemption=dict(type="PreemptionHook"),
    augmentation_seed=dict(type="AugmentationSeedHook"),
    input_check=dict(type="InputCheckHook"),
    guard=dict(type="NonFiniteGuardHook"),
    collapse=dict(type="CollapseMonitorHook", interval=50),
    unreadable=dict(type="UnreadableImagesHook"),
    progress=dict(type="ProgressHook"),
    learned=dict(type="LearnedPicturesHook"),
    report=dict(type="ReportHook"),
)

env_cfg = dict(
    cudnn_benchmark=True,
    mp_cfg=dict(mp_start_method="fork", opencv_num_threads=0),
    dist_cfg=dict(backend="nccl"),
)
vis_backends = [dict(type="LocalVisBackend")]
visualizer = dict(type="Visualizer", vis_backends=vis_backends)
log_level = "INFO"
load_from = None
resume = False
randomness = dict(seed=0)
