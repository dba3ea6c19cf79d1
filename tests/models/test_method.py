"""The choices of a method, and what its step takes."""

import itertools
import re

import pytest
import torch
from torch.nn.functional import normalize

from mmssl_ext.errors import ConfigError
from mmssl_ext.models.comparisons import Comparison
from mmssl_ext.models.layers import SplitBatchNorm
from mmssl_ext.models.memory.online_labels import OnlineLabels
from mmssl_ext.models.terms import Term
from mmssl_ext.registry import MODELS
from mmssl_ext.run.tool import run_tool
from tests.harness import config, log_text, make_runner, write_images

from .bases import (
    BASES,
    MLP,
    PREDICTOR,
    build,
    losses,
    method,
    sgd,
    term,
    total,
    views,
)
from .common import BACKBONE, double, freeze_norms, model_config

BOTH = ((0, 1), (1, 0))


def loss(model, inputs):
    return losses(model, inputs)["loss_instance"].item()


# Pairs, grouping, reduce, bn_splits


@pytest.mark.parametrize("base", ["MoCo", "BYOL", "SimSiam"])
def test_pairs_are_counted_one_by_one(base):
    """Both directions, and a third view as the only target, are sums of single ones."""
    inputs = views(5, size=32, count=3, dtype=torch.double)

    def of(pairs, reduce):
        model = double(build(method(base, pairs=pairs, reduce=reduce)))
        assert model.num_views == 1 + max(v for pair in pairs for v in pair)
        return loss(freeze_norms(model), inputs[: model.num_views])

    for pairs in (BOTH, ((0, 2), (1, 2))):
        single = [of((pair,), "sum") for pair in pairs]
        assert single[0] != pytest.approx(single[1], abs=1e-3)
        assert of(pairs, "sum") == pytest.approx(sum(single), abs=1e-9)
        assert of(pairs, "mean") == pytest.approx(sum(single) / 2, abs=1e-9)


@pytest.mark.parametrize("base", BASES)
def test_grouping(base):
    inputs = [views(6, size=32, dtype=torch.double)[0], views(6, 1, 32)[0].double() + 1]
    found = {}
    for grouping, frozen in itertools.product(("view", "size"), (False, True)):
        model = double(build(method(base, pairs=BOTH, grouping=grouping)))
        found[grouping, frozen] = loss(freeze_norms(model) if frozen else model, inputs)
        tracked = model.backbone.bn1.num_batches_tracked
        # The target is a copy that has seen as much.
        assert tracked == (0 if frozen else 1 if grouping == "size" else 2)
    assert found["view", True] == pytest.approx(found["size", True], abs=1e-9)
    assert found["view", False] != pytest.approx(found["size", False], abs=1e-4)


@pytest.mark.parametrize("base", BASES)
def test_bn_splits(base):
    split = build(method(base, "Dense", bn_splits=2))
    plain = build(method(base, "Dense", bn_splits=None))
    norms = [m for m in split.modules() if isinstance(m, SplitBatchNorm)]
    encoders = 2 if split.target.encodes else 1
    assert len(norms) == encoders * (20 + (2 if base != "MoCo" else 0))
    assert split.shuffles and not plain.shuffles
    inputs = views(8)
    assert loss(split, inputs) != pytest.approx(loss(plain, inputs), abs=1e-5)
    # Without statistics of the batch nothing is left of groups and order.
    for model in (split, plain):
        model.load_state_dict(build(method(base, "Dense")).state_dict())
        freeze_norms(model)
    ours, theirs = losses(split, inputs), losses(plain, inputs)
    for name, value in theirs.items():
        assert ours[name].item() == pytest.approx(value.item(), abs=1e-5), name


# What a step takes


def test_views_of_different_sizes():
    """One by one they need not be alike; the result does not depend on the order."""
    inputs = [views(4, 0, 64)[0], views(4, 1, 48)[0]]
    model, turned = (build(method("BYOL", pairs=BOTH)) for _ in range(2))
    found = loss(model, inputs)
    assert found == pytest.approx(loss(turned, inputs[::-1]), rel=1e-5)
    grouped = build(method("BYOL", pairs=BOTH, grouping="size"))
    assert found == pytest.approx(loss(grouped, inputs), rel=1e-5)
    model.eval().check_inputs([x[:1] for x in inputs])


