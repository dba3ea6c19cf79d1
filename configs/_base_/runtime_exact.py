"""The exact runtime: float32 throughout and deterministic kernels, for comparisons.

Against default_runtime.py: no TF32, no search for the fastest kernels (which may choose
others in the next run), deterministic kernels where torch has them (a warning names an
operation that has none), the queue's softmax in public ops. Name it in the `_base_`
line of a dataset's base, e.g. of datasets/imagenet.py.
"""

_base_ = "default_runtime.py"

optim_wrapper = dict(type="OptimWrapper")
default_hooks = dict(
    performance=dict(tf32="none", deterministic=True, fused_queue=False)
)
env_cfg = dict(cudnn_benchmark=False)
