"""Every shipped config: loads, is checked, builds, makes views and takes a step."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.dataset import default_collate
from mmengine.optim import OptimWrapper, build_optim_wrapper
from mmengine.registry import init_default_scope
from mmpretrain.engine.optimizers import LARS
from mmpretrain.models import ResNet
from PIL import Image

from mmssl_ext.errors import ConfigError, UserValueError
from mmssl_ext.registry import HOOKS, MODELS, PARAM_SCHEDULERS, TRANSFORMS
from mmssl_ext.run.launch import load_config, prepare

from .models.common import boxes, samples, teach

ROOT = Path(__file__).parents[1] / "configs"
CONFIGS = sorted(
    str(p.relative_to(ROOT))
    for p in ROOT.rglob("*.py")
    if not {"_base_", "transfer", "chains", "mmpretrain"}
    & set(p.relative_to(ROOT).parts)
)


def load(name, **options):
    cfg = load_config(ROOT / name, options)
    prepare(cfg, work_dir="unused")
    init_default_scope("mmssl_ext")
    return cfg


def rates(name):
    """Learning rate of every epoch, from the config's own schedule."""
    cfg = load(name)
    optimizer = torch.optim.SGD(
        [torch.nn.Parameter(torch.zeros(1))], lr=cfg.optim_wrapper.optimizer.lr
    )
    schedulers = [
        PARAM_SCHEDULERS.build(s | dict(optimizer=optimizer))
        for s in cfg.param_scheduler
    ]
    history = []
    for _ in range(cfg.train_cfg.max_epochs):
        history.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        for scheduler in schedulers:
            scheduler.step()
    return history


# The demo of every method, and of two recipes the whole size; `make test-all` has all.
WHOLE = ("co2/co2_r50_imagenet.py", "co2/co2_r18_cifar10.py")
# For CPU cores, by the variable of configs/_base_/r18_cifar10.py
SHORT = ("detco/detco", "regioncl/regionclm", "simclr/simclr", "byol/byol")


@pytest.mark.parametrize(
    ("name", "options"),
    [
        pytest.param(
            name,
            {},
            marks=[pytest.mark.slow] * ("_demo" not in name and name not in WHOLE),
        )
        for name in CONFIGS
    ]
    + [(f"{name}_r18_cifar10.py", dict(cpu=True)) for name in SHORT],
)
@pytest.mark.filterwarnings("error:bn_splits", "ignore:The batch of 4 images")
def test_takes_a_step(name, options, tmp_path):
    cfg = load(name, **options)
    torch.manual_seed(0)
    if cfg.model.type == "SimReg":
        teacher = cfg.model.teacher.backbone
        teacher.depth = 18
        teacher.init_cfg.checkpoint = str(tmp_path / "teacher.pth")
        torch.save(ResNet(18).state_dict(), teacher.init_cfg.checkpoint)
    model = MODELS.build(cfg.model)
    model.init_weights()
    photo = Image.fromarray(
        np.random.default_rng(0).integers(0, 256, (80, 90, 3), "u1")
    )
    pipeline = with_donors(cfg.train_dataloader.dataset.pipeline, tmp_path)
    if cfg.model.type == "CCOP":
        pipeline[1] = dict(type="LoadProposals", ann_file=write_proposals(tmp_path))
    views = make_views(pipeline, photo)
    if len(views) > 1 and cfg.model.type != "BGSwaps":
        assert [v.shape for v in views[0::2]] == [v.shape for v in views[1::2]]
    model.train().check_views([v[None] for v in views])
    # Blocks that start as the identity learn from the second step on, and little.
    steps, factor = (2, 100) if cfg.model.backbone.zero_init_residual else (1, 1)
    optimizer = torch.optim.SGD(
        [p for p in model.parameters() if p.requires_grad],
        lr=factor * cfg.optim_wrapper.optimizer.lr,
    )
    model.clock.total = model.clock.epoch_length = 10**6
    model.clock.set(500_000)  # behind every warm-up
    if cfg.model.type in ("InterCLR", "DSC"):
        model.clock.epoch_length = 1000
    if cfg.model.type == "InterCLR":
        term = model.terms.inter
        labels = torch.arange(2 * term.labels.num_clusters) // 2
        term.bank.fill(torch.randn(len(labels), 128))
        term.labels.set_labels(labels, term.bank)
    if cfg.model.type == "CMSF":
        supervised = cfg.model.constraint.type == "SameLabel"
        many = torch.arange(60_000)  # images, or their classes
        model.compare.constraint.prepare(many % 9 if supervised else len(many))
    if cfg.model.type == "TKC":
        model.clock.epoch_length = 999
        teach(model, torch.Generator().manual_seed(0))
    if cfg.model.type == "IFND":
        model.compare.prepare(60_000)
    if cfg.model.type == "ProPos":
        model.clock.epoch_length = 1000
        model.terms.scattering.clusters.prepare(60_000)
    before = {k: p.clone() for k, p in model.named_parameters() if p.requires_grad}
    for _ in range(steps):
        inputs = small_batch(cfg, views)
        count = len(inputs[0])
        batch = dict(inputs=inputs, data_samples=samples(count))
        batch["boxes"] = boxes(count, len(inputs))
        if cfg.model.type == "CCOP":
            sides = torch.tensor([0.1, 0.3, 0.6, 1.0])  # one for each level
            corners = torch.stack([0 * sides, 0 * sides, sides, sides], 1)
            batch["objects"] = corners[None, :, None].expand(count, -1, 2, -1)
        log = model.train_step(batch, OptimWrapper(optimizer))
    assert torch.isfinite(log["loss"])
    assert ("loss_consistency" in log) == ("co2" in name)
    for key, old in before.items():
        if key.endswith(".conv1.bias"):
            continue  # a ConvProjector's BatchNorm takes it out: rounding may move it
        assert not torch.equal(old, model.get_parameter(key)), key