# Accumulated gradients


def accumulated(chosen, index):
    """A model after two steps of four micro-batches, and one of whole batches."""
    found = []
    for parts in (1, 4):
        model = freeze_norms(double(build(chosen)))
        model.clock.accumulation = parts
        optimizer = sgd(model, 0.1)
        for seed in range(2):
            whole = views(8, seed, 32, dtype=torch.double)
            optimizer.zero_grad()
            for part in range(parts):
                rows = [x.chunk(parts)[part] for x in whole]
                some = (index + 8 * seed).chunk(parts)[part]
                (total(losses(model, rows, some)) / parts).backward()
            optimizer.step()
        found.append(model)
    return found


HARD = term("InterImage", negatives=dict(type="HardNegatives", num=6))


@pytest.mark.parametrize(
    "chosen",
    [
        method("MoCo", "Dense", HARD),
        method("BYOL", "Dense"),
        method("SimSiam", "Dense"),
        method("BYOL", term("Consistency", "BYOL", queue_len=16), pairs=BOTH),
    ],
    ids=["MoCo", "BYOL", "SimSiam", "symmetric"],
)
def test_accumulated_steps_equal_whole_ones(chosen, monkeypatch):
    def first(labels, rows, generator):  # whatever is drawn for micro-batches
        return rows

    monkeypatch.setattr(OnlineLabels, "draw_members", first)
    whole, parts = accumulated(chosen, torch.arange(8))
    assert (whole.clock.num_steps, parts.clock.num_steps) == (2, 8)
    assert not parts.waiting
    ours = parts.state_dict()
    for name, value in whole.state_dict().items():
        if name == "clock.steps":
            continue
        mine = ours[name]
        if name.endswith("queue.keys") and len(whole.pairs) > 1:  # in another order
            mine, value = (x[x[:, 0].argsort()] for x in (mine, value))
        torch.testing.assert_close(mine, value, rtol=1e-5, atol=1e-5, msg=name)


def test_a_broken_step_leaves_nothing_behind():
    """A new training with the same model begins without what waited."""
    model = build(method("MoCo"))
    model.clock.accumulation = 4
    losses(model, views(4, size=32))
    assert model.waiting
    model.start(None)
    assert not model.waiting


def test_the_last_step_may_be_shorter():
    model = build(method("MoCo"))
    model.clock.accumulation, model.clock.total = 4, 6
    pointers = []
    for seed in range(6):
        losses(model, views(2, seed, 32))
        pointers.append(model.compare.queue.ptr.item())
    assert pointers == [0, 0, 0, 8, 8, 12]


# What does not fit


def moco(*terms, **changes):
    return method("MoCo", *terms, **changes)


def levels(*terms, **changes):
    return model_config("DetCo", terms=terms, **changes)


CONSISTENCY = dict(type="Consistency", temperature=0.1)

