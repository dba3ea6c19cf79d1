"""Source checkpoints for the transfer tests."""

from __future__ import annotations

from pathlib import Path

import torch
from mmpretrain.models import ResNet
from torch import Tensor


def backbone_state(depth: int = 18, base_channels: int = 16) -> dict[str, Tensor]:
    """A ResNet's state with statistics and weights unlike any initialisation."""
    state = ResNet(
        depth, stem_channels=base_channels, base_channels=base_channels
    ).state_dict()
    generator = torch.Generator().manual_seed(depth + base_channels)
    return {
        name: torch.tensor(7)
        if name.endswith("num_batches_tracked")
        else torch.rand(value.shape, generator=generator) * 0.1 + 0.01
        for name, value in state.items()
    }


def source_checkpoint(
    path: Path, depth: int = 18, base_channels: int = 16
) -> dict[str, Tensor]:
    """Write a pretraining checkpoint in our own layout.

    The target's tensors differ from the query's.

    Returns:
        The state of the query backbone, by the names of the backbone.
    """
    state = backbone_state(depth, base_channels)
    full = {f"backbone.{name}": value for name, value in state.items()}
    full |= {f"target.backbone.{name}": value + 1 for name, value in state.items()}
    full |= {"neck.fc0.weight": torch.zeros(4, 4)}
    full |= {"compare.queue.keys": torch.zeros(8, 4)}
    torch.save({"state_dict": full, "meta": {"epoch": 1}}, path)
    return state