def small_batch(cfg, views):
    """Noise of few pixels; regions and boxes need the size of the config."""
    cells = cfg.model.type in ("DenseCL", "DSC") or "lcloss" in cfg.filename
    side = 64 if "neck" not in cfg.model or cells else 32
    whole = "region" in cfg.model or cfg.model.type == "CCOP"
    batch, side = (2, views[0].shape[-1]) if whole else (8, side)
    if views[-1].ndim == 4:  # with patches, of which each image has nine
        batch = 4
    shapes = [(3, side, side) if v.ndim == 3 else (9, 3, 32, 32) for v in views]
    return [torch.randint(256, (batch, *s), dtype=torch.uint8) for s in shapes]


def with_donors(pipeline, folder):
    """Let backgrounds come from two images of a folder, whatever the config names."""
    for view in (v for t in pipeline for v in t.get("views", ())):
        for transform in view:
            if "donors" in transform:
                for i in range(2):
                    Image.new("RGB", (40, 40), (90 * i, 9, 9)).save(folder / f"{i}.png")
                donors = dict(type="ImageFolder", root=str(folder))
                transform.donors = donors | dict(pipeline=transform.donors.pipeline)
    return pipeline


def write_proposals(folder):
    """A file of proposals of the photo."""
    file = folder / "proposals.json"
    images = [dict(id=1, file_name="photo", width=90, height=80)]
    boxes = [dict(id=1, image_id=1, bbox=[20, 20, 40, 50], score=1)]
    file.write_text(json.dumps(dict(images=images, annotations=boxes)))
    return str(file)


def make_views(pipeline, photo):
    """The views of a photo as the model gets them, not normalised."""
    from mmssl_ext.datasets.base import SSLDataset

    class One(SSLDataset):
        def describe(self, row):
            return dict(img_path="photo", img=photo)

    transforms = [TRANSFORMS.build(t) for t in pipeline]
    prepare_batch = MODELS.build(
        dict(type="MultiViewPreprocessor", mean=(0, 0, 0), std=(1, 1, 1))
    )
    batch = prepare_batch(default_collate([One(1, transforms)[0]]))["inputs"]
    return batch[0] if isinstance(batch, torch.Tensor) else [view[0] for view in batch]


def test_size_of_the_views():
    photo = Image.new("RGB", (300, 200))
    for name, size in (("r50_imagenet", 224), ("r18_cifar10", 32)):
        pipeline = load(f"co2/co2_{name}.py").train_dataloader.dataset.pipeline
        shapes = [tuple(view.shape) for view in make_views(pipeline, photo)]
        assert shapes == [(3, size, size)] * 2


@pytest.mark.parametrize(
    "name", ["mocov2/mocov2_r50_imagenet.py", "co2/co2_r50_imagenet.py"]
)
def test_imagenet_recipe(name):
    cfg = load(name)
    assert cfg.train_dataloader.batch_size == 32
    assert cfg.auto_scale_lr.base_batch_size == 256
    assert cfg.optim_wrapper.optimizer == dict(
        type="SGD", lr=0.03, momentum=0.9, weight_decay=1e-4, fused=True
    )
    model = MODELS.build(cfg.model)
    assert sum(p.numel() for p in model.parameters()) == 55_933_312
    assert model.compare.queue.keys.shape == (65536, 128)
    lr = rates(name)
    assert len(lr) == 200
    assert [lr[0], lr[100], lr[199]] == pytest.approx([0.03, 0.015, 1.85e-6], rel=1e-3)


def test_imagenet_uses_the_fast_runtime_and_its_switches():
    """What the files say, before `prepare` adapts it to the device."""
    file = ROOT / "mocov2/mocov2_r50_imagenet.py"
    fast, plain = load_config(file), load_config(ROOT / "mocov2/mocov2_r18_cifar10.py")
    assert fast.optim_wrapper.type == "AmpOptimWrapper"
    assert fast.optim_wrapper.dtype == "bfloat16"
    assert fast.optim_wrapper.loss_scale == dict(enabled=False)
    assert fast.default_hooks.performance == dict(
        type="PerformanceHook",
        channels_last=True,
        tf32="conv",
        prefetch=True,
        compile=None,
    )
    # Logged and checked together, so that nothing else waits for the device.
    hooks = fast.default_hooks
    assert hooks.logger.interval == hooks.guard.interval == hooks.collapse.interval
    for cfg in (fast, plain):
        assert cfg.default_hooks.runtime_info.type == "DeferredRuntimeInfoHook"
    assert plain.default_hooks.performance == dict(type="PerformanceHook")
    assert "fused" not in plain.optim_wrapper.optimizer
    # An optimizer that is not torch's own
    cfg = load_config(file, {"optim_wrapper.optimizer.type": "LARS"})
    with pytest.raises(ConfigError, match=r"optimizer\.fused: LARS has no option"):
        prepare(cfg, work_dir="unused")