ONE_IMAGE = "looks at whole images, but a view of DetCo is more than one"
REFUSED = {
    "target": (
        method("BYOL", target=dict(momentum=0.9)),
        "BYOL makes its own target: leave model.target out and set the options",
    ),
    "weights-lambda": (
        method("DenseCL", weights=dict(dense=1)),
        "The weight of dense is given twice, as weights.dense and by loss_lambda",
    ),
    "weights-unknown": (
        moco("Dense", weights=dict(dens=1)),
        "weights has 'dens', but the losses of MoCo are instance, dense.",
    ),
    "weights-twice": (
        moco(CONSISTENCY | dict(weight=1), weights=dict(consistency=2)),
        "The weight of consistency is given twice",
    ),
    "weights-zero": (
        moco(CONSISTENCY, weights=dict(instance=0, consistency=0)),
        "All weights of MoCo are 0",
    ),
    "weights-words": (
        moco(weights=dict(instance="high")),
        "weights.instance='high' must be a number",
    ),
    "terms-twice": (
        moco(CONSISTENCY, CONSISTENCY),
        "MoCo has two losses of the name 'consistency'; leave one of the terms out.",
    ),
    "terms-dict": (
        moco() | dict(terms=CONSISTENCY),
        "must be a list of configs with a type, such as [dict(type='Consistency'",
    ),
    "terms-name": (
        moco() | dict(terms=["Consistency"]),
        "terms=['Consistency'] must be a list of configs with a type",
    ),
    "terms-untyped": (moco(dict(temperature=0.1)), "a list of configs with a type"),
    "grouping": (
        moco(grouping="both"),
        "grouping='both' must be one of view, size, joint.",
    ),
    "reduce": (moco(reduce="max"), "reduce='max' must be one of mean, sum."),
    "pairs-empty": (moco(pairs=()), "pairs=() must name different pairs"),
    "pairs-same": (moco(pairs=((0, 0),)), "must name different pairs of two views"),
    "pairs-twice": (moco(pairs=((0, 1), (0, 1))), "must name different pairs"),
    "pairs-negative": (moco(pairs=((0, -1),)), "must name different pairs"),
    "pairs-bool": (moco(pairs=((False, True),)), "must name different pairs"),
    "pairs-flat": (moco(pairs=(0, 1)), "pairs=(0, 1) must name different pairs"),
    "pairs-triple": (moco(pairs=((0, 1, 2),)), "must name different pairs"),
    "simclr-one-direction": (
        method("SimCLR", pairs=((0, 1),)),
        "BatchSoftmax compares two views in both directions; set pairs to",
    ),
    "simclr-three-views": (
        method("SimCLR", pairs=((0, 2), (1, 2))),
        "BatchSoftmax compares two views in both directions; set pairs to",
    ),
    "predictor-takes": (
        method("BYOL", predictor=PREDICTOR | dict(in_channels=32)),
        "The neck returns 16 features, but the predictor takes 32",
    ),
    "predictor-returns": (
        method("SimSiam", predictor=PREDICTOR | dict(out_channels=8)),
        "The predictor returns 8 features, but what it has to predict has 16",
    ),
    "queue-len-unused": (
        moco(CONSISTENCY | dict(queue_len=64)),
        "compares with the queue of the base, whose length is model.queue_len",
    ),
    "queue-len-zero": (
        method("BYOL", CONSISTENCY | dict(queue_len=0)),
        "A queue of 0 keys of size 16 cannot hold anything",
    ),
    "queue-len-float": (moco(queue_len=64.0), "A queue of 64.0 keys of size 16"),
    "temperature-zero": (method("SimCLR", temperature=0), "temperature=0 is not a tem"),
    "temperature-word": (moco(CONSISTENCY | dict(temperature="1")), "temperature='1'"),
    "bn-splits-float": (moco(bn_splits=2.0), "bn_splits=2.0 is no number of groups"),
    "dense-grid": (moco(term("Dense", num_grid=0)), "num_grid=0 of the term Dense"),
    "dense-width": (moco(term("Dense", hid_channels=0)), "hid_channels=0 of the term"),
    "regions-float": (
        moco(term("Regions", stride=32.0)),
        "and stride=32.0 the positive number of pixels per cell",
    ),
    "unmix-prob": (
        moco(term("UnMix", mixup_prob=1.5)),
        "mixup_prob=1.5 is the chance that whole images are blended",
    ),
    "unmix-alpha": (
        moco(term("UnMix", alpha=0)),
        "alpha=0 shapes the distribution Beta(alpha, alpha)",
    ),
    "teachers-num": (
        moco(term("TemporalTeachers", num_teachers=0)),
        "num_teachers=0 of TemporalTeachers must be a whole number from 1",
    ),
    "teachers-interval": (
        moco(term("TemporalTeachers", interval=0.5)),
        "interval=0.5 of TemporalTeachers must be a whole number from 1",
    ),
    "teachers-ramp": (
        moco(term("TemporalTeachers", ramp=-1)),
        "ramp=-1 of TemporalTeachers must be 0 or more intervals",
    ),
    "teachers-msf": (
        method("MSF", dict(type="TemporalTeachers", form="base")),
        "MeanShift has no gradient in its targets, from which a knowledge transformer",
    ),
    "detco-teachers": (
        levels(term("TemporalTeachers")),
        f"The term TemporalTeachers {ONE_IMAGE}",
    ),
    "inter-margin": (
        moco(term("InterImage", margin="0")),
        "margin='0' is subtracted from a cosine",
    ),
    "inter-labels": (
        moco(term("InterImage", labels="OnlineLabels")),
        "labels='OnlineLabels' must be a config with a type: labels=dict(type=...).",
    ),
    **{
        f"width-{value}": (
            moco(neck=dict(type="ConvProjector", in_channels=4) | width),
            f"neck.{name}={value!r} must be a whole number above 0, a layer's width",
        )
        for name, value in (
            *(("hid_channels", x) for x in (0, -1, 2.5, "x", True)),
            ("out_channels", 0),
        )
        for width in [dict(hid_channels=8, out_channels=8) | {name: value}]
    },
    "no-config": (moco(neck=None), "neck=None must be a config with a type"),
    "detco-regions": (levels(term("Regions")), f"The term Regions {ONE_IMAGE}"),
    "detco-dense": (levels(term("Dense")), f"The term Dense {ONE_IMAGE}"),
    "detco-unmix": (levels(term("UnMix")), f"The term UnMix {ONE_IMAGE}"),
    "detco-pairs": (levels(pairs=BOTH), "DetCo compares its two views"),
    "levels-on-moco": (
        moco(head=dict(type="MultiLevelSoftmax")),
        "MultiLevelSoftmax compares levels, which MoCo has not got; take QueueSoftmax",
    ),
}


