"""Classification transfer: labelled sets, the frozen backbone, all configs for real."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.logging import MessageHub
from mmpretrain.models import ResNet
from PIL import Image
from sklearn.neighbors import KNeighborsClassifier
from torch import nn
from torchvision import transforms

from mmssl_ext.datasets import LabelledFolder, VOCLabels
from mmssl_ext.datasets.demo.shapes import CLASSES
from mmssl_ext.errors import ConfigError
from mmssl_ext.evaluation.loops import PooledBackbone
from mmssl_ext.registry import OPTIMIZERS, PARAM_SCHEDULERS
from mmssl_ext.run.launch import build_runner, load_config, prepare, train
from mmssl_ext.transfer import FrozenBackboneHook
from mmssl_ext.transfer.handover import fingerprint

CONFIGS = Path(__file__).parents[2] / "configs/transfer/classification"
NAMES = sorted(path.name for path in CONFIGS.glob("*.py"))


def thin_resnet():
    return ResNet(18, stem_channels=16, base_channels=16, zero_init_residual=False)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """Path and state of a thin ResNet-18 with statistics as after training."""
    backbone = thin_resnet()
    backbone.init_weights()
    for name, buffer in backbone.named_buffers():
        if name.endswith("running_mean"):
            buffer.normal_(0, 0.1)
        elif name.endswith("running_var"):
            buffer.uniform_(0.5, 1.5)
    state = backbone.state_dict()
    path = tmp_path_factory.mktemp("source") / "source.pth"
    torch.save({"state_dict": {f"backbone.{n}": v for n, v in state.items()}}, path)
    return path, state


@pytest.fixture
def imagenet(demo, source):
    """Variables of the configs for the demo scenes; some are given."""
    small = dict(depth=18, base_channels=16, image_size=32, resize=36)
    small |= dict(checkpoint=str(source[0]), batch_size=24, num_workers=0)
    small |= dict(data_root=str(demo / "imagenet"), test_folder="test", num_classes=8)
    return lambda **variables: small | variables


def run(name, work_dir, variables):
    """Train or test a config; return its result.json and its log."""
    train(CONFIGS / name, variables, work_dir=str(work_dir))
    result = json.loads((work_dir / "result.json").read_text())
    log = "".join(path.read_text() for path in work_dir.glob("*/*.log"))
    return result, log


def class_folders(root, **counts):
    for name, count in counts.items():
        (root / name).mkdir(parents=True)
        for i in range(count):
            (root / name / f"{name}_{i}.png").touch()
    return str(root)


def chosen(dataset):
    return {
        Path(dataset.get_data_info(i)["img_path"]).name for i in range(len(dataset))
    }


# Labelled sets


def test_classes_keep_their_numbers_where_a_folder_is_missing(tmp_path, log):
    train_root = class_folders(tmp_path / "train", ant=1, bee=2, cow=1)
    test_root = class_folders(tmp_path / "val", bee=1, cow=1)
    dataset = LabelledFolder(test_root, classes_from=train_root, num_classes=3)
    assert dataset.labels.tolist() == [1, 2]
    assert dataset.metainfo["classes"] == ("ant", "bee", "cow")
    assert "no folder for 1 of 3 classes, 'ant': the figures say nothing" in log.text
    picked = LabelledFolder(train_root, classes=("cow", "bee"))
    assert chosen(picked) == {"cow_0.png", "bee_0.png", "bee_1.png"}
    assert [picked.get_data_info(i)["gt_label"] for i in range(3)] == [1, 1, 0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_classes": 1000}, "has 2 classes, but .* set num_classes=2"),
        ({"classes": ("bee", "wasp")}, "no folder for 1 of the 2 .*'wasp'.* has 'ant'"),
        ({"classes": ("bee", "bee")}, "twice"),
        ({"classes_from": "OTHER"}, "1 class folders that .* not have: 'bee'"),
        ({"classes_from": "none"}, "'none' .* does not exist"),
        ({"fraction": 0.0}, "fraction=0.0"),
        ({"fraction": 0.1, "list_file": "x"}, "not both"),
        ({"list_file": "missing.txt"}, r"missing\.txt"),
        # As where the folder above the class folders was named.
        ({"root": "ABOVE", "num_classes": 1}, "one class folder, 't'.*is '.*above/t'"),
    ],
)
def test_labelled_folder_refuses(tmp_path, options, message):
    root = class_folders(tmp_path / "train", ant=1, bee=2)
    class_folders(tmp_path / "above/t", ant=1, bee=1)
    paths = {"OTHER": class_folders(tmp_path / "other", ant=1)}
    paths["ABOVE"] = str(tmp_path / "above")
    given = {key: paths.get(str(value), value) for key, value in options.items()}
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        LabelledFolder(**{"root": root} | given)


def test_list_files(tmp_path):
    root = class_folders(tmp_path / "train", ant=3, bee=2)
    (tmp_path / "train/bee/ant_0.png").touch()
    lines = tmp_path / "1percent.txt"
    lines.write_text("ant_2.png\nbee/bee_1.png\n\nant_2.png\n")
    dataset = LabelledFolder(root, list_file=str(lines))
    assert chosen(dataset) == {"ant_2.png", "bee_1.png"}
    assert dataset.labels.tolist() == [0, 1]
    for text, said in (
        ("ant_2.png\nn01440764_1.JPEG\n", "1 of the 2 images .*'n01440764_1.JPEG'"),
        ("ant_0.png\n", "several images .*write their paths"),
        ("\n", "empty"),
    ):
        lines.write_text(text)
        with pytest.raises(ValueError, match=said):
            LabelledFolder(root, list_file=str(lines))


def test_fractions_are_per_class_deterministic_and_nested(tmp_path):
    root = class_folders(tmp_path / "a", ant=40, bee=200, cow=3)

    def part(fraction, seed=0, root=root):
        return chosen(LabelledFolder(root, fraction=fraction, seed=seed))

    one, ten = part(0.01), part(0.1)
    counts = [sum(n.startswith(c) for n in ten) for c in ("ant", "bee", "cow")]
    assert counts == [4, 20, 1] and len(one) == 1 + 2 + 1
    assert part(0.1) == ten != part(0.1, seed=1)
    assert one < ten
    assert len(part(1.0)) == 243
    # a class keeps its images whatever the other classes are
    bees = part(0.1, root=class_folders(tmp_path / "b", bee=200))
    assert bees == {n for n in ten if n.startswith("bee")}


def test_voc_labels_equal_vocs_own_lists(demo):
    root = demo / "VOCdevkit/VOC2007"
    for split in ("trainval", "test"):
        dataset = VOCLabels(str(root), split, CLASSES)
        for label, name in enumerate(CLASSES):
            lines = (root / f"ImageSets/Main/{name}_{split}.txt").read_text()
            signs = [int(line.split()[1]) for line in lines.splitlines()]
            assert dataset.targets[:, label].tolist() == signs


@pytest.fixture
def voc(tmp_path):
    """Five images with the objects of their names; ``!`` marks a difficult one."""
    for part in ("ImageSets/Main", "Annotations", "JPEGImages"):
        (tmp_path / part).mkdir(parents=True)
    images = dict(a="cat", b="cat!", c="cat! cat dog!", d="dog owl", e="")
    for name, objects in images.items():
        (tmp_path / f"JPEGImages/{name}.jpg").touch()
        rows = (
            f"<object><name>{o.strip('!')}</name>"
            f"<difficult>{int('!' in o)}</difficult></object>"
            for o in objects.split()
        )
        text = f"<annotation>{''.join(rows)}</annotation>"
        (tmp_path / f"Annotations/{name}.xml").write_text(text)
    (tmp_path / "ImageSets/Main/test.txt").write_text("a\nb\nc\nd\ne\n")
    return tmp_path


def test_voc_images_with_only_difficult_objects_are_ignored(voc):
    dataset = VOCLabels(str(voc), "test", ("cat", "dog"))
    assert dataset.targets.tolist() == [[1, -1], [0, -1], [1, 0], [-1, 1], [-1, -1]]
    few = VOCLabels(str(voc), "test", ("cat",), max_images=2)
    assert few.targets.T.tolist() == [[1, 1]]


def test_voc_faults_are_named(voc):
    def refused(error, match, split="test", classes=("cat",), **options):
        with pytest.raises(error, match=match):
            VOCLabels(str(voc), split, classes, **options)

    known = r"of the classes 'cow'.* are of 'cat', 'dog', 'owl'"
    refused(ValueError, known, classes=("cow",))
    refused(FileNotFoundError, r"val\.txt", split="val")
    refused(FileNotFoundError, r"a\.png.*img_suffix", img_suffix=".png")
    (voc / "Annotations/b.xml").write_text("<annotation><obj")
    refused(ValueError, r"b\.xml' cannot be read")
    (voc / "Annotations/b.xml").unlink()
    refused(FileNotFoundError, r"b\.xml")
    (voc / "ImageSets/Main/test.txt").write_text("\n")
    refused(ValueError, "names no image")


# The frozen backbone


class Probe(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
        self.head = nn.Linear(4, 2)


@pytest.fixture
def frozen(request):
    """A runner of a probe whose hook has taken the hashes, and its log."""
    hub = MessageHub.get_instance(request.node.name)
    lines = []
    logger = SimpleNamespace(info=lines.append)
    runner = SimpleNamespace(model=Probe(), iter=0, message_hub=hub, logger=logger)
    hook = FrozenBackboneHook()
    hook.before_train(runner)
    runner.iter = 2
    return runner, hook, lines


@pytest.mark.parametrize(
    "event", ["before_val", "before_write_checkpoint", "after_train"]
)
def test_frozen_hook_catches_batch_statistics_alone(frozen, event):
    runner, hook, lines = frozen
    backbone = runner.model.backbone
    backbone[1].eval()(backbone[0](torch.rand(2, 3, 4, 4)))
    nn.init.ones_(runner.model.head.weight)
    getattr(hook, event)(runner)
    told = [line for line in lines if fingerprint(backbone) in line]
    assert len(told) == len(lines) == (event == "after_train")
    backbone.train()(torch.rand(2, 3, 4, 4))
    with pytest.raises(ConfigError, match=r"iteration|end") as error:
        getattr(hook, event)(runner)
    assert "3 of its 7 tensors" in str(error.value)
    assert "1.running_mean" in str(error.value) and len(told) == len(lines)


def test_frozen_hook_catches_a_parameter_also_after_a_resume(frozen):
    runner, hook, _ = frozen
    with torch.no_grad():
        runner.model.backbone[0].weight[0, 0, 0, 0] += 1e-6
    with pytest.raises(ConfigError, match=r"1 of its 7 .*: 0\.weight\."):
        hook.before_val(runner)
    with pytest.raises(ConfigError, match=r"before training .*0\.weight"):
        FrozenBackboneHook().before_train(runner)


# The configs


def test_svm_features_are_windows_of_the_map():
    model = SimpleNamespace(data_preprocessor=None, backbone=lambda inputs: (inputs,))
    maps = torch.arange(49.0).reshape(1, 1, 7, 7)
    windows = PooledBackbone(model, 6)(maps)["backbone"]
    # the mean of a window is its centre: first pixel plus 2.5 rows and 2.5 columns
    assert windows.tolist() == [[20.0, 21.0, 27.0, 28.0]]
    assert PooledBackbone(model)(maps)["backbone"].tolist() == [[24.0]]
    assert PooledBackbone(model, 6)(maps[:, :, :1, :1])["backbone"].shape == (1, 1)


def test_every_config_loads_the_backbone_and_normalises_alike():
    for name in NAMES:
        model = load_config(CONFIGS / name, {"depth": 34, "base_channels": 32}).model
        assert model.backbone.init_cfg.type == "mmssl_ext.PretrainedBackbone"
        assert model.backbone.style == "pytorch"
        assert model.data_preprocessor.mean == [123.675, 116.28, 103.53]
        if model.get("head"):
            assert model.head.in_channels == 32 * 8
        kept = load_config(CONFIGS / name, {"checkpoint": None}).model.backbone.init_cfg
        assert [step.type for step in kept] == ["Kaiming", "Constant"]


@pytest.mark.parametrize("name", ["linear_r50_imagenet.py", "knn_r50_imagenet.py"])
def test_top5_needs_more_than_five_classes(name):
    clusters = [] if "linear" in name else ["NMI", "ARI", "ACC"]
    few = load_config(CONFIGS / name, {"classes": ("a", "b", "c")})
    assert list(few.default_hooks.result.metrics) == ["top1", *clusters]
    many = load_config(CONFIGS / name, {"num_classes": 6})
    assert list(many.default_hooks.result.metrics) == ["top1", "top5", *clusters]
    if "linear" in name:
        assert few.model.head.num_classes == 3
        assert few.train_dataloader.dataset.classes == ("a", "b", "c")


def rates(name, **variables):
    """Learning rate of each epoch, as the Runner's schedulers give it."""
    cfg = load_config(CONFIGS / name, variables)
    optimizer = OPTIMIZERS.build(
        {**cfg.optim_wrapper.optimizer, "params": [nn.Parameter(torch.zeros(1))]}
    )
    schedulers = [
        PARAM_SCHEDULERS.build(s, default_args={"optimizer": optimizer})
        for s in cfg.param_scheduler
    ]
    found = []
    for _ in range(cfg.train_cfg.max_epochs):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        for scheduler in schedulers:
            scheduler.step()
    return optimizer, found