SAME = ("train_dataloader", "optim_wrapper", "param_scheduler", "train_cfg")


def same(one, other, *names):
    """Two configs have the same data, optimizer and schedule."""
    for key in names or SAME:
        assert one[key] == other[key], key


@pytest.mark.parametrize("base", ["mocov2", "byol", "simsiam"])
def test_small_crops_are_all_that_multi_crop_adds(base):
    for kind, count in (("r18_demo", 2), ("r50_imagenet", 6)):
        plain, cropped = (
            load(f"{base}/{name}_{kind}.py") for name in (base, f"{base}_multicrop")
        )
        pairs = cropped.model.pop("pairs")
        assert pairs.locals == count and cropped.model.pop("grouping") == "size"
        if base == "byol":  # on the scale of two pairs that are summed
            assert cropped.model.pop("reduce") == "mean"
            assert cropped.model.pop("weights") == dict(instance=2)
        assert cropped.model == plain.model
        same(cropped, plain, "optim_wrapper", "param_scheduler", "train_cfg")
        views = cropped.train_dataloader.dataset.pipeline[1].views
        large, small = views[0][0], views[-1][0]
        assert len(views) == 2 + count and large.scale[0] == small.scale[1]


def test_co2_differs_from_moco_and_byol_by_the_term_alone():
    moco, co2 = load("mocov2/mocov2_r50_imagenet.py"), load("co2/co2_r50_imagenet.py")
    term = co2.model.pop("consistency")
    assert term == dict(temperature=0.05, weight=0.3)
    assert co2.model == moco.model | dict(type="CO2")
    same(co2, moco)
    byol, both = (load(f"byol/{name}_r18_cifar10.py") for name in ("byol", "byol-co2"))
    (term,) = both.model.pop("terms")
    assert both.model.pop("weights") == dict(consistency=0.3)
    assert both.model == byol.model
    assert term.temperature == 0.05 and term.queue_len == 4096
    same(both, byol)


def test_ascl_and_ressl_differ_from_moco_by_the_label_and_the_view_of_the_key():
    def views_of(cfg):
        views = cfg.train_dataloader.dataset.pipeline[1].pop("views")
        return [[transform.type for transform in view] for view in views]

    moco, ascl = (
        load("mocov2/mocov2_r50_imagenet.py"),
        load("ascl/ascl_r50_imagenet.py"),
    )
    head = dict(temperature=0.1, target_temperature=0.05, num_neighbours=1)
    head["type"] = "NeighbourSoftmax"
    assert ascl.model == moco.model | dict(type="ASCL", head=head)
    strong, weak = views_of(ascl)
    assert weak == ["RandomResizedCrop", "RandomFlip"]
    assert views_of(moco) == [strong, strong]
    same(ascl, moco)
    ressl = load("ressl/ressl_r50_imagenet.py")
    head = dict(type="RelationSoftmax", temperature=0.1, target_temperature=0.04)
    assert ressl.model.head == head
    assert (ressl.model.queue_len, ressl.model.neck.out_channels) == (131_072, 512)
    assert views_of(ressl) == [strong, weak]
    decays = ressl.optim_wrapper.paramwise_cfg
    assert decays == dict(norm_decay_mult=0, bias_decay_mult=0)
    assert ressl.optim_wrapper.optimizer.lr == 0.05
    assert ressl.param_scheduler[0].end == 5  # epochs
    cifar = load("ascl/ascl_r18_cifar10.py")
    assert cifar.train_dataloader.batch_size == cifar.auto_scale_lr.base_batch_size
    assert (cifar.optim_wrapper.optimizer.lr, cifar.model.queue_len) == (0.03, 4096)
    byol, both = load("byol/byol_r18_cifar10.py"), load("ascl/ascl-byol_r18_cifar10.py")
    (term,) = both.model.pop("terms")
    assert both.model.pop("weights") == dict(instance=0, neighbours=1)
    assert both.model == byol.model and term.type == "Neighbours"
    same(both, byol)


