"""Every transfer config takes the pretrained weights whole and runs on tiny data."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from mmengine.registry import MODELS, init_default_scope

from mmssl_ext.chain.spec import read_chain
from mmssl_ext.engine.config.variables import config_files, variables
from mmssl_ext.errors import CheckpointFileError
from mmssl_ext.run.launch import build_runner, load_config, prepare
from mmssl_ext.transfer import fingerprint
from mmssl_ext.transfer.handover import handovers

from .support import backbone_state, source_checkpoint
from .test_handover import Payload

ROOT = Path(__file__).parents[2] / "configs"
CONFIGS = sorted(
    str(p.relative_to(ROOT / "transfer"))
    for p in (ROOT / "transfer").rglob("*.py")
    if "_base_" not in p.parts
)


# Of parts that others of the list have, too; the first two are run by README and docs.
LIKE_OTHERS = (
    *("detection/faster_rcnn_r50_fpn_voc0712.py", "classification/svm_r50_voc07.py"),
    *("detection/mask_rcnn_r50_fpn_coco_1x.py", "segmentation/fcn_r50_voc12aug.py"),
    *("classification/semi_r50_imagenet_1pct.py", "detection/fcos_r50_fpn_coco_1x.py"),
    *(
        "detection/mask_rcnn_r50_c4_coco_1x.py",
        "segmentation/fcn_r50_cityscapes_40k.py",
    ),
)


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """Per depth: checkpoint, width and the state of its backbone."""
    folder = tmp_path_factory.mktemp("sources")
    found = {}
    for depth, width in ((18, 16), (50, 64)):
        path = folder / f"r{depth}.pth"
        found[depth] = (path, width, source_checkpoint(path, depth, width))
    return found


def options(name, demo, source):
    """Tiny values for the variables that a config has."""
    path, width, _ = source
    classes = json.loads((demo / "demo.json").read_text())["classes"]
    layout = next(k for k in ("voc", "coco", "cityscapes", "imagenet") if k in name)
    if "segmentation" in name:
        own = ["background", *classes] if layout == "voc" else None
    else:
        own = classes
    root = {"voc": "VOCdevkit"}.get(layout, layout)
    tiny = dict(
        checkpoint=str(path), depth=18, base_channels=width, batch_size=2,
        test_batch_size=4, num_workers=0, jobs=1, max_iters=1, max_epochs=1,
        val_interval=1, data_root=str(demo / root), classes=own, num_classes=8,
        test_folder="test", test_split="test", release="VOC2007",
        train_splits=[["VOC2007", "trainval"]], short_sides=[64], test_size=64,
        max_size=96, crop_size=[32, 32], scale=[64, 64], image_size=32, resize=32,
        pool_kernel=1, costs=[0.1, 1.0], shots=[1, 2], trials=1, roi_samples=16,
        rpn_samples=16, head_channels=16, fpn_channels=64, fc_channels=16,
        bank_images=None, fraction=0.5, k=3, lr=1.0,
    )  # fmt: skip
    if "detection" in name and layout == "voc":
        tiny["test_split"] = ["VOC2007", "test"]
    if "segmentation" in name and layout == "voc":
        lists, labels = "ImageSets/Segmentation", "SegmentationClass"
        tiny["train_splits"] = [[f"{lists}/train.txt", labels]]
        tiny["val_split"] = [f"{lists}/val.txt", labels]
    present = variables(ROOT / "transfer" / name)
    computed = {"num_classes"} if "classes" in present else set()
    chosen = {k: v for k, v in tiny.items() if k in present - computed}
    return chosen


def test_configs_stand_on_this_repository_alone_with_a_recipe_in_words():
    for name in CONFIGS:
        text = (ROOT / "transfer" / name).read_text()
        assert text.startswith('"""') and "tools/" in text
        for file in config_files(ROOT / "transfer" / name):
            assert ROOT in file.parents and "::" not in file.read_text()


