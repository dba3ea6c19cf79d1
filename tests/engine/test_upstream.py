"""mmpretrain's own classes go every way that this package's methods go."""

from __future__ import annotations

import copy
from pathlib import Path
from unittest import mock

import pytest
import torch
from mmengine.registry import init_default_scope
from torch.nn.functional import normalize

import mmssl_ext
from mmssl_ext.chain.spec import read_chain
from mmssl_ext.engine.hooks import OnlineProbeHook
from mmssl_ext.engine.weights.files import read_tensors
from mmssl_ext.errors import ConfigError
from mmssl_ext.registry import MODELS
from mmssl_ext.run.evaluate import evaluate_checkpoint
from mmssl_ext.run.launch import load_config
from mmssl_ext.transfer.export import export_backbone
from mmssl_ext.upstream import Listener, embed, rows_of
from mmssl_ext.visualization.pictures import learned
from mmssl_ext.visualization.pictures.subject import Options
from tests.harness import (
    REPO,
    assert_same,
    config,
    knn,
    log_rows,
    log_text,
    make_runner,
    write_images,
)

FILE = REPO / "configs" / "mmpretrain" / "mmpretrain_r18_demo.py"
NAMES = ("BYOL", "BarlowTwins", "MoCoV3", "SimCLR", "SimSiam", "SwAV")
TARGETS = ("BYOL", "MoCoV3")  # have a second network
SMALL = dict(base_channels=8, hid_channels=16, out_channels=16, num_prototypes=8)
# As their own: the budget of our BYOL is not for mmpretrain's.
every_class = pytest.mark.parametrize("name", NAMES, ids=lambda name: f"its{name}")
some_classes = pytest.mark.parametrize(
    "name",
    [
        pytest.param(
            name,
            marks=[pytest.mark.slow] * (name not in ("BYOL", "SwAV")),
            id=f"its{name}",
        )
        for name in NAMES
    ],
)


def model_config(name, **changes):
    return load_config(FILE, SMALL | dict(method=name) | changes).model


def run_config(name, images, work_dir, epochs=1):
    """Two epochs of the model of the shipped config on 16 tiny images, or fewer."""
    hooks = dict(
        knn=knn(images, encoder="both" if name in TARGETS else "query"),
        input_check=dict(type="InputCheckHook"),
        collapse=dict(type="CollapseMonitorHook", interval=1),
        report=dict(type="ReportHook"),
        resume=dict(type="ExactResumeHook"),
    )
    cfg = config(images, work_dir, epochs, **hooks)
    cfg.default_hooks.checkpoint.max_keep_ckpts = 2
    cfg.model = model_config(name, strides=(1, 2, 2, 2))
    cfg.custom_hooks = [dict(type="OnlineProbeHook", interval=1)]
    return cfg


def build(name, **changes):
    init_default_scope("mmssl_ext")
    torch.manual_seed(0)
    model = MODELS.build(model_config(name, **changes))
    model.init_weights()
    return model.train()


def target_of(model):
    """The second network of BYOL or MoCo v3."""
    return getattr(model, "target_net", None) or model.momentum_encoder


def views(count=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(count, 3, 32, 32, generator=generator) for _ in range(2)]


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return write_images(tmp_path_factory.mktemp("upstream") / "images")


@pytest.fixture(scope="module")
def runs(images, tmp_path_factory):
    """A finished run of two epochs of each class: its Runner, made when asked for."""
    made: dict = {}

    def get(name):
        if name not in made:
            work_dir = tmp_path_factory.mktemp(name)
            runner = make_runner(run_config(name, images, work_dir, 2))
            runner.train()
            made[name] = runner
        return made[name]

    return get


@some_classes
def test_trains_with_knn_health_probe_and_report(name, runs):
    runner = runs(name)
    assert type(runner.model).__module__.startswith("mmpretrain.")
    rows = [row for row in log_rows(runner) if "loss" in row]
    assert len(rows) == 4
    for row in rows:
        assert 0 < row["health/std_ratio"] < 1.2 and row["health/alignment"] > 0
        assert "probe/train_top1" in row
    history = runner.message_hub.get_info("knn_history")
    expected = {"backbone_top1", "embedding_top1"}
    if name in TARGETS:
        expected |= {f"key_{figure}" for figure in expected}
    assert [x["epoch"] for x in history] == [0, 1, 2]
    assert history[-1].keys() - {"epoch", "iter"} >= expected
    page = Path(runner.work_dir, "report.html").read_text()
    assert f"{name} on ImageFolder" in page and "Effective rank" in page
    assert "monitor is inactive" not in log_text(runner)
    assert not runner.model.neck._forward_hooks  # left as they were


