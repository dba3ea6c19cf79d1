"""The fast runtime, for large runs on GPUs: ImageNet's base builds on it.

Against default_runtime.py: bfloat16 autocast, channels_last, a fused optimizer, copies
to the GPU beside the step, losses checked as often as logged. The switches are below;
`--cfg-options precision=float32` and the like work from the command line. Where bit for
bit the same result counts more than time, build on runtime_exact.py instead.

On the CPU training is in float32. A GPU without bfloat16 gets float16 with a dynamic
loss scale. Both are noted in the log, whose line `Runtime: ...` has it all.
"""

_base_ = "default_runtime.py"

precision = "bfloat16"  # or "float16", "float32"
channels_last = True
tf32 = "conv"  # what stays in float32: "none", "conv" or "all", see PerformanceHook
prefetch = True
compile_encoders = None  # or what torch.compile takes, e.g. dict(); minutes at first
# The optimizers of torch know `fused`. For another one, e.g. LARS, replace the whole:
# optimizer=dict(_delete_=True, type="LARS", lr=...). Else the run stops at once with
# "optim_wrapper.optimizer.fused: LARS has no option 'fused'".
fused = True

optim_wrapper = (
    dict(type="OptimWrapper", optimizer=dict(fused=fused))
    if precision == "float32"
    else dict(
        type="AmpOptimWrapper",
        dtype=precision,
        # bfloat16 has the range of float32: its gradients need no scaling, and so no
        # step waits for the device to know whether they overflowed.
        loss_scale=dict(enabled=precision == "float16"),
        optimizer=dict(fused=fused),
    )
)
default_hooks = dict(
    guard=dict(interval=50),
    performance=dict(
        channels_last=channels_last,
        tf32=tf32,
        prefetch=prefetch,
        compile=compile_encoders,
    ),
)
env_cfg = dict(cudnn_benchmark=True)
