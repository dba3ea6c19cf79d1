"""The picture of composed backgrounds."""

from __future__ import annotations

import numpy as np
import torch

from mmssl_ext.run.launch import load_config
from tests.harness import write_images
from tests.models.common import build, model_config
from tests.visualization import pictures


def test_masks_and_changed_views_are_drawn(tmp_path):
    images = write_images(tmp_path / "images", per_class=2)
    pictures.write_config(tmp_path, "BGSwaps", model_config("BGSwaps"))
    cfg = load_config(tmp_path / "BGSwaps.py")
    steps = cfg.train_dataloader.dataset.pipeline
    mask = dict(type="LoadMask", masks="border")
    donors = dict(type="ImageFolder", root=str(images), pipeline=[steps[0], mask])
    view = steps[1].views[0]
    change = dict(type="RandomBackground", mode="remove", prob=0.25, valid=(0, 1))
    swap = dict(type="SwapSubject", donors=donors, valid=(0, 1))
    steps[1].views = [view, [view[0], change, view[1]], [view[0], swap, view[1]]]
    cfg.train_dataloader.dataset.pipeline = [steps[0], mask, *steps[1:]]
    cfg.dump(tmp_path / "BGSwaps.py")
    torch.save({"state_dict": build("BGSwaps").state_dict()}, tmp_path / "BGSwaps.pth")
    given = pictures.subject(tmp_path, "BGSwaps", num=3)
    sheet = pictures.draw(given)
    found = pictures.texts(sheet)
    assert "BGSwaps: subjects before other backgrounds" in found
    for head in ("image", "mask", "view 1, as it is", "view 2", "negative"):
        assert head in found
    assert any("in training 25% of them" in text for text in found)
    assert sheet.axes.shape == (3, 5)
    for row in sheet.axes:
        tiles = [np.asarray(ax.images[0].get_array()) for ax in row]
        shares = tiles[1] > 127
        changed = tiles[3]
        assert shares.any() and not shares.all()
        # Noise without a mean: what became gray is flat.
        grays, counts = np.unique(changed.reshape(-1, 3), axis=0, return_counts=True)
        assert np.ptp(grays[counts.argmax()]) == 0 and counts.max() > changed.size / 60
    (made,) = (step for step in given.pipeline if hasattr(step, "pipelines"))
    assert made.pipelines[1][1].prob == 0.25  # the pipeline itself stays