def test_linear_recipe():
    optimizer, lr = rates("linear_r50_imagenet.py")
    at = {e: lr[e] for e in (0, 59, 60, 79, 80, 99)}
    assert at == pytest.approx({0: 30, 59: 30, 60: 3, 79: 3, 80: 0.3, 99: 0.3})
    group = optimizer.param_groups[0]
    assert (group["momentum"], group["weight_decay"]) == (0.9, 0)
    assert rates("linear_r50_imagenet.py", max_epochs=10)[1] == pytest.approx(
        [30] * 6 + [3] * 2 + [0.3] * 2
    )


def test_semi_supervised_recipe():
    name = "semi_r50_imagenet_1pct.py"
    optimizer, lr = rates(name)
    assert lr == pytest.approx([0.01] * 12 + [0.002] * 4 + [0.0004] * 4)
    assert optimizer.param_groups[0]["weight_decay"] == 5e-4
    cfg = load_config(CONFIGS / name)
    assert cfg.train_dataloader.dataset.fraction == 0.01
    tenth = load_config(CONFIGS / name, {"fraction": 0.1}).train_dataloader
    assert tenth == dict(
        cfg.train_dataloader, dataset=dict(cfg.train_dataloader.dataset, fraction=0.1)
    )
    assert cfg.train_dataloader.batch_size == 64 and cfg.sync_bn == "torch"
    assert cfg.model.backbone.frozen_stages == -1
    listed = load_config(CONFIGS / name, {"list_file": "x.txt"}).train_dataloader
    assert listed.dataset.list_file == "x.txt" and listed.dataset.fraction is None
    assert "fraction" not in cfg.val_dataloader.dataset


