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
from mmssl_ext.datasets.demo import make_demo
from mmssl_ext.datasets.demo.shapes import CLASSES
from mmssl_ext.errors import ConfigError
from mmssl_ext.registry import DATASETS, MODELS, OPTIMIZERS, PARAM_SCHEDULERS
from mmssl_ext.run.launch import load_config, train
from mmssl_ext.transfer import FrozenBackboneHook
from mmssl_ext.transfer.handover import fingerprint

CONFIGS = Path(__file__).parents[2] / "configs/transfer/classification"
NAMES = sorted(path.name for path in CONFIGS.glob("*.py"))


def thin_resnet():
    return ResNet(18, stem_channels=16, base_channels=16, zero_init_residual=False)


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """48 + 24 scenes of 64 pixels, and a source checkpoint of a thin ResNet-18."""
    folder = tmp_path_factory.mktemp("demo")
    make_demo(folder / "data", train=48, test=24, size=64, progress=False)
    backbone = thin_resnet()
    backbone.init_weights()
    for name, buffer in backbone.named_buffers():  # statistics as after training
        if name.endswith("running_mean"):
            buffer.normal_(0, 0.1)
        elif name.endswith("running_var"):
            buffer.uniform_(0.5, 1.5)
    state = backbone.state_dict()
    named = {f"backbone.{name}": value for name, value in state.items()}
    torch.save({"state_dict": named}, folder / "source.pth")
    return SimpleNamespace(
        folder=folder / "data",
        state=state,
        variables={
            "checkpoint": str(folder / "source.pth"),
            "depth": 18,
            "base_channels": 16,
            "image_size": 32,
            "resize": 36,
            "batch_size": 24,
            "num_workers": 0,
        },
    )


def imagenet(demo, **variables):
    return {
        **demo.variables,
        "data_root": str(demo.folder / "imagenet"),
        "test_folder": "test",
        "num_classes": 8,
        **variables,
    }


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


def test_one_class_is_refused(tmp_path):
    """As where the folder above the class folders was named."""
    class_folders(tmp_path / "data/images", ant=1, bee=1)
    root = str(tmp_path / "data")
    message = f"one class folder, 'images'.*Perhaps the folder is '{root}/images'"
    with pytest.raises(ValueError, match=message):
        LabelledFolder(root, num_classes=1)


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
    ],
)
def test_labelled_folder_refuses(tmp_path, options, message):
    root = class_folders(tmp_path / "train", ant=1, bee=2)
    if options.get("classes_from") == "OTHER":
        options = {"classes_from": class_folders(tmp_path / "other", ant=1)}
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        LabelledFolder(root, **options)


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
    with pytest.raises(FileNotFoundError, match=r"missing\.txt"):
        LabelledFolder(root, list_file="missing.txt")


def test_voc_labels_equal_vocs_own_lists(demo):
    root = demo.folder / "VOCdevkit/VOC2007"
    for split in ("trainval", "test"):
        dataset = VOCLabels(str(root), split, CLASSES)
        for label, name in enumerate(CLASSES):
            lines = (root / f"ImageSets/Main/{name}_{split}.txt").read_text()
            signs = [int(line.split()[1]) for line in lines.splitlines()]
            assert dataset.targets[:, label].tolist() == signs


def voc_folder(root, **images):
    """One image per keyword: a string of ``name`` or ``name!`` (difficult)."""
    for part in ("ImageSets/Main", "Annotations", "JPEGImages"):
        (root / part).mkdir(parents=True)
    for name, objects in images.items():
        (root / f"JPEGImages/{name}.jpg").touch()
        rows = "".join(
            f"<object><name>{o.strip('!')}</name><difficult>{int('!' in o)}</difficult>"
            "</object>"
            for o in objects.split()
        )
        (root / f"Annotations/{name}.xml").write_text(
            f"<annotation>{rows}</annotation>"
        )
    (root / "ImageSets/Main/test.txt").write_text("\n".join(images) + "\n")
    return root


def test_voc_images_with_only_difficult_objects_are_ignored(tmp_path):
    images = dict(a="cat", b="cat!", c="cat! cat dog!", d="dog owl", e="")
    root = str(voc_folder(tmp_path / "voc", **images))
    dataset = VOCLabels(root, "test", ("cat", "dog"))
    assert dataset.targets.tolist() == [[1, -1], [0, -1], [1, 0], [-1, 1], [-1, -1]]
    few = VOCLabels(root, "test", ("cat",), max_images=2)
    assert few.targets.T.tolist() == [[1, 1]]


