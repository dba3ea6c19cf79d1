"""The smallest run that mmengine can train, for tests of hooks around the loop."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.model import BaseModel
from mmengine.runner import Runner

BATCH = 4


class ToyData(torch.utils.data.Dataset):
    root = "data/toys"

    def __len__(self) -> int:
        return 24

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"inputs": torch.tensor([float(index)]), "data_samples": index}


class ToyModel(BaseModel):
    def __init__(self) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(1, 1)

    def forward(self, inputs: Any, data_samples: Any, mode: str) -> dict:
        return {"loss_instance": self.linear(inputs).square().mean()}


def toy_runner(work_dir: Path, name: str, *hooks: Any, epochs: int = 2) -> Runner:
    """Build a run of 6 iterations per epoch; ``name`` must be new in the process."""
    data = torch.utils.data.DataLoader(ToyData(), batch_size=BATCH)
    return Runner(
        model=ToyModel(),
        work_dir=str(work_dir),
        train_dataloader=data,
        train_cfg={"by_epoch": True, "max_epochs": epochs},
        optim_wrapper={"optimizer": {"type": "SGD", "lr": 1e-4}},
        default_hooks={
            "logger": {"type": "LoggerHook", "interval": 2},
            "checkpoint": None,
        },
        custom_hooks=list(hooks),
        randomness={"seed": 3},
        experiment_name=name,
        default_scope="mmengine",
        cfg=Config({"work_dir": str(work_dir)}),
    )