def test_linear_probe_trains_the_fc_alone(imagenet, source, tmp_path):
    result, log = run(
        "linear_r50_imagenet.py", tmp_path, imagenet(max_epochs=1, lr=0.1)
    )
    assert result["iterations"] == 2
    assert set(result["metrics"]) == {"top1", "top5"}
    state = torch.load(tmp_path / "epoch_1.pth", weights_only=True)["state_dict"]
    for key, value in source[1].items():
        assert torch.equal(state[f"backbone.{key}"], value), key
    assert state["head.fc.bias"].abs().min() > 0  # zero at the start
    assert f"unchanged after 2 iterations, sha256 {fingerprint(source[1])}" in log


def test_linear_probe_stops_when_the_backbone_is_not_frozen(imagenet, tmp_path):
    variables = imagenet(max_epochs=1, lr=1e-3) | {"model.backbone.frozen_stages": 3}
    with pytest.raises(ConfigError, match=r"must stay frozen.*layer4"):
        run("linear_r50_imagenet.py", tmp_path, variables)
    assert not list(tmp_path.glob("*.pth"))


def test_semi_supervised_fine_tunes_with_a_larger_rate_for_the_head(imagenet, tmp_path):
    variables = imagenet(max_epochs=1, fraction=0.5, lr=1e-3, batch_size=12)
    result, _ = run("semi_r50_imagenet_1pct.py", tmp_path, variables)
    assert result["iterations"] == 2  # half of 48, by 12
    saved = torch.load(tmp_path / "epoch_1.pth", weights_only=True)
    groups = saved["optimizer"]["param_groups"]
    assert {round(g["initial_lr"], 6) for g in groups} == {0.001, 0.1}