@some_classes
def test_weights_arrive(name, runs, images, tmp_path):
    runner = runs(name)
    file = Path(runner.work_dir, "epoch_2.pth")
    state = dict(runner.model.backbone.state_dict())
    backbone = copy.deepcopy(runner.cfg.model.backbone)
    backbone.init_cfg = dict(type="PretrainedBackbone", checkpoint=str(file))
    network = MODELS.build(backbone)
    network.init_weights()
    assert_same(dict(network.state_dict()), state)
    (exported,) = export_backbone(file, tmp_path / "x", ["mm"]).values()
    found = {k.removeprefix("backbone."): v for k, v in read_tensors(exported).items()}
    assert_same({k: found[k] for k in state}, state)
    rows = mmssl_ext.embed(file, images, size=16, device="cpu", workers=0)
    assert rows.features.shape == (16, 64)


@pytest.mark.parametrize("name", ["MoCoV3", "SwAV"])
def test_tools_take_the_checkpoint(name, runs, images, tmp_path):
    runner = runs(name)
    file = Path(runner.work_dir, "epoch_2.pth")
    found = evaluate_checkpoint(run_config(name, images, tmp_path / "test"), file)
    last = runner.message_hub.get_info("knn_history")[-1]
    assert {key: last[key] for key in found} == pytest.approx(found)
    cfg = run_config(name, images, tmp_path / "see")
    given = learned.load_subject(cfg, file, images, Options(num=4))
    with learned.undisturbed(given.model):
        learned.DRAWINGS["neighbours"].draw(given)
        with pytest.raises(ConfigError, match=f"^{name} has nothing to draw of its"):
            learned.DRAWINGS["method"].draw(given)


@some_classes
def test_a_resumed_run_ends_as_the_whole_one(name, runs, images, tmp_path):
    whole = runs(name)
    first = Path(whole.work_dir, "epoch_1.pth")
    cfg = run_config(name, images, tmp_path / "resumed", 2)
    runner = make_runner(cfg, resume=str(first))
    runner.train()
    assert runner.iter == whole.iter == 8
    assert_same(runner.model.state_dict(), whole.model.state_dict())


def test_a_chain_takes_the_config(tmp_path):
    file = tmp_path / "chain.py"
    file.write_text(
        f"pretrain = dict(config={str(FILE)!r}, options=dict(method='SwAV'))\n"
        "sources = {'random': None, 'swav': 'pretrain'}\n"
        "transfers = dict(knn=dict(config="
        "'configs/transfer/classification/knn_r50_imagenet.py', "
        "options=dict(depth=18, base_channels=32)))\n"
    )
    chain = read_chain(file)
    model = chain.stage("pretrain").load().model
    assert model.type == "mmpretrain.SwAV"
    assert [stage.needs for stage in chain.stages] == [None, None, "pretrain"]


# What they embed


@every_class
def test_embedding_is_the_projection(name):
    model, (image, _) = build(name).eval(), views()
    with torch.no_grad():
        found = embed(model, image)
        maps = model.backbone(image)
        pooled = maps[-1].mean((2, 3))
        neck = model.neck.projection_neck if name == "SwAV" else None
        wanted = normalize(neck(pooled)) if neck else model.neck(maps)[0]
        torch.testing.assert_close(found["backbone"], pooled)
        torch.testing.assert_close(found["embedding"], wanted)
        if name not in TARGETS:
            with pytest.raises(ValueError, match=f"^mmpretrain's {name} has no target"):
                embed(model, image, mode="embed_key")
            return
        target = target_of(model)
        for parameter in target.parameters():
            parameter.mul_(2)
        key = embed(model, image, mode="embed_key")
        torch.testing.assert_close(key["embedding"], target(image)[0])
        assert not torch.allclose(key["embedding"], found["embedding"])


