"""State beside the weights, all of it in the checkpoint."""

from .momentum_encoder import MomentumEncoder
from .queue import KeyQueue
from .step_counter import StepCounter

__all__ = ["KeyQueue", "MomentumEncoder", "StepCounter"]