def test_chains_name_configs_and_options_that_exist(tmp_path, monkeypatch):
    # The folder of a user who has run every demo config.
    monkeypatch.chdir(tmp_path)
    Path("configs").symlink_to(ROOT)
    for config in ROOT.glob("*/*_r18_demo.py"):
        run = Path("work_dirs", config.stem)
        run.mkdir(parents=True)
        (run / "epoch_30.pth").touch()
    for path in (ROOT / "chains").glob("*.py"):
        chain = read_chain(path)
        for stage in {s.transfer: s for s in chain.stages}.values():
            assert stage.load().get("model")
        pretrained = [s.name for s in chain.stages if s.transfer == "pretrain"]
        assert pretrained == ["pretrain"] * ("pretrain" in chain.sources.values())
    # The whole protocol is one chain.
    where = (ROOT / "transfer").resolve()
    stages = read_chain(ROOT / "chains/co2_r50.py").stages[1:]
    assert {str(s.config.resolve().relative_to(where)) for s in stages} == set(CONFIGS)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.slow] * (name in LIKE_OTHERS))
        for name in CONFIGS
    ],
)
def test_every_backbone_tensor_arrives(name, sources):
    """Built as configured, initialised as the Runner does, compared by hash."""
    path, width, state = sources[50]
    chosen = dict(checkpoint=str(path), depth=50, base_channels=width)
    cfg = load_config(ROOT / "transfer" / name, chosen)
    init_default_scope(cfg.default_scope)
    model = MODELS.build(cfg.model)
    model.init_weights()
    taken = {}
    for child, handover in handovers(model).items():
        held = model.get_submodule(child).state_dict()
        part = {n: held[n] for n in handover.report.matched}
        assert fingerprint(part) == fingerprint({n: state[n] for n in part})
        assert not taken.keys() & part.keys()
        taken |= part
    assert taken.keys() == state.keys()  # C4's RoI head takes res5
    frozen = [n for n, p in model.backbone.named_parameters() if not p.requires_grad]
    assert bool(frozen) == ("linear" in name)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.slow] * (name in LIKE_OTHERS))
        for name in CONFIGS
    ],
)
def test_runs_on_tiny_data(name, demo, sources, tmp_path):
    """One optimizer step by the Runner, or the evaluation, and its figures."""
    chosen = options(name, demo, sources[18])
    cfg = load_config(ROOT / "transfer" / name, chosen)
    runner = build_runner(prepare(cfg, work_dir=str(tmp_path)))
    if cfg.get("train_cfg") is None:
        runner.test()
    else:
        model = runner.model
        model.init_weights()
        before = {n: p.detach().clone() for n, p in model.named_parameters()}
        runner.train()
        moved = {n for n, p in model.named_parameters() if not p.equal(before[n])}
        trained = {n for n, p in model.named_parameters() if p.requires_grad}
        assert moved <= trained
        backbone = {n for n in moved if n.startswith("backbone.")}
        assert moved - backbone, "no head has moved"
        assert bool(backbone) == ("linear" not in name)
        assert ("backbone.conv1.weight" in backbone) == bool(backbone)  # all stages
        assert runner.iter >= 1
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["metrics"]
    assert all(0 <= value <= 100 for value in result["metrics"].values())
    assert result["handover"]["coverage"] == 1
    pictures = bool(list(tmp_path.glob("predictions/*.png")))
    assert pictures != name.startswith("classification")


@pytest.mark.parametrize(
    "name",
    [
        "detection/faster_rcnn_r50_fpn_voc0712.py",
        "segmentation/fcn_r50_voc12aug.py",
        "classification/linear_r50_imagenet.py",
    ],
)
def test_the_same_seed_makes_the_same_model_and_figures(name, demo, sources, tmp_path):
    chosen = options(name, demo, sources[18]) | {"randomness.seed": 3}
    if "max_iters" in chosen:
        chosen["max_iters"] = chosen["val_interval"] = 2
    found = []
    for run in ("first", "second"):
        cfg = load_config(ROOT / "transfer" / name, chosen)
        runner = build_runner(prepare(cfg, work_dir=str(tmp_path / run)))
        runner.train()
        result = json.loads((tmp_path / run / "result.json").read_text())
        found.append((fingerprint(runner.model.state_dict()), result["metrics"]))
        torch.manual_seed(99)  # of no consequence for what follows
    assert found[0] == found[1]
    assert found[0][1]


@pytest.mark.parametrize(
    "name",
    ["detection/retinanet_r50_fpn_coco_1x.py", "segmentation/fcn_r50_voc12aug.py"],
)
def test_the_runner_stops_at_a_checkpoint_that_does_not_fit(
    name, demo, sources, tmp_path
):
    """Through mmdet's and mmseg's own Runner: nothing runs, loads or trains."""
    good, _, state = sources[18]
    bad = tmp_path / "bad.pth"
    sign = tmp_path / "it_ran"

    def write(tensors, **more):
        full = {f"backbone.{n}": v for n, v in tensors.items()}
        torch.save({"state_dict": full, **more}, bad)

    part = dict(list(state.items())[: int(0.6 * len(state))])
    renamed = {n.replace(".", "_"): v for n, v in state.items()}
    cases = {
        r"0 of 120 backbone tensors matched": lambda: write(renamed),
        r"\(60\.0 %\), 48 missing": lambda: write(part),
        "holds a ResNet-34": lambda: write(backbone_state(34, 16)),
        "truncated or damaged": lambda: bad.write_bytes(good.read_bytes()[:100_000]),
        "could run code": lambda: write(state, extra=Payload(sign)),
    }
    chosen = options(name, demo, sources[18]) | {"checkpoint": str(bad)}
    cfg = load_config(ROOT / "transfer" / name, chosen)
    runner = build_runner(prepare(cfg, work_dir=str(tmp_path / "run")))
    before = fingerprint(runner.model.backbone)
    for cause, make in cases.items():
        make()
        with pytest.raises(CheckpointFileError, match=cause):
            runner.train()
        assert fingerprint(runner.model.backbone) == before
    assert not sign.exists()
    assert not list((tmp_path / "run").glob("*.pth"))
