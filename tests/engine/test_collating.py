"""Images that come out of a pipeline in different sizes."""

from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.dataset import default_collate
from mmpretrain.structures import DataSample
from PIL import Image

from mmssl_ext.datasets.base import build_pipeline
from mmssl_ext.engine.resilience.collating import ImageSizesError, SizedCollate
from mmssl_ext.errors import UserError
from mmssl_ext.run.launch import load_config
from tests.harness import config, loader, make_runner, write_images

CONFIGS = Path(__file__).parents[2] / "configs"
DEMOS = sorted(str(path.relative_to(CONFIGS)) for path in CONFIGS.glob("*/*_demo.py"))


def item(name, *sizes):
    views = [torch.zeros(3, *size) for size in sizes]
    sample = DataSample(metainfo={"img_path": name})
    return {"inputs": views if len(views) > 1 else views[0], "data_samples": sample}


@pytest.mark.parametrize("views", [1, 2])
def test_the_images_that_differ_are_named(views):
    collate = SizedCollate(default_collate)
    items = [item(n, *([(8, 9)] * views)) for n in "ab"]
    batch = collate(items)["inputs"]
    assert (batch if views == 1 else batch[1]).shape == (2, 3, 8, 9)
    items.append(item("c\n", *([(8, 9)] * (views - 1)), (7, 12)))
    with pytest.raises(ImageSizesError, match=r"9 x 8 \(a\) and 12 x 7 \(c\\n\).*Cent"):
        collate(items)
    with pytest.raises(RuntimeError, match="said another"):  # other errors stay
        SizedCollate(raise_another)(items[:2])


def raise_another(items):
    raise RuntimeError("said another")


def test_a_run_says_so(tmp_path):
    images = write_images(tmp_path / "images", classes=2, per_class=4)
    Image.new("RGB", (20, 30)).save(images / "class0/0.png")
    bank = loader(images) | {"num_workers": 1}
    both = {"bank_dataloader": bank, "query_dataloader": loader(images)}
    cfg = config(images, tmp_path, knn={"type": "KNNHook", "k": 1, **both})
    with pytest.raises((UserError, ValueError), match=r"20 x 30 \(.*/class0/0.png\)"):
        make_runner(cfg).train()


@pytest.mark.parametrize("name", DEMOS[::4])
def test_demo_configs_measure_photographs_of_any_shape(name):
    cfg = load_config(CONFIGS / name, {"image_size": 40})
    knn = cfg.default_hooks.knn
    for place in ("bank_dataloader", "query_dataloader"):
        steps = build_pipeline(knn[place].dataset.pipeline[1:])
        rng = np.random.default_rng(0)
        for shape in ((90, 61), (30, 200), (40, 40)):
            pixels = rng.integers(0, 256, (*shape, 3), np.uint8)
            found = {"img": pixels, "img_path": "", "skipped": (), "sample_idx": 0}
            for step in steps:
                found = step(found)
            assert found["inputs"].shape == (3, 40, 40)
            if shape == (40, 40):  # the demo scenes: what they always were
                assert (found["inputs"].numpy() == pixels.transpose(2, 0, 1)).all()