def test_mochi_and_xmoco_differ_from_moco_by_negatives_and_terms():
    moco = load("mocov2/mocov2_r50_imagenet.py")
    mochi, xmoco = (load(f"{n}/{n}_r50_imagenet.py") for n in ("mochi", "xmoco"))
    counts = dict(num_hardest=1024, num_mixed=1024, num_with_query=128)
    begun = dict(kind="step", start=0, end=1, until=15, unit="epoch")
    head = moco.model.head | dict(type="MixedNegativesSoftmax", mixing=begun, **counts)
    assert mochi.model == moco.model | dict(type="MoCHi", head=head)
    risen = dict(kind="linear", start=0, end=10, until=5, unit="epoch")
    weights = dict(cross_consistency=risen, cross_uniformity=0.01)
    terms = [dict(type="CrossConsistency"), dict(type="CrossUniformity")]
    assert xmoco.model == moco.model | dict(terms=terms, weights=weights)
    for cfg in (mochi, xmoco):
        same(cfg, moco)
    for recipe, queue in (("cifar10", 4096), ("demo", 1024)):
        small = load(f"mochi/mochi_r18_{recipe}.py").model
        found = [small.head[name] for name in counts]
        assert small.queue_len == queue == 64 * found[0]
        assert found == [found[0], found[0], found[0] // 8]


@pytest.mark.parametrize("base", ["mocov2", "byol", "simsiam"])
def test_lcloss_differs_from_its_base_by_the_term_and_the_size_of_the_maps(base):
    for recipe in ("r50_imagenet", "r18_demo", "r18_cifar10"):
        plain = load(f"{base}/{base}_{recipe}.py")
        ours = load(f"lcloss/lcloss_{base}_{recipe}.py")
        (term,) = ours.model.pop("terms")
        fixed = dict(type="LocalContrast", points=7, weight=1.0)
        assert fixed.items() <= dict(term).items()
        assert ("predictor_channels" in term) == (base != "mocov2")
        assert ours.model == plain.model
        same(ours, plain, *SAME[1:] if recipe == "r18_demo" else SAME)
    seen = [x.shape[-1] for x in views_of_demo("lcloss/lcloss_byol")]
    assert seen == [112, 112]


def views_of_demo(name):
    cfg = load(f"{name}_r18_demo.py")
    photo = Image.new("RGB", (96, 96))
    return make_views(cfg.train_dataloader.dataset.pipeline, photo)


def test_pixpro_recipe():
    """Widths and numbers of parameters of the sheet; data and schedule are BYOL's."""
    cfg, byol = load("pixpro/pixpro_r50_imagenet.py"), load("byol/byol_r50_imagenet.py")
    same_views = ("train_dataloader", "dataset")
    assert cfg[same_views[0]][same_views[1]] == byol[same_views[0]][same_views[1]]
    assert load_config(ROOT / "pixpro/pixpro_r50_imagenet.py").sync_bn == "torch"
    model = MODELS.build(cfg.model)
    assert sum(p.numel() for p in model.neck.parameters()) == 9_449_728
    assert sum(p.numel() for p in model.terms.parameters()) == 65_792
    pixel, momentum = model.terms.pixel, model.target.momentum
    assert (pixel.gamma, pixel.threshold, pixel.layers) == (2, 0.7, 1)
    assert (momentum.kind, momentum.start, momentum.end) == ("cosine", 0.99, 1)
    assert cfg.model.backbone.zero_init_residual and model.reduce == "sum"
    branch = MODELS.build(load("pixpro/pixpro-inst_r50_imagenet.py").model)
    assert branch.weight_of("instance") == 1
    parts = branch.terms.instance
    assert sum(p.numel() for p in parts.head.parameters()) == 9_449_728
    assert sum(p.numel() for p in parts.predictor.parameters()) == 2_109_696
    contrast = load("pixpro/pixcontrast_r50_imagenet.py")
    assert contrast.model.pixel == dict(temperature=0.3, threshold=0.7)
    same(contrast, cfg)
    demo = [x.shape[-1] for x in views_of_demo("pixpro/pixpro")]
    assert demo == [112, 112] and load("pixpro/pixpro_r18_demo.py").lr_batch == 64
    assert load("pixpro/pixpro_r18_demo.py").model.pixel.layers == 2  # one collapses


def test_tkc_differs_from_moco_by_the_term_alone():
    for recipe, interval in (
        ("r50_imagenet", 10),
        ("r18_cifar10", 10),
        ("r18_demo", 2),
    ):
        moco, tkc = (load(f"{n}_{recipe}.py") for n in ("mocov2/mocov2", "tkc/tkc"))
        term = dict(num_teachers=2, interval=interval, hidden=512, weight=1.0)
        term |= dict(form="regression", learn_weights=False)
        assert tkc.model == moco.model | dict(type="TKC", temporal=term)
        same(tkc, moco)
        epochs = tkc.train_cfg.max_epochs
        assert interval == round(epochs / 20)  # a twentieth of the training


def test_backgrounds_change_behind_the_crop_and_nothing_else_does():
    for recipe in ("r50_imagenet", "r18_demo", "r18_cifar10"):
        plain = load(f"mocov2/mocov2_{recipe}.py")
        (view, _) = plain.train_dataloader.dataset.pipeline[1].views
        for kind in ("remove", "random", "swaps"):
            cfg = load(f"bgaug/bg{kind}_{recipe}.py", background_prob=0.3)
            _, mask, made, _ = cfg.train_dataloader.dataset.pipeline
            assert mask.type == "LoadMask" and mask.masks == "border"
            modes = []
            for mine in made.views:
                assert mine[0] == view[0]
                own = [t for t in mine if t not in view]
                assert [t for t in mine if t in view] == view and own == mine[1:][
                    : len(own)
                ]
                modes += [t.get("mode", t.type) for t in own] or ["none"]
                assert all(t.get("prob", 0.3) == 0.3 for t in own)
            if kind == "swaps":
                assert modes == ["none", "random", "SwapSubject"]
                head = plain.model.head | dict(type="ExtraNegativeSoftmax")
                assert cfg.model == plain.model | dict(type="BGSwaps", head=head)
            else:
                assert modes == [kind, kind] and cfg.model == plain.model
            same(cfg, plain, "optim_wrapper", "param_scheduler", "train_cfg")


def test_a_background_that_is_none_is_refused(tmp_path):
    for given, said in (
        ("rm", """mode must be "remove" or "random", but is 'rm'"""),
        ("swap", "BG_Swaps has configs of its own, configs/bgaug/bgswaps_"),
    ):
        cfg = load("bgaug/bgremove_r18_demo.py", background=given)
        made = with_donors(cfg.train_dataloader.dataset.pipeline, tmp_path)[2]
        with pytest.raises(UserValueError, match=said):
            TRANSFORMS.build(made)


@pytest.mark.parametrize("base", ["mocov2", "byol"])
def test_unmix_differs_from_its_base_by_the_term_alone(base):
    for recipe in ("r50_imagenet", "r18_demo", "r18_cifar10"):
        plain = load(f"{base}/{base}_{recipe}.py")
        mixed = load(f"unmix/unmix_{base}_{recipe}.py")
        (term,) = mixed.model.pop("terms")
        assert term == dict(type="UnMix", mixup_prob=0.5, alpha=1.0, weight=1.0)
        assert mixed.model == plain.model
        same(mixed, plain, "train_dataloader", "optim_wrapper")
        if recipe != "r18_cifar10":
            same(mixed, plain)
    assert mixed.train_cfg.max_epochs == 1000


def test_mocov1_recipe():
    name = "co2/co2_mocov1_r50_imagenet.py"
    cfg = load(name)
    assert cfg.model.head.temperature == 0.07
    assert cfg.model.consistency == dict(temperature=0.04, weight=10)
    layers = [
        m
        for m in MODELS.build(cfg.model).neck.modules()
        if not list(m.children()) and list(m.parameters())
    ]
    assert [(m.in_features, m.out_features) for m in layers] == [(2048, 128)]
    lr = rates(name)
    assert [lr[0], lr[119], lr[120], lr[160]] == pytest.approx(
        [0.03, 0.03, 0.003, 0.0003]
    )
    view = cfg.train_dataloader.dataset.pipeline[1]["views"][0]
    kinds = "RandomResizedCrop RandomGrayscale ColorJitter RandomFlip"
    assert [t.type for t in view] == kinds.split()


@pytest.mark.parametrize(
    "name", ["mocov2/mocov2_r18_cifar10.py", "co2/co2_r18_cifar10.py"]
)
def test_cifar10_recipe(name):
    cfg = load(name)
    assert cfg.train_dataloader.batch_size == 512
    assert (cfg.model.queue_len, cfg.model.momentum) == (4096, 0.99)
    assert (cfg.model.head.temperature, cfg.model.bn_splits) == (0.1, 8)
    assert cfg.optim_wrapper.optimizer.lr == 0.06
    assert cfg.train_cfg.max_epochs == 200
    assert (cfg.default_hooks.knn.k, cfg.default_hooks.knn.temperature) == (200, 0.1)


def test_interclr_recipe():
    cfg = load("interclr/interclr_r50_imagenet.py")
    model = MODELS.build(cfg.model)
    term = model.terms.inter
    assert (model.weight_of("inter"), model.compare.temperature) == (0.25, 0.2)
    assert model.weight_of("compare") == 0.75
    assert (term.margin, term.temperature) == (-0.5, 0.2)
    labels, bank = term.labels, term.bank
    assert (labels.num_clusters, labels.interval, labels.min_size) == (10_000, 10, 20)
    assert term.sampler.sizes(1_281_167) == (16_384, 128_000)
    assert term.sampler.exact and term.sampler.advice(1_281_167) is None
    assert (bank.momentum, bank.features.dtype) == (0, torch.float32)
    same(cfg, load("mocov2/mocov2_r50_imagenet.py"))


@pytest.mark.parametrize("name", [n for n in CONFIGS if n.startswith("interclr/")])
def test_interclr_hook(name):
    cfg = load(name)
    (hook,) = cfg.custom_hooks
    pipeline = cfg.model.images["pipeline"]
    photo = Image.new("RGB", (300, 200))
    view = make_views(pipeline, photo)
    assert view.ndim == 3  # one, without random parts
    assert torch.equal(view, make_views(pipeline, photo))
    HOOKS.build(hook)


def test_densecl_recipe():
    cfg, coco = (
        load("densecl/densecl_r50_imagenet.py"),
        load("densecl/densecl_r50_coco.py"),
    )
    model = MODELS.build(cfg.model)
    # As many as mmpretrain quotes for the same parts.
    assert sum(p.numel() for p in model.parameters()) == 64_850_560
    queues = model.terms.dense.queue, model.compare.queue
    assert [queue.keys.shape for queue in queues] == [(65536, 128)] * 2
    assert model.compare.temperature == model.terms.dense.temperature == 0.2
    shares = {}
    for iteration in (0, 9_999, 10_000, 10**6):
        model.clock.set(iteration)
        shares[iteration] = model.weight_of("compare"), model.weight_of("dense")
    assert shares == {0: (1, 0), 9_999: (1, 0), 10_000: (0.5, 0.5), 10**6: (0.5, 0.5)}
    assert rates("densecl/densecl_r50_imagenet.py")[0] == pytest.approx(0.03)

    assert coco.model == cfg.model
    assert coco.train_dataloader.dataset.root.endswith("coco/train2017")
    assert "labels" not in coco.train_dataloader.dataset
    assert "knn" not in coco.default_hooks
    lr = rates("densecl/densecl_r50_coco.py")
    assert len(lr) == 800
    assert [lr[0], lr[400]] == pytest.approx([0.3, 0.15])


def test_regioncl_recipes():
    official = load("regioncl/regionclm_r50_imagenet.py")
    assert official.train_dataloader.batch_size == 128
    assert official.auto_scale_lr.base_batch_size == 1024
    assert official.optim_wrapper.optimizer.lr == 0.15
    own_batch = dict(batch_size=32, lr=0.03, lr_batch=256)
    small = load("regioncl/regionclm_r50_imagenet.py", **own_batch)
    moco = load("mocov2/mocov2_r50_imagenet.py")
    term = dict(region=dict(cells=(3, 5), stride=32), region_weight=1.0)
    kaiming = dict(type="Kaiming", layer="Linear", mode="fan_in", nonlinearity="relu")
    neck = moco.model.neck | dict(init_cfg=kaiming)
    expected = moco.model | dict(type="RegionCLM", neck=neck, **term)
    assert small.model == official.model == expected
    same(small, moco, *SAME[:3], "auto_scale_lr")
    dense = load("densecl/densecl_r50_imagenet.py")
    both = load("regioncl/regioncld_r50_imagenet-b256.py")
    share = dict(kind="step", start=0, end=0.5, until=0)  # from the first step
    assert both.model == dense.model | dict(type="RegionCLD", loss_lambda=share, **term)
    lr = rates("regioncl/regioncld_r50_imagenet-b256.py")
    assert len(lr) == 200
    assert lr[:6] == pytest.approx([0.006, 0.012, 0.018, 0.024, 0.03, 0.03])
    assert lr[6] < 0.03 and lr[199] < 1e-4
    assert load("regioncl/regioncls_r50_imagenet.py").model == load(
        "simsiam/simsiam_r50_imagenet.py"
    ).model | dict(type="RegionCLS", **term)


def test_regionclm_starts_its_head_as_the_official_config():
    """Kaiming's rule: sqrt(2 / 512) and sqrt(2 / 2048), biases 0."""
    init_default_scope("mmssl_ext")
    options = {"queue_len": 64, "model.backbone.depth": 18, "model.bn_splits": 1}
    options["model.neck.in_channels"] = 512
    cfg = load_config(ROOT / "regioncl/regionclm_r50_imagenet.py", options)
    model = MODELS.build(cfg.model)
    model._dump_init_info = lambda: None  # a line for every tensor
    torch.manual_seed(0)
    model.init_weights()
    layers = [m for m in model.neck.modules() if isinstance(m, torch.nn.Linear)]
    assert [layer.in_features for layer in layers] == [512, 2048]
    for layer, std in zip(layers, (0.0625, 0.03125), strict=True):
        assert layer.weight.std().item() == pytest.approx(std, rel=0.01)
        assert not layer.bias.any()
    key = [m for m in model.target.neck.modules() if isinstance(m, torch.nn.Linear)]
    assert all(
        torch.equal(a.weight, b.weight) for a, b in zip(layers, key, strict=True)
    )


def test_detco_recipe():
    cfg = load("detco/detco_r50_imagenet.py")
    model = MODELS.build(cfg.model)
    assert model.compare.queue.keys.shape == (8, 65536, 128)
    torch.testing.assert_close(
        model.compare.factors, torch.tensor([[0.1, 0.4, 0.7, 1.0]] * 3)
    )
    views = make_views(
        cfg.train_dataloader.dataset.pipeline, Image.new("RGB", (300, 200))
    )
    assert [tuple(v.shape) for v in views] == [(3, 224, 224)] * 2 + [(9, 3, 64, 64)] * 2
    patches = cfg.train_dataloader.dataset.pipeline[1]["views"][2]
    assert patches[0] == dict(type="RandomResizedCrop", size=255, scale=(0.6, 1.0))
    moco = load("mocov2/mocov2_r50_imagenet.py")
    assert patches[1:-1] == moco.train_dataloader.dataset.pipeline[1]["views"][0][1:]
    assert cfg.optim_wrapper == moco.optim_wrapper


# Of the demo and the CPU configs: what equals MoCo's beside data, seed and schedule.
ALL = {"model.queue_len", "model.momentum", "model.bn_splits", "model.head.temperature"}
LIKE_MOCO = {
    "densecl/densecl": ALL,
    "regioncl/regionclm": ALL,
    "detco/detco": ALL,
    "byol/byol": set(),
    "simclr/simclr": set(),
    "msf/msf": {"model.momentum", "model.bn_splits"},
    "ifnd/ifnd": ALL,
}


@pytest.mark.parametrize("name", LIKE_MOCO)
@pytest.mark.parametrize("data", ["r18_demo", "r18_cifar10"])
def test_short_runs_of_the_methods_compare(name, data):
    options = {"cpu": True} if "cifar10" in data else {}
    ours = load(f"{name}_{data}.py", **options).to_dict()
    moco = load(f"mocov2/mocov2_{data}.py", **options).to_dict()
    if (name, data) == ("byol/byol", "r18_cifar10"):
        moco["optim_wrapper"]["optimizer"]["lr"] = 0.2
    same(ours, moco, *SAME[1:], "randomness")
    levels = {"out_indices": (0, 1, 2, 3)} if "detco" in name else {}
    assert ours["model"]["backbone"] == moco["model"]["backbone"] | levels
    whole = {"train_dataloader.batch_size", "default_hooks.knn"}
    for path in LIKE_MOCO[name] | whole:
        one, other = ours, moco
        for key in path.split("."):
            one, other = one[key], other[key]
        assert one == other, path


# Total rate, weight decay, epochs, images of a step; parameters that are optimized
LARS_RECIPES = {
    "byol/byol_r50_imagenet.py": (4.8, 1e-6, 300, 4096),
    "byol/byol_r18_cifar10.py": (2.0, 1e-5, 1000, 256),
    "simclr/simclr_r50_imagenet.py": (4.8, 1e-6, 200, 4096),
    "simclr/simclr_r18_cifar10.py": (2.0, 1e-4, 1000, 512),
    "pixpro/pixpro_r50_imagenet.py": (4.0, 1e-5, 100, 1024),
}


def iteration_rates(schedule, iterations):
    """Share of the rate in every iteration, in epochs of two."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    schedulers = []
    for config in map(dict, schedule):
        assert config.pop("convert_to_iter_based")
        build = PARAM_SCHEDULERS.get(config.pop("type")).build_iter_from_epoch
        schedulers.append(build(**config, optimizer=optimizer, epoch_length=2))
    found = []
    for _ in range(iterations):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        for scheduler in schedulers:
            scheduler.step()
    return found


@pytest.mark.parametrize("name", LARS_RECIPES)
def test_lars_recipe(name):
    """Rate of single iterations, and what LARS leaves alone."""
    lr, weight_decay, epochs, batch = LARS_RECIPES[name]
    cfg = load(name)
    gpus = 8 if "imagenet" in name else 1
    assert cfg.train_dataloader.batch_size * gpus == batch
    assert cfg.auto_scale_lr.base_batch_size == batch
    assert cfg.train_cfg.max_epochs == epochs
    model = MODELS.build(cfg.model)
    optimizer = build_optim_wrapper(model, cfg.optim_wrapper).optimizer
    assert isinstance(optimizer, LARS)
    names = {id(p): name for name, p in model.named_parameters()}
    groups = [g for g in optimizer.param_groups if g["params"][0].requires_grad]
    for group in groups:
        assert (group["lr"], group["momentum"], group["eta"]) == (lr, 0.9, 1e-3)
        for param in group["params"]:
            left_alone = param.ndim == 1  # BatchNorm and biases
            assert group.get("lars_exclude", False) == left_alone, names[id(param)]
            assert group["weight_decay"] == (0 if left_alone else weight_decay)
    # Linear in some epochs of 2 iterations, then half a cosine
    rates = iteration_rates(cfg.param_scheduler, 2 * epochs)
    warmup, start = (5, 0.01) if "pixpro" in name else (10, 1e-4)
    assert rates[0] == pytest.approx(start)
    middle = start + (1 - start) * warmup / (2 * warmup - 1)
    assert rates[warmup] == pytest.approx(middle)
    assert rates[2 * warmup] == pytest.approx(1, abs=1e-4)
    assert rates[2 * warmup + (epochs - warmup)] == pytest.approx(0.5, abs=1e-3)
    assert 0 < rates[-1] < 1e-4


def test_byol_and_simclr_models():
    """As many parameters as mmpretrain quotes, and the momentum of the papers."""
    byol = MODELS.build(load("byol/byol_r50_imagenet.py").model)
    assert sum(p.numel() for p in byol.parameters()) == 68_024_448
    assert sum(p.numel() for p in byol.compare.parameters()) == 2_109_440
    assert (byol.target.momentum.kind, byol.reduce) == ("cosine", "sum")
    assert (byol.target.momentum.start, byol.target.momentum.end) == (0.99, 1)
    simclr = MODELS.build(load("simclr/simclr_r50_imagenet.py").model)
    assert sum(p.numel() for p in simclr.parameters()) == 27_968_832
    assert simclr.compare.temperature == 0.1
    cifar10 = load("simclr/simclr_r18_cifar10.py")
    assert cifar10.model.temperature == 0.5
    for name in ("byol/byol_r50_imagenet.py", "simclr/simclr_r50_imagenet.py"):
        assert load_config(ROOT / name).sync_bn == "torch"


def test_msf_recipe():
    """Widths, numbers of parameters and views of the sheet; CMSF adds a constraint."""
    cfg = load("msf/msf_r50_imagenet.py")
    model = MODELS.build(cfg.model)
    assert sum(p.numel() for p in model.neck.parameters()) == 10_498_560
    assert sum(p.numel() for p in model.compare.parameters()) == 4_207_104
    bank, target = model.compare.bank, model.target.momentum
    assert bank.keys.shape == (128_000, 512) and bank.keys.dtype == torch.float16
    assert (target.start, target.end, model.compare.k) == (0.99, 0.99, 5)
    assert model.pairs == ((0, 1),) and not cfg.sync_bn
    lr = rates("msf/msf_r50_imagenet.py")
    assert lr[0] == 0.05 and lr[100] == pytest.approx(0.025)
    assert cfg.optim_wrapper.optimizer.weight_decay == 1e-4
    strong, weak = drawn("msf/msf_r50_imagenet.py")
    assert strong == drawn("mocov2/mocov2_r50_imagenet.py")[0]
    assert weak == {n: strong[n] for n in ("RandomResizedCrop", "RandomFlip")}
    constrained = load("cmsf/cmsf-2q_r50_imagenet.py").model
    constraint = constrained.pop("constraint")
    assert constraint == dict(type="EarlierNeighbours", k=5)
    assert constrained | dict(type="MSF") == cfg.model
    clusters = load("cmsf/cmsf-km_r50_imagenet.py").model.constraint
    assert clusters == dict(type="SameCluster", num_clusters=50_000)


def test_ifnd_recipe():
    """MoCo v2's, but for the comparison; the rate rises over the whole training."""
    cfg = load("ifnd/ifnd_r50_imagenet.py")
    same(cfg, load("mocov2/mocov2_r50_imagenet.py"))
    model = MODELS.build(cfg.model)
    compare = model.compare
    assert [x.num_clusters for x in compare.clusters.levels] == [1000, 5000, 25_000]
    assert (compare.temperature, compare.length) == (0.2, 65_536)
    assert (compare.warmup, compare.interval, compare.action) == (20, 5, "eliminate")
    model.clock.total = 1000
    found = [compare.rate.at(i, model.clock) for i in (0, 250, 1000)]
    assert found == [0, 0.25, 1] and compare.rate in model.schedules


def drawn(name):
    """Settings of the transforms of both views, by type."""
    views = load(name).train_dataloader.dataset.pipeline[1]["views"]
    return [{t.pop("type"): t for t in map(dict, view)} for view in views]


def test_views_of_byol_differ_by_blur_and_solarisation():
    first, second = drawn("byol/byol_r50_imagenet.py")
    assert first.pop("GaussianBlur") == dict(sigma_range=(0.1, 2.0), prob=1.0)
    assert second.pop("GaussianBlur") == dict(sigma_range=(0.1, 2.0), prob=0.1)
    assert second.pop("RandomSolarize") == dict(threshold=128, prob=0.2)
    assert first == second
    jitter = dict(brightness=0.4, contrast=0.4, saturation=0.2, hue=0.1, prob=0.8)
    assert first["ColorJitter"] == jitter
    assert first["RandomResizedCrop"] == dict(size=224, scale=(0.08, 1.0))
    small, other = drawn("byol/byol_r18_cifar10.py")
    assert other.pop("RandomSolarize") == dict(threshold=128, prob=0.2)
    assert small == other and "GaussianBlur" not in small


def test_jitter_of_simclr_is_twice_as_strong_on_imagenet():
    first, second = drawn("simclr/simclr_r50_imagenet.py")
    small, other = drawn("simclr/simclr_r18_cifar10.py")
    assert first == second and small == other
    strong, weak = first["ColorJitter"], small["ColorJitter"]
    assert strong.pop("prob") == weak.pop("prob") == 0.8
    assert strong == dict(brightness=0.8, contrast=0.8, saturation=0.8, hue=0.2)
    assert weak == {name: value / 2 for name, value in strong.items()}
    assert first["GaussianBlur"]["prob"] == 0.5 and "GaussianBlur" not in small


@pytest.mark.parametrize(
    "name", ["densecl/densecl_r50_coco.py", "regioncl/regioncld_r50_imagenet-b256.py"]
)
def test_mmengine_reads_the_variables_of_a_config_too(name):
    assert Config.fromfile(ROOT / name).to_dict() == load_config(ROOT / name).to_dict()


def test_a_variable_in_a_file_moves_all_that_follows_from_it(tmp_path):
    """As the option does: what bases compute from it, and what follows from that."""
    path = tmp_path / "mine.py"
    path.write_text('_base_ = "mmssl_ext::byol/byol_r18_cifar10.py"\ncpu = True\n')
    ours = load_config(path).to_dict()
    option = load_config(ROOT / "byol/byol_r18_cifar10.py", dict(cpu=True))
    assert ours == option.to_dict()
    assert ours["train_cfg"]["max_epochs"] == ours["param_scheduler"][0]["end"] == 4
    assert ours["optim_wrapper"]["optimizer"]["type"] == "SGD"


def test_a_variable_of_a_project_is_none_of_its_base():
    """Barlow Twins has a `width` of its own, of the projector."""
    path = ROOT.parent / "projects/barlow_twins/configs/barlow-twins_r18_demo.py"
    simclr = load_config(ROOT / "simclr/simclr_r18_demo.py")
    assert load_config(path).model.backbone == simclr.model.backbone
