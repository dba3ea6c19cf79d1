"""What a model needs to know about its run."""

from mmssl_ext.moved import names_of

__getattr__ = names_of(__name__, "engine.training.state")