@every_class
def test_health_is_that_of_both_views_in_the_order_of_the_images(name):
    model, inputs = build(name).eval(), views(5)
    torch.manual_seed(0)
    if name in TARGETS:  # its momentum follows the length of a run
        target_of(model).update_parameters = lambda source: None
    listener = Listener(model)
    model(inputs, [], mode="loss")
    assert listener.embeddings(5) == {}  # of training alone
    model.neck.training = True  # its layers are not: rows do not see each other
    with torch.no_grad():
        model(inputs, [], mode="loss")
    found = listener.embeddings(5)
    for key, view in zip(("query", "key"), inputs, strict=True):
        wanted = normalize(embed(model, view)["embedding"])
        torch.testing.assert_close(found[key], wanted)
    listener.clear()
    assert listener.embeddings(5) == {}
    listener.remove()


def test_simclr_puts_the_views_of_an_image_together():
    rows = torch.arange(8.0)[:, None]
    simclr, other = build("SimCLR"), build("SwAV")
    assert rows_of(simclr, rows, 0, 4).flatten().tolist() == [0, 2, 4, 6]
    assert rows_of(simclr, rows, 1, 4).flatten().tolist() == [1, 3, 5, 7]
    assert rows_of(other, rows, 1, 4).flatten().tolist() == [4, 5, 6, 7]
    assert rows_of(simclr, rows[:4], 0, 4).flatten().tolist() == [0, 1, 2, 3]


def test_the_probe_learns_from_rows_in_the_order_of_the_labels(images, tmp_path):
    """Of SimCLR's backbone, which gets both views of an image together."""
    cfg, given, taken = run_config("SimCLR", images, tmp_path), [], []
    for name in ("knn", "report", "resume"):
        cfg.default_hooks.pop(name)
    runner, descend = make_runner(cfg), OnlineProbeHook._descend

    def spy(hook, rows, labels):
        taken.append(rows)
        return descend(hook, rows, labels)

    def note(backbone, args, output):
        if backbone.training:
            given.append(output[-1].detach().mean((2, 3))[0::2])

    runner.model.backbone.register_forward_hook(note)
    with mock.patch.object(OnlineProbeHook, "_descend", spy):
        runner.train()
    assert len(taken) == 4
    for rows, wanted in zip(taken, given, strict=True):
        torch.testing.assert_close(rows, wanted)


# What does not fit


def first(views, count):
    views[:] = [views[0]] * count


WRONG = {
    "one": ("BYOL", 1, {}, "mmpretrain's BYOL takes two views per image, not 1"),
    "three": ("SimCLR", 3, {}, "mmpretrain's SimCLR takes two views per image, not 3"),
    "crops": ("SwAV", 3, {}, "SwAV's loss counts 2 crops; set head.loss.num_crops"),
    "swav": ("SwAV", 2, {"head.loss.feat_dim": 8}, "set head.loss.feat_dim to 16."),
    "twins": ("BarlowTwins", 2, {"head.in_channels": 8}, "set head.in_channels to 16."),
    "neck": ("SwAV", 2, {"neck.in_channels": 8}, "set neck.in_channels to 64"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_run_ends_before_its_first_step(case, images, tmp_path):
    name, count, changes, sentence = WRONG[case]
    cfg = run_config(name, images, tmp_path)
    first(cfg.train_dataloader.dataset.pipeline[1].views, count)
    cfg.merge_from_dict({f"model.{k}": v for k, v in changes.items()})
    with pytest.raises(ConfigError, match=sentence) as caught:
        make_runner(cfg).train()
    assert "\n" not in str(caught.value)


TINY = dict(embed_dims=16, num_layers=1, num_heads=2, feedforward_channels=16)


def test_masked_images_have_no_embedding():
    backbone = dict(type="MAEViT", arch=TINY, patch_size=16, img_size=32)
    neck = dict(type="MAEPretrainDecoder", num_patches=4, embed_dim=16)
    head = dict(
        type="MAEPretrainHead",
        patch_size=16,
        loss=dict(type="PixelReconstructionLoss", criterion="L2"),
    )
    init_default_scope("mmssl_ext")
    model = MODELS.build(
        dict(type="mmpretrain.MAE", backbone=backbone, neck=neck, head=head)
    )
    with pytest.raises(ValueError, match="How mmpretrain's MAE embeds a whole image"):
        embed(model, torch.zeros(1, 3, 32, 32))
