"""A step of training knows where its views were cut and which images they show."""

import pytest
import torch

from tests.harness import config, make_runner, write_images


@pytest.mark.parametrize("augment_on", ["worker", "device"])
def test_boxes_and_index_reach_every_step(tmp_path, augment_on):
    cfg = config(write_images(tmp_path / "images"), tmp_path / "run")
    cfg.train_dataloader.dataset.pipeline[1].augment_on = augment_on
    runner = make_runner(cfg)
    model, step, seen = runner.model, runner.model.step, []

    def spy(inputs, boxes, index):
        assert all(view.dtype == torch.uint8 for view in inputs)
        seen.append((boxes.clone(), index.clone()))
        return step(inputs, boxes, index)

    model.step = spy
    runner.train()
    boxes, index = (torch.cat(found) for found in zip(*seen, strict=True))
    dataset = runner.train_dataloader.dataset
    dataset.set_augmentation_seed(cfg.randomness.seed, 0)  # of the only epoch
    assert sorted(index.tolist()) == list(range(len(dataset)))
    assert index.tolist() != list(range(len(dataset)))
    for row, number in zip(boxes, index.tolist(), strict=True):
        assert torch.equal(row, dataset[number]["boxes"])
    assert boxes.shape == (len(dataset), 2, 4) and boxes.isfinite().all()
    mirrored = boxes[..., 0] > boxes[..., 2]
    assert 0 < mirrored.sum() < mirrored.numel()