def test_voc_faults_are_named(tmp_path):
    root = voc_folder(tmp_path / "voc", a="cat", b="dog")

    def refused(error, match, split="test", classes=("cat",), **options):
        with pytest.raises(error, match=match):
            VOCLabels(str(root), split, classes, **options)

    refused(ValueError, r"of the classes 'cow'.* are of 'cat', 'dog'", classes=("cow",))
    refused(FileNotFoundError, r"val\.txt", split="val")
    refused(FileNotFoundError, r"a\.png.*img_suffix", img_suffix=".png")
    (root / "Annotations/b.xml").write_text("<annotation><obj")
    refused(ValueError, r"b\.xml' cannot be read")
    (root / "Annotations/b.xml").unlink()
    refused(FileNotFoundError, r"b\.xml")
    (root / "ImageSets/Main/test.txt").write_text("\n")
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


def test_frozen_hook_passes_what_stays(frozen):
    runner, hook, lines = frozen
    backbone = runner.model.backbone
    backbone[1].eval()(backbone[0](torch.rand(2, 3, 4, 4)))
    nn.init.ones_(runner.model.head.weight)
    hook.before_val(runner)
    hook.before_write_checkpoint(runner)
    hook.after_train(runner)
    assert len(lines) == 1 and fingerprint(backbone) in lines[0]


@pytest.mark.parametrize(
    "event", ["before_val", "before_write_checkpoint", "after_train"]
)
def test_frozen_hook_catches_batch_statistics(frozen, event):
    runner, hook, lines = frozen
    runner.model.backbone.requires_grad_(False)(torch.rand(2, 3, 4, 4))  # train mode
    with pytest.raises(ConfigError, match=r"iteration|end") as error:
        getattr(hook, event)(runner)
    assert "3 of its 7 tensors" in str(error.value)
    assert "1.running_mean" in str(error.value) and not lines


def test_frozen_hook_catches_a_parameter_also_after_a_resume(frozen):
    runner, hook, _ = frozen
    with torch.no_grad():
        runner.model.backbone[0].weight[0, 0, 0, 0] += 1e-6
    with pytest.raises(ConfigError, match=r"1 of its 7 .*: 0\.weight\."):
        hook.before_val(runner)
    with pytest.raises(ConfigError, match=r"before training .*0\.weight"):
        FrozenBackboneHook().before_train(runner)


# The configs


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("depth", "width", "channels"), [(50, 64, 2048), (18, 64, 512), (34, 32, 256)]
)
def test_every_config_follows_depth_and_width(name, depth, width, channels):
    cfg = load_config(CONFIGS / name, {"depth": depth, "base_channels": width})
    model = MODELS.build(cfg.model)
    model.eval()
    features = model.extract_feat(torch.rand(1, 3, 64, 64))[-1]
    assert features.shape[1] == channels
    if model.with_head:
        assert model.head.fc.in_features == channels
    initializer = cfg.model.backbone.init_cfg
    assert initializer.type == "mmssl_ext.PretrainedBackbone"
    assert cfg.model.backbone.style == "pytorch"
    assert cfg.model.data_preprocessor.mean == [123.675, 116.28, 103.53]
    kept = load_config(CONFIGS / name, {"checkpoint": None}).model.backbone.init_cfg
    assert [step.type for step in kept] == ["Kaiming", "Constant"]


@pytest.mark.parametrize("name", ["linear_r50_imagenet.py", "knn_r50_imagenet.py"])
def test_top5_needs_more_than_five_classes(name):
    few = load_config(CONFIGS / name, {"classes": ("a", "b", "c")})
    assert list(few.default_hooks.result.metrics) == ["top1"]
    many = load_config(CONFIGS / name, {"num_classes": 6})
    assert list(many.default_hooks.result.metrics) == ["top1", "top5"]
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


def test_linear_probe_trains_the_fc_alone(demo, tmp_path):
    name = "linear_r50_imagenet.py"
    result, log = run(name, tmp_path, imagenet(demo, max_epochs=1, lr=0.1))
    assert result["iterations"] == 2
    assert set(result["metrics"]) == {"top1", "top5"}
    state = torch.load(tmp_path / "epoch_1.pth", weights_only=True)["state_dict"]
    for key, value in demo.state.items():
        assert torch.equal(state[f"backbone.{key}"], value), key
    assert state["head.fc.bias"].abs().min() > 0  # zero at the start
    assert f"unchanged after 2 iterations, sha256 {fingerprint(demo.state)}" in log


def test_linear_probe_stops_when_the_backbone_is_not_frozen(demo, tmp_path):
    variables = imagenet(demo, max_epochs=1, lr=1e-3)
    variables["model.backbone.frozen_stages"] = 3
    with pytest.raises(ConfigError, match=r"must stay frozen.*layer4"):
        run("linear_r50_imagenet.py", tmp_path, variables)
    assert not list(tmp_path.glob("*.pth"))