def features_of(demo, state, split):
    """Pooled features and labels of the demo scenes, by torchvision alone."""
    backbone = thin_resnet()
    backbone.load_state_dict(state)
    backbone.eval()
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    steps = [transforms.Resize(36), transforms.CenterCrop(32), transforms.ToTensor()]
    view = transforms.Compose([*steps, transforms.Normalize(mean, std)])
    paths = sorted((demo / f"imagenet/{split}").glob("*/*"))
    with torch.no_grad():
        rows = [
            backbone(view(Image.open(path).convert("RGB"))[None])[0].mean((2, 3))[0]
            for path in paths
        ]
    return torch.stack(rows).numpy(), [path.parent.name for path in paths]


def test_knn_config_equals_torchvision_and_sklearn(demo, source, imagenet, tmp_path):
    result, log = run("knn_r50_imagenet.py", tmp_path, imagenet(k=3))
    judge = KNeighborsClassifier(
        3, metric="cosine", weights=lambda distance: np.exp((1 - distance) / 0.1)
    ).fit(*features_of(demo, source[1], "train"))
    expected = 100 * judge.score(*features_of(demo, source[1], "test"))
    assert result["metrics"]["top1"] == pytest.approx(expected, abs=0.01)
    assert expected > 20  # of 12.5 by chance: the comparison means something
    assert "top5" in result["metrics"]
    assert "matched" in log and result["handover"]["prefix"] == "backbone."


