"""Mistakes in a config are named before anything is built."""

import re
from pathlib import Path

import pytest

from mmssl_ext.engine.config.checks import check_config
from mmssl_ext.engine.config.values import check_values
from mmssl_ext.errors import ConfigError
from mmssl_ext.run.launch import load_config
from tests.harness import REPO, config, loader, make_runner
from tests.models.common import model_config

SHIPPED = sorted(
    path for path in (REPO / "configs").rglob("*.py") if "_base_" not in path.parts
)


def base():
    return config(Path("images"), Path("run"), knn={"type": "KNNHook"})


def put(cfg, place, value):
    *parents, name = place.split(".")
    for parent in parents:
        cfg = cfg[int(parent) if parent.isdigit() else parent]
    cfg[name] = value


@pytest.mark.parametrize(
    ("place", "sentence"),
    [
        ("model.head.temprature", "QueueSoftmax has no option 'temprature'. Did you"),
        ("model.backbone.frozen_stags", "ResNet has no option"),
        ("train_dataloader.batchsize", "Did you mean batch_size"),
        ("train_dataloader.sampler.shufle", "DefaultSampler has no option 'shufle'"),
        ("train_dataloader.dataset.pipeline.1.view", "MakeViews has no option 'view'"),
        ("train_dataloader.dataset.pipeline.1.views.0.0.siz", "Did you mean size"),
        ("default_hooks.checkpoint.intervall", "Did you mean interval?"),
        ("optim_wrapper.optimizer.momentun", "Did you mean momentum?"),
        ("optim_wrapper.acumulative_counts", "Did you mean accumulative_counts?"),
        ("param_scheduler.0.etamin", "CosineAnnealingLR has no option"),
        ("train_cfg.max_epoch", "Did you mean max_epochs"),
    ],
)
def test_unknown_options(place, sentence):
    cfg = base()
    put(cfg, place, 1)
    with pytest.raises(ConfigError) as caught:
        check_config(cfg)
    text, written = str(caught.value), re.sub(r"\.(\d+)", r"[\1]", place)
    assert text.startswith(f"{written}: ") and sentence in text
    assert "Options: " in text and "\n" not in text


@pytest.mark.parametrize(
    ("place", "name", "meant"),
    [
        ("model", "MoCoo", "MoCo"),
        ("train_dataloader.dataset", "ImageFoldr", "ImageFolder"),
        ("train_dataloader.collate_fn", "default_colate", "default_collate"),
        ("default_hooks.knn", "KNNHok", "KNNHook"),
        ("optim_wrapper.optimizer", "SDG", "SGD"),
    ],
)
def test_unknown_types(place, name, meant):
    cfg = base()
    put(cfg, f"{place}.type", name)
    with pytest.raises(ConfigError) as caught:
        check_config(cfg)
    text = str(caught.value)
    assert text.startswith(f"{place}.type: there is no '{name}' among the ")
    assert meant in text.partition("Did you mean")[2]


def test_all_mistakes_are_listed_at_once():
    cfg = base()
    cfg.model.head.temprature = 1
    cfg.default_hooks.knn.bank_dataloader = loader("x") | {"batch": 1}
    with pytest.raises(ConfigError) as caught:
        check_config(cfg)
    assert len(str(caught.value).splitlines()) == 2


def test_heads_of_version_0_1_are_known_by_their_old_names():
    cfg = base()
    cfg.model = model_config("InterCLR")
    cfg.model["head"]["type"] = "InstanceHead"
    cfg.model["inter_head"]["type"] = "MarginHead"
    check_config(cfg)
    cfg.model["inter_head"]["margn"] = 0
    with pytest.raises(ConfigError, match=r"model\.inter_head\.margn: .*mean margin"):
        check_config(cfg)


def test_what_upstream_takes_out_or_passes_on_is_accepted():
    cfg = base()
    cfg.model.backbone = {  # ResNet_CIFAR passes its **kwargs on to ResNet
        "type": "mmpretrain.ResNet_CIFAR",
        "depth": 18,
        "zero_init_residual": False,
        "norm_cfg": {"type": "BN", "anything": 1},
        "init_cfg": {"type": "Kaiming", "layer": "Conv2d", "override": {"name": "x"}},
    }
    cfg.default_hooks.logger.priority = "LOW"
    cfg.optim_wrapper.update(
        clip_grad={"max_norm": 1, "type": "x"}, paramwise_cfg={"bias_lr_mult": 2}
    )
    cfg.param_scheduler[0].convert_to_iter_based = True
    check_config(cfg)


