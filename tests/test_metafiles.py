"""metafile.yml and model-index.yml say what the configs do."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from modelindex.load_model_index import load

from mmssl_ext.run.launch import load_config

REPO = Path(__file__).resolve().parents[1]
INDEX = yaml.safe_load((REPO / "model-index.yml").read_text(encoding="utf-8"))
FOLDERS = [Path(name).parent.name for name in INDEX["Import"]]
NO_ALGORITHM = {"_base_", "chains", "mmpretrain", "transfer"}
TRAINING_DATA = {
    "data/imagenet/train": "ImageNet-1k",
    "data/cifar10": "CIFAR-10",
    "data/coco/train2017": "COCO",
    "data/demo/imagenet/train": "Demo scenes",
}


def metafile(folder: str) -> dict[str, Any]:
    path = REPO / "configs" / folder / "metafile.yml"
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def test_index_is_valid_and_names_every_algorithm() -> None:
    assert load(str(REPO / "model-index.yml")).check(silent=True) == []
    folders = {path.name for path in (REPO / "configs").iterdir() if path.is_dir()}
    assert set(FOLDERS) == folders - NO_ALGORITHM
    assert len(FOLDERS) == len(set(FOLDERS))


def test_names_are_unique_for_mim() -> None:
    """mim finds a config by its file name alone, among all files of the package."""
    files = [*(REPO / "configs").rglob("*.py"), *(REPO / "mmssl_ext").rglob("*.py")]
    names = [path.name for path in files if ".mim" not in path.parts]
    listed = [Path(m["Config"]).name for f in FOLDERS for m in metafile(f)["Models"]]
    assert [name for name in listed if names.count(name) != 1] == []


@pytest.mark.parametrize("folder", FOLDERS)
def test_metafile_says_what_the_configs_do(
    folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("IMAGENET_ROOT", "CIFAR10_ROOT", "COCO_ROOT", "DEMO_ROOT"):
        monkeypatch.delenv(name, raising=False)
    content = metafile(folder)
    (collection,) = content["Collections"]
    readme = (REPO / "configs" / folder / collection["README"]).read_text("utf-8")
    words = " ".join(readme.split())  # a title may be broken into lines
    assert collection["Paper"]["Title"] in words
    arxiv = re.fullmatch(
        r"https://arxiv\.org/abs/(\d{4}\.\d{5})", collection["Paper"]["URL"]
    )
    assert arxiv and f"arXiv {arxiv[1]}" in words

    shipped = sorted(path.name for path in (REPO / "configs" / folder).glob("*.py"))
    assert sorted(Path(m["Config"]).name for m in content["Models"]) == shipped
    models = set()
    for model in content["Models"]:
        path = REPO / model["Config"]
        assert (model["Name"], path.parent.name) == (path.stem, folder)
        assert model["In Collection"] == collection["Name"]
        # None are published, and results of its own have tables with a CSV.
        assert not {"Weights", "Results"} & model.keys()
        cfg = load_config(path)
        models |= {cfg.model.type, cfg.model.backbone.type.removesuffix("_CIFAR")}
        said = model["Metadata"]
        loader = cfg.train_dataloader
        assert said == {
            "Epochs": cfg.train_cfg.max_epochs,
            "Batch Size": loader.batch_size * said["GPUs"],
            "GPUs": said["GPUs"],
            "Training Data": TRAINING_DATA[loader.dataset.root],
        }
        if said["GPUs"] > 1:  # the learning rate belongs to the batch of all GPUs
            assert said["Batch Size"] == cfg.auto_scale_lr.base_batch_size
        assert (said["GPUs"] == 8) == ("imagenet" in path.name or "coco" in path.name)
    assert set(collection["Metadata"]["Architecture"]) == models