def test_low_shot_svm_config_runs(demo, imagenet, tmp_path):
    few = imagenet(classes=CLASSES, costs=(0.1, 1.0), jobs=1, shots=(1, 2), trials=2)
    few |= dict(data_root=str(demo / "VOCdevkit"), pool_kernel=None)
    del few["test_folder"], few["num_classes"]
    low, log = run("svm_lowshot_r50_voc07.py", tmp_path / "low", few)
    assert list(low["metrics"]) == ["k1", "k2", "k1_std", "k2_std"]
    assert "48 training and 16 test images, 128 features" in log


def test_evaluation_without_a_checkpoint_starts_from_random_parameters(
    imagenet, tmp_path
):
    # Runner.test alone would evaluate weights that nothing had initialised.
    cfg = load_config(CONFIGS / "knn_r50_imagenet.py", imagenet(checkpoint=None))
    runner = build_runner(prepare(cfg, work_dir=str(tmp_path)))
    before = fingerprint(runner.model.backbone)
    runner.test()
    weight = runner.model.backbone.conv1.weight.detach()
    assert fingerprint(runner.model.backbone) != before
    # Kaiming, fan out: variance 2 / (16 x 7 x 7)
    assert float(weight.std()) == pytest.approx((2 / (16 * 49)) ** 0.5, rel=0.1)
