"""State beside the weights, all of it in the checkpoint."""

from .momentum_encoder import MomentumEncoder
from .queue import KeyQueue

__all__ = ["KeyQueue", "MomentumEncoder"]