@pytest.mark.filterwarnings("ignore:bn_splits=1")
@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_fit_is_refused(case):
    chosen, sentence = REFUSED[case]
    with pytest.raises(ValueError, match=re.escape(sentence)) as caught:
        build(chosen)
    assert "\n" not in str(caught.value)


# A part of a user's own


def own(kind, returned, name="own"):
    """A term, or a comparison, whose ``forward`` returns this."""
    members = dict(forward=lambda self, method, step: returned)
    members |= dict(name=name) if kind is Term else dict(names=("a", "b"))
    MODELS.register_module("Own", module=type("Own", (kind,), members), force=True)
    if kind is Term:
        return moco(dict(type="Own"))
    target = dict(type="MomentumTarget")
    return method("Method", neck=MLP, target=target, compare=dict(type="Own"))


ONE = torch.tensor(1.0)
WRONG_LOSSES = {
    "vector": (Term, ONE.repeat(4), "not torch.float32 of the shape (4,)"),
    "whole": (Term, torch.tensor(1), "not torch.int64 of the shape ()"),
    "number": (Term, 1.0, "loss own must be a scalar tensor of floats, not a float"),
    "c-too-many": (Comparison, dict.fromkeys("abc", ONE), "say, not ['a', 'b', 'c']"),
    "no-dict": (Comparison, ONE, "say, not Tensor"),
}


@pytest.mark.parametrize("case", WRONG_LOSSES)
def test_what_is_no_loss_is_refused(case):
    kind, returned, sentence = WRONG_LOSSES[case]
    with pytest.raises(ValueError, match=re.escape(sentence)):
        loss(build(own(kind, returned)), views(4))


@pytest.mark.parametrize("name", ["compare", "keys", "a.b", None])
def test_a_name_that_no_loss_can_have_is_refused(name):
    with pytest.raises(ValueError, match=rf"^The loss of Own cannot be named {name!r}"):
        build(own(Term, ONE, name))


def test_parts_of_another_kind_are_refused():
    target = dict(type="MomentumTarget")
    base = dict(neck=MLP, target=target, compare=dict(type="QueueSoftmax", length=32))
    linear = dict(type="LinearNeck", in_channels=2, out_channels=2)
    for sentence, chosen in {
        "terms: a LinearNeck is no Term; take a class that is derived from "
        "mmssl_ext.models.terms.Term.": moco(linear),
        "compare: a Consistency is no Comparison": base | dict(compare=CONSISTENCY),
        "target: a Regression is no Target": base
        | dict(target=dict(type="Regression", predictor=None)),
    }.items():
        with pytest.raises(ValueError, match=re.escape(sentence)):
            build(method("Method") | chosen)