def test_semi_supervised_fine_tunes_all_layers(demo, tmp_path):
    variables = imagenet(demo, max_epochs=1, fraction=0.5, lr=1e-3, batch_size=12)
    result, _ = run("semi_r50_imagenet_1pct.py", tmp_path, variables)
    assert result["iterations"] == 2  # half of 48, by 12
    saved = torch.load(tmp_path / "epoch_1.pth", weights_only=True)
    groups = saved["optimizer"]["param_groups"]
    assert {round(g["initial_lr"], 6) for g in groups} == {0.001, 0.1}
    for key, value in demo.state.items():
        assert not torch.equal(saved["state_dict"][f"backbone.{key}"], value), key


def features_of(demo, split):
    """Pooled features and labels of the demo scenes, by torchvision alone."""
    backbone = thin_resnet()
    backbone.load_state_dict(demo.state)
    backbone.eval()
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    steps = [transforms.Resize(36), transforms.CenterCrop(32), transforms.ToTensor()]
    view = transforms.Compose([*steps, transforms.Normalize(mean, std)])
    paths = sorted((demo.folder / f"imagenet/{split}").glob("*/*"))
    classes = sorted({path.parent.name for path in paths})
    with torch.no_grad():
        rows = [
            backbone(view(Image.open(path).convert("RGB"))[None])[0].mean((2, 3))[0]
            for path in paths
        ]
    labels = [classes.index(path.parent.name) for path in paths]
    return torch.stack(rows).numpy(), np.array(labels)


def test_knn_config_equals_torchvision_and_sklearn(demo, tmp_path):
    result, log = run("knn_r50_imagenet.py", tmp_path, imagenet(demo, k=3))
    judge = KNeighborsClassifier(
        3, metric="cosine", weights=lambda distance: np.exp((1 - distance) / 0.1)
    ).fit(*features_of(demo, "train"))
    expected = 100 * judge.score(*features_of(demo, "test"))
    assert result["metrics"]["top1"] == pytest.approx(expected, abs=0.01)
    assert expected > 20  # of 12.5 by chance: the comparison means something
    assert "top5" in result["metrics"]
    assert "matched" in log and result["handover"]["prefix"] == "backbone."


def test_svm_configs_run(demo, tmp_path):
    variables = {
        **demo.variables,
        "data_root": str(demo.folder / "VOCdevkit"),
        "classes": CLASSES,
        "costs": (0.1, 1.0),
        "jobs": 1,
    }
    full, log = run("svm_r50_voc07.py", tmp_path / "full", variables)
    assert list(full["metrics"]) == ["mAP"] and 0 < full["metrics"]["mAP"] < 100
    assert "48 training and 24 test images, 128 features" in log
    few = {**variables, "shots": (1, 2), "trials": 2, "pool_kernel": None}
    low, _ = run("svm_lowshot_r50_voc07.py", tmp_path / "low", few)
    assert list(low["metrics"]) == ["k1", "k2", "k1_std", "k2_std"]
    again, _ = run("svm_lowshot_r50_voc07.py", tmp_path / "again", few)
    assert again["metrics"] == low["metrics"]


def test_svm_features_are_windows_of_the_map():
    from mmssl_ext.evaluation.loops import PooledBackbone

    class Model(nn.Module):
        data_preprocessor = None

        def backbone(self, inputs):
            return (inputs,)

    maps = torch.arange(49.0).reshape(1, 1, 7, 7)
    windows = PooledBackbone(Model(), 6)(maps)["backbone"]
    # the mean of a window is its centre: first pixel plus 2.5 rows and 2.5 columns
    assert windows.tolist() == [[20.0, 21.0, 27.0, 28.0]]
    assert PooledBackbone(Model())(maps)["backbone"].tolist() == [[24.0]]
    assert PooledBackbone(Model(), 6)(maps[:, :, :1, :1])["backbone"].shape == (1, 1)


def test_evaluation_without_a_checkpoint_draws_random_weights(demo, tmp_path):
    """Runner.test alone would evaluate weights that nothing had initialised."""
    from mmengine.registry import init_default_scope

    from mmssl_ext.run.launch import build_runner, prepare

    cfg = load_config(CONFIGS / "knn_r50_imagenet.py", imagenet(demo, checkpoint=None))
    runner = build_runner(prepare(cfg, work_dir=str(tmp_path)))
    before = fingerprint(runner.model.backbone)
    runner.test()
    weight = runner.model.backbone.conv1.weight.detach()
    assert fingerprint(runner.model.backbone) != before
    # Kaiming, fan out: variance 2 / (16 x 7 x 7)
    assert float(weight.std()) == pytest.approx((2 / (16 * 49)) ** 0.5, rel=0.1)
    init_default_scope("mmssl_ext")
    assert len(DATASETS.build(cfg.test_dataloader.dataset)) == 24