FIRST = {path.parent: path for path in reversed(SHIPPED)}.values()  # of each folder


@pytest.mark.parametrize(
    "path",
    [
        pytest.param(path, id=path.stem, marks=[pytest.mark.slow] * (path not in FIRST))
        for path in SHIPPED
    ],
)
def test_the_shipped_configs_are_free_of_mistakes(path):
    cfg = load_config(path)
    if cfg.default_scope == "mmssl_ext":
        check_config(cfg)


class Parent:
    def __init__(self, width=1):
        pass


class PassesOn(Parent):
    def __init__(self, **kwargs):
        def inner(**kwargs):
            return dict(**kwargs)

        super().__init__(**kwargs)
        self.inner = inner


class HandsOn(Parent):
    def __init__(self, name, **kwargs):
        super().__init__()
        self.made = dict(name=name, **kwargs)


class Below(HandsOn):
    def __init__(self, depth, **kwargs):
        super().__init__(name="x", **kwargs)


def test_options_that_a_class_hands_on_are_any():
    for kind in (HandsOn, Below):
        check_config({"model": {"type": kind, "wdth": 1}})
    with pytest.raises(ConfigError, match=r"PassesOn has no option 'wdth'.*width"):
        check_config({"model": {"type": PassesOn, "wdth": 1}})


def test_options_of_timm_are_its_own():
    cfg = base()
    cfg.model.backbone = {
        "type": "mmpretrain.TIMMBackbone",
        "model_name": "resnet10t",
        "features_only": True,
        "out_indices": (4,),
        "drop_path_rate": 0.1,
    }
    check_config(cfg)


def test_an_option_that_a_model_does_not_take_is_a_sentence(tmp_path):
    cfg = config(tmp_path, tmp_path, knn=None)
    cfg.model.backbone = {"type": "torchvision.models.resnet18", "widht": 3}
    with pytest.raises(ConfigError, match=r"cannot be built: .*unexpected .* 'widht'"):
        make_runner(cfg)


@pytest.mark.parametrize(
    ("place", "value", "wanted"),
    [
        ("train_cfg.max_epochs", 0, "1 or more"),
        ("train_cfg.val_interval", "2", "1 or more"),
        ("optim_wrapper.accumulative_counts", 0, "1 or more"),
        ("train_dataloader.batch_size", 8.0, "1 or more"),
        ("train_dataloader.num_workers", -1, "0 or more"),
        ("default_hooks.checkpoint.max_keep_ckpts", 1.5, "-1 or more"),
        ("default_hooks.logger.interval", True, "-1 or more"),
    ],
)
def test_numbers_that_a_run_counts_by(place, value, wanted):
    cfg = base()
    check_values(cfg)
    cfg.merge_from_dict({place: value})
    with pytest.raises(ConfigError) as caught:
        check_values(cfg)
    text = f"{place} is {value!r}: it must be a whole number of {wanted}"
    assert text in str(caught.value)


def test_a_warm_up_that_outlasts_the_training_is_a_sentence():
    config = REPO / "configs/ressl/ressl_r50_imagenet.py"
    check_values(load_config(config, {"max_epochs": 6}))
    sentence = r"^param_scheduler\.1 \(CosineAnnealingLR\) begins at 5 and ends at 5: t"
    with pytest.raises(ConfigError, match=sentence):
        check_values(load_config(config, {"max_epochs": 5}))
    check_values(load_config(config, {"max_epochs": 5, "lr_warmup": 0}))


@pytest.mark.parametrize("seed", [-1, 2**32, 1.5, True, "a"])
def test_a_seed_that_numpy_does_not_take(seed):
    cfg = base()
    cfg.merge_from_dict({"randomness.seed": seed})
    sentence = rf"randomness\.seed is {seed!r}: .* from 0 to 4294967295, or None"
    with pytest.raises(ConfigError, match=sentence):
        check_values(cfg)


@pytest.mark.parametrize(
    ("place", "value", "sentence"),
    [
        ("work_dir", 2024, r"work_dir is 2024: .* write \./2024\."),
        ("work_dir", "", "work_dir is '': it must be the path"),
        ("load_from", ["a.pth"], "load_from is .* must be the path"),
        ("default_hooks.checkpoint.out_dir", 5, r"out_dir is 5: .* write \./5\."),
        ("resume", "epoch_3.pth", "resume is 'epoch_3.pth'.*--resume FILE"),
    ],
)
def test_paths_that_are_none(place, value, sentence):
    cfg = base()
    cfg.merge_from_dict({place: value})
    with pytest.raises(ConfigError, match=sentence):
        check_values(cfg)
