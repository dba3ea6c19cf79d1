"""The input check speaks before any work is done, and leaves no trace."""

import random
from copy import deepcopy

import numpy as np
import pytest
import torch
from mmengine.hooks import Hook
from mmengine.model import ImgDataPreprocessor, MMDistributedDataParallel
from torch.utils.data import DataLoader, IterableDataset

from mmssl_ext.engine.hooks import InputCheckHook
from mmssl_ext.errors import ConfigError
from mmssl_ext.registry import MODELS
from tests.harness import (
    ToyData,
    assert_same,
    config,
    knn,
    log_text,
    make_runner,
    toy_runner,
    write_images,
)
from tests.models.common import model_config

HOOK = {"type": "InputCheckHook"}


class Trace(Hook):
    """What reaches the training: views, generators, modes."""

    def __init__(self):
        self.seen = []

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        views = [view.tolist() for view in data_batch["inputs"]]
        draws = torch.rand(1).item(), np.random.rand(), random.random()
        self.seen.append((views, draws))


def watch(model, fail=None):
    """Give a model a check that notes what it sees, and tries to leave traces."""
    calls = []

    def check_inputs(inputs):
        shapes = [tuple(view.shape) for view in inputs]
        modes = {module.training for module in model.modules()}
        calls.append((shapes, modes, torch.is_grad_enabled()))
        torch.rand(1), np.random.rand(), random.random()
        model.neck(model.backbone(inputs[0]))
        if fail:
            raise fail

    model.check_inputs = check_inputs
    return calls


def built(images, tmp_path, **model):
    """A run with loop and loader, for the hook alone."""
    cfg = config(images, tmp_path)
    cfg.model.update(model)
    runner = make_runner(cfg)
    runner._train_loop = runner.build_train_loop(runner._train_loop)
    return runner


def check(runner):
    InputCheckHook().before_train(runner)


def test_training_is_the_same_with_and_without(images, tmp_path):
    traces, states = [], []
    for name, hooks in (("with", {"input_check": HOOK}), ("without", {})):
        cfg = config(images, tmp_path / name, epochs=1, **hooks)
        del cfg.default_hooks.augmentation_seed  # by which views would be alike anyway
        runner = make_runner(cfg, trace := Trace())
        calls = watch(runner.model)
        runner.train()
        traces.append(trace.seen)
        states.append(runner.model.state_dict())
        assert calls == [([(1, 3, 16, 16)] * 2, {False}, False)] * len(hooks)
    assert traces[0] == traces[1]
    assert_same(*states)


def test_modes_and_buffers_are_given_back_after_a_failure(images, tmp_path):
    runner = built(images, tmp_path)
    model = runner.model.train()
    watch(model, ValueError("The views do not suit."))
    model.backbone.bn1.eval()
    modes = [module.training for module in model.modules()]
    state = deepcopy(model.state_dict())
    expected = torch.get_rng_state()
    with pytest.raises(ConfigError):
        check(runner)
    assert [module.training for module in model.modules()] == modes
    assert torch.equal(torch.get_rng_state(), expected)
    assert_same(model.state_dict(), state)


@pytest.mark.parametrize("kind", [ValueError, TypeError])
def test_a_failing_check_is_one_sentence_before_any_work(images, tmp_path, kind):
    runner = make_runner(config(images, tmp_path, knn=knn(images), input_check=HOOK))
    watch(runner.model, kind("The views do not suit."))
    with pytest.raises(ConfigError, match=r"^The views do not suit\.$"):
        runner.train()
    assert runner.iter == 0
    assert runner.message_hub.get_info("knn_history") is None


def test_a_wrapped_model_is_checked(images, tmp_path, monkeypatch):
    runner = built(images, tmp_path)
    calls = watch(runner.model)
    wrapper = MMDistributedDataParallel.__new__(MMDistributedDataParallel)
    torch.nn.Module.__init__(wrapper)
    wrapper.module = runner.model
    runner.model = wrapper
    check(runner)
    assert len(calls) == 1


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            lambda data: (
                data.dataset.pipeline[1]
                .views[1]
                .append({"type": "CutPatches", "size": 6, "grid": 3})
            ),
            "The training pipeline fails on sample 0: CutPatches: an image of 16 x 16 "
            "pixels has cells of 5 x 5",
        ),
        (
            lambda data: data.collate_fn.update(type="pseudo_collate"),
            "MultiViewPreprocessor expects each view as one tensor",
        ),
        (
            lambda data: data.dataset.pipeline.insert(
                1, {"type": "torchvision/Resize", "size": 20}
            ),
            "The training pipeline fails on sample 0: Unexpected type <class "
            "'numpy.ndarray'>. Transforms for PIL images need DecodeImage("
            'backend="pil").',
        ),
    ],
    ids=["pipeline", "collate", "array"],
)
def test_a_failing_pipeline_is_one_sentence(images, tmp_path, change, sentence):
    cfg = config(images, tmp_path, input_check=HOOK)
    change(cfg.train_dataloader)
    runner = make_runner(cfg)
    with pytest.raises(ConfigError) as caught:
        runner.train()
    assert str(caught.value).startswith(sentence)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("unreadable", [2, 16])
def test_unreadable_images_are_passed_over(tmp_path, unreadable):
    images = write_images(tmp_path / "images")
    for path in sorted(images.rglob("*.png"))[:unreadable]:
        path.write_bytes(b"no image")
    runner = built(images, tmp_path)
    calls = watch(runner.model)
    check(runner)
    assert len(calls) == (unreadable < 16)


