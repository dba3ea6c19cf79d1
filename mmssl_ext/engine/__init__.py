"""What happens in a run: config, checkpoints, resilience, monitoring."""

from mmssl_ext.moved import names_of

__getattr__ = names_of(__name__, "errors", "engine.hooks", "run.runner")