def test_dense_with_a_teacher_is_refused():
    load = dict(type="PretrainedBackbone", checkpoint="weights.pth")
    target = dict(type="FrozenTeacher", backbone=BACKBONE | dict(init_cfg=load))
    compare = dict(type="Regression", predictor=PREDICTOR | dict(out_channels=64))
    for name, sentence in {
        "Dense": "The term dense compares features that a FrozenTeacher has not got",
        "InterImage": "embeddings are not those of a FrozenTeacher; take another",
        "TemporalTeachers": "but a FrozenTeacher is always the same; leave the term",
    }.items():
        with pytest.raises(ValueError, match=sentence):
            build(method("Method", name, neck=MLP, target=target, compare=compare))


def test_detco_takes_terms_on_its_embedding():
    chosen = levels(term("Consistency"), term("InterImage"))
    model = build(chosen)
    patches = [torch.randn(4, 9, 3, 32, 32) for _ in range(2)]
    found = losses(model, [*views(4, size=32), *patches])
    total(found).backward()
    assert found["raw_consistency"] > 0 and found["raw_inter"] > 0
    key = model.last_embeddings["key"]
    torch.testing.assert_close(model.negatives[:4], key)
    torch.testing.assert_close(key, normalize(key))
    torch.testing.assert_close(model.terms.inter.bank.features[:4], key)


VECTORS = dict(
    type="VisionTransformer",
    arch=dict(embed_dims=64, num_layers=1, num_heads=2, feedforward_channels=64),
    img_size=32,
    patch_size=16,
    out_type="cls_token",
)


def test_maps_are_asked_for_where_a_backbone_returns_vectors():
    """Dense must know their channels, Regions says it on the first views."""
    linear = MLP | dict(with_avg_pool=False)
    with pytest.raises(ValueError, match="Dense has to know the channels"):
        build(method("SimSiam", "Dense", backbone=VECTORS, neck=linear))
    region = term("Regions", cells=(1, 1), stride=16)
    model = build(method("SimSiam", region, backbone=VECTORS, neck=linear)).eval()
    with pytest.raises(ValueError, match=r"returns .*; let it return its maps"):
        model.check_inputs(views(1, size=32))


# Through the entrance


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return write_images(tmp_path_factory.mktemp("method") / "images")


ENTRANCE = {
    "list": (moco(CONSISTENCY, weights=[1, 2]), "must be a dict by the name of the"),
    "views": (method("BYOL", pairs=((0, 2),)), "BYOL takes 3 views per image, not 2"),
    "stride": (
        method("SimCLR", term("Regions", cells=(1, 1), stride=4)),
        "are not 4 pixels wide",
    ),
}


@pytest.mark.parametrize("case", ENTRANCE)
def test_a_run_ends_before_its_first_step(case, images, tmp_path, capsys):
    chosen, sentence = ENTRANCE[case]
    cfg = config(images, tmp_path / "run", input_check={"type": "InputCheckHook"})
    cfg.model = chosen
    code = run_tool(lambda: make_runner(cfg).train())()
    assert code == ConfigError.exit_code == 2
    written = capsys.readouterr()
    errors = [x for x in written.err.splitlines() if x.startswith("Error: ")]
    assert len(errors) == 1 and sentence in errors[0], written.err


def test_a_loss_that_never_counts_is_told(images, tmp_path):
    late = dict(kind="step", start=0, end=1, until=100)
    cfg = config(images, tmp_path / "run")
    cfg.model = method("MoCo", CONSISTENCY | dict(weight=late))
    cfg.model.queue_len = 16
    runner = make_runner(cfg)
    runner.train()
    assert "stays 0 in this training of 4 iterations" in log_text(runner)


def test_a_term_with_parameters_learns_nothing_but_has_a_gradient_at_weight_0():
    """DistributedDataParallel waits for every parameter in every step."""

    class Scaled(Term):
        name = "scaled"

        def __init__(self, weight=None, init_cfg=None):
            super().__init__(weight, init_cfg)
            self.factor = torch.nn.Parameter(torch.ones(()))

        def forward(self, method, step):
            return self.factor * step.online[0]["embedding"].square().mean()

    waiting = dict(kind="step", start=0, end=1, until=1)
    model = build(method("MoCo", dict(type=Scaled, weight=waiting)))
    found = []
    for _ in range(2):
        model.zero_grad()
        total(losses(model, views(4, size=32))).backward()
        found.append(model.terms.scaled.factor.grad.item())
    assert found[0] == 0 < found[1]