def test_boxes_are_refused_where_nobody_takes_them(images, tmp_path):
    runner = built(images, tmp_path)
    model = runner.model
    ours = model.data_preprocessor
    others = {
        MODELS.build(dict(type="mmpretrain.SelfSupDataPreprocessor")): (
            r"^SelfSupDataPreprocessor takes no boxes and index.*geometry=False"
        ),
        ImgDataPreprocessor(): r"^Old takes no boxes and index.*geometry=False",
    }

    class Old(type(model)):
        def forward(self, inputs, data_samples=None, mode="tensor"):
            return super().forward(inputs, data_samples, mode)

    model.__class__ = Old
    for other, sentence in others.items():
        model.data_preprocessor = other
        with pytest.raises(ConfigError, match=sentence):
            check(runner)
    Old.train_step = lambda self, data, optim_wrapper: None  # takes the batch apart
    model.data_preprocessor = ImgDataPreprocessor()
    model.check_inputs = lambda inputs: None
    check(runner)
    del Old.train_step, model.check_inputs
    runner.train_dataloader.dataset.pipeline[-1].geometry = False
    for preprocessor in (ours, next(iter(others))):
        model.data_preprocessor = preprocessor
        check(runner)


def test_a_method_that_needs_boxes_is_told_where_they_are_missing(images, tmp_path):
    terms = [dict(type="Consistency", temperature=0.05)]
    runner = built(images, tmp_path, terms=terms)
    assert runner.model.needs_boxes_of == []
    runner.model.terms["consistency"].needs_boxes = True
    assert runner.model.needs_boxes_of == [0, 1]
    check(runner)
    make, pack = runner.train_dataloader.dataset.pipeline[1:]
    make._placed[1] = False  # as after a transform of the user's
    name = type(runner.model).__name__
    with pytest.raises(ConfigError, match=f"^{name} compares .* where view 2 was cut"):
        check(runner)
    pack.geometry = False
    with pytest.raises(ConfigError, match="let MakeViews and PackViews"):
        check(runner)


def test_a_model_without_a_check_and_a_dataset_without_indices_train(tmp_path):
    runner = toy_runner(tmp_path, "input_check_toy", InputCheckHook(), epochs=1)
    runner.train()
    assert runner.iter == 6

    class Stream(IterableDataset):
        def __len__(self):
            return 24

        def __iter__(self):
            return (ToyData()[i] for i in range(24))

        def __getitem__(self, index):
            raise AssertionError("no index here")

    how = {"epochs": 1, "train_dataloader": DataLoader(Stream(), batch_size=4)}
    runner = toy_runner(tmp_path, "input_check_stream", InputCheckHook(), **how)
    runner.train()
    assert runner.iter == 6


def test_images_that_make_no_batch_are_refused(images, tmp_path):
    """Else a run ends well, with a checkpoint, and has trained nothing."""
    assert batches(images, tmp_path / "one", 16).iter == 1
    text = "The 16 training images make no whole batch of 17, "
    with pytest.raises(ConfigError, match=text):
        batches(images, tmp_path / "none", 17)
    assert not list((tmp_path / "none").rglob("*.pth"))


def batches(images, tmp_path, size, drop_last=True, model="MoCo", **changes):
    """A run whose first check has been passed, or not."""
    cfg = config(images, tmp_path / "run", input_check=HOOK)
    cfg.train_dataloader.update(batch_size=size, drop_last=drop_last)
    cfg.model = model_config(model, **changes)
    runner = make_runner(cfg)
    runner.train()
    return runner


@pytest.mark.parametrize(
    ("model", "size", "drop_last", "sentence"),
    [
        (
            *("SimSiam", 1, True),
            r"^Batches have one image, of which BatchNorm \(\S+\) has one value",
        ),
        (
            *("MoCo", 15, False),
            r"^The last batch of an epoch has one image \(16 images in batches of 15, "
            r"drop_last=False\), of which .* Set train_dataloader\.drop_last=True",
        ),
    ],
)
def test_a_batch_of_one_is_refused_before_training(
    images, tmp_path, model, size, drop_last, sentence
):
    with pytest.raises(ConfigError, match=sentence):
        batches(images, tmp_path, size, drop_last, model)
    assert not list((tmp_path / "run").glob("*.pth"))


@pytest.mark.parametrize(("size", "drop_last"), [(15, True), (14, False), (2, True)])
def test_batches_of_two_or_more_are_trained(images, tmp_path, size, drop_last):
    runner = batches(images, tmp_path, size, drop_last)
    assert runner.iter == {15: 1, 14: 2, 2: 8}[size]
    assert not [
        module for module in runner.model.modules() if module._forward_pre_hooks
    ]


def test_a_batch_of_one_is_trained_where_no_layer_minds(images, tmp_path):
    cfg = config(images, tmp_path / "run", input_check=HOOK)
    cfg.train_dataloader.batch_size = 1
    for view in cfg.train_dataloader.dataset.pipeline[1].views:
        view[0].size = 64  # the last stage has 2 x 2 values, and the neck no BatchNorm
    runner = make_runner(cfg)
    runner.train()
    assert runner.iter == 16


def test_queues_and_splits_that_a_batch_does_not_suit_are_said(images, tmp_path):
    said = log_text(batches(images, tmp_path, 3, queue_len=2, bn_splits=8))
    assert "Batches of 3 cannot be split into groups (bn_splits=8), so query" in said
    assert "The queue of 2 keys is shorter than a step of 3 images" in said
    assert said.count("cannot be split") == said.count("is shorter than") == 1
    said = log_text(batches(images, tmp_path / "other", 4, queue_len=4, bn_splits=8))
    assert "cannot be split" not in said and "is shorter than" not in said
