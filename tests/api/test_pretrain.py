"""Pretraining by one call or command, and the file that makes the same run."""

from __future__ import annotations

import shutil
import signal

import pytest
import torch

from mmssl_ext.api.asked import check_same, command_of
from mmssl_ext.api.data import check_apart
from mmssl_ext.api.methods import METHODS
from mmssl_ext.api.pretrain import RECIPE, _plan, pretrain
from mmssl_ext.api.recipe import write_recipe
from mmssl_ext.chain.spec import read_chain
from mmssl_ext.engine.resilience.preemption import SIGNALS, current
from mmssl_ext.engine.weights.files import read_weights
from mmssl_ext.engine.weights.origin import origin_lines
from mmssl_ext.errors import UserError, UserValueError
from mmssl_ext.registry import MODELS
from mmssl_ext.run.launch import load_config, prepare, train
from tests.harness import REPO, call_tool, write_images

QUIET = {"default_hooks.learned": None, "default_hooks.report": None}
SMALL = dict(backbone="resnet18-w32", image_size=32, num_workers=0, options=QUIET)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """24 images of 16 px, two broken files and a text."""
    root = write_images(tmp_path_factory.mktemp("photos"), 2, 12)
    (root / "class0" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n none")
    (root / "notes.txt").write_text("of no interest")
    return root


@pytest.fixture(scope="module")
def first(photos, tmp_path_factory):
    """A run of two epochs, and its last checkpoint."""
    out = tmp_path_factory.mktemp("first") / "run"
    return out, pretrain(photos, out, "mocov2", epochs=2, **SMALL)


def state_of(path):
    return torch.load(path, weights_only=True)["state_dict"]


def same(one, other):
    one, other = state_of(one), state_of(other)
    return one.keys() == other.keys() and all(
        torch.equal(value, other[name]) for name, value in one.items()
    )


def test_a_run_that_is_overwritten_keeps_its_recipe(first, photos, tmp_path):
    """Whole, aside; and where the new one is refused, in its place."""
    out = tmp_path / "run"
    shutil.copytree(first[0], out)
    recipe = (out / RECIPE).read_text()
    wrong = QUIET | {"model.nonsense": 3}
    with pytest.raises(UserError, match="MoCo has no option 'nonsense'"):
        pretrain(
            *(photos, out, "mocov2"),
            epochs=1,
            overwrite=True,
            **SMALL | {"options": wrong},
        )
    small = {k: v for k, v in SMALL.items() if k != "backbone"}
    needed = rf"^{out}/epoch_2\.pth is a file of the run in {out}, .* needs it: train"
    with pytest.raises(UserError, match=needed):  # it would move
        pretrain(photos, out, init=out, epochs=1, overwrite=True, **small)
    assert (out / RECIPE).read_text() == recipe and not (out / "old").exists()
    again = pretrain(photos, out, "mocov2", epochs=2, resume=True, **SMALL)
    assert same(again, first[1])  # it was finished
    new = pretrain(photos, out, "mocov2", epochs=1, overwrite=True, **SMALL)
    moved = out / "old"
    assert (moved / RECIPE).read_text() == recipe != (out / RECIPE).read_text()
    assert same(moved / "epoch_2.pth", first[1]) and new == out / "epoch_1.pth"


def test_the_recipe_makes_the_same_run_bit_for_bit(first, tmp_path):
    out, checkpoint = first
    assert checkpoint == out / "epoch_2.pth"
    train(out / RECIPE, QUIET, work_dir=str(tmp_path / "again"))
    assert same(checkpoint, tmp_path / "again" / "epoch_2.pth")


def test_the_command_makes_the_same_run_bit_for_bit(
    first, photos, tmp_path, monkeypatch, capsys
):
    options = [f"{name}=None" for name in QUIET]
    code, text, errors = call_tool(
        *("pretrain", monkeypatch, capsys, photos, "--out", tmp_path / "run"),
        *("--method", "MoCo-v2", "--epochs", "2", "--backbone", "resnet18-w32"),
        *("--image-size", "32", "--num-workers", "0", "--cfg-options", *options),
    )
    assert code == 0, text + errors
    assert "batch_size = 8  # of 25 images; BatchNorm wants no fewer" in text
    assert same(first[1], tmp_path / "run" / "epoch_2.pth")


def test_goes_on_by_the_same_call_and_no_other(first, photos, tmp_path, monkeypatch):
    out = tmp_path / "run"
    shutil.copytree(first[0], out)
    with pytest.raises(UserError, match=r"holds a finished run|holds a run"):
        pretrain(photos, out, "mocov2", epochs=2, **SMALL)
    recipe = (out / RECIPE).read_text()
    assert recipe == (first[0] / RECIPE).read_text()
    other = r"by other options: epochs was 2 and is 3\. .*--cfg-options max_epochs=N"
    with pytest.raises(UserError, match=other):
        pretrain(photos, out, "mocov2", epochs=3, resume=True, **SMALL)
    small = {k: v for k, v in SMALL.items() if k != "num_workers"}
    other = "method was mocov2 and is co2, num-workers was 0"
    with pytest.raises(UserError, match=other):
        pretrain(photos, out, epochs=2, resume=True, **small)
    made, again = tmp_path / "it's made", tmp_path / "other"
    pretrain(photos, made, "mocov2", epochs=2, **SMALL)
    made.rename(again)  # a run that was moved is the same one
    ended = again / "epoch_2.pth"
    (again / "epoch_2.pth").unlink()
    (again / "epoch_2.pth.json").unlink(missing_ok=True)
    more = dict(epochs=2, resume=True, **SMALL)
    with pytest.raises(UserValueError, match=r"no tracker 'wandbb'; .* wandb, mlflow"):
        pretrain(photos, again, "mocov2", trackers=["wandbb"], **more)
    # Spelt otherwise, in another order, and the images have moved as well.
    small = dict(reversed(SMALL.items())) | {"backbone": "ResNet18-W32"}
    more = small | dict(resume=True, epochs=2, trackers="tensorboard", seed=0)
    shutil.copytree(photos, tmp_path / "photos")
    monkeypatch.chdir(tmp_path)
    assert pretrain("./photos/", again, "MoCo-v2", **more) == ended
    assert same(ended, first[1]) and [*again.glob("*/vis_data/events*")]


def test_what_a_run_began_with_may_be_gone(photos, tmp_path):
    begun = tmp_path / ("longer_than_a_line_" * 9)  # a run's without its checkpoints
    begun.mkdir()
    asked, recipe = {"init": begun, "epochs": 2}, tmp_path / "recipe.py"
    plain = dict(method="byol", backbone="resnet18", init=None, teacher=None, seed=0)
    plan = _plan(photos, plain, command_of("photos", "run", asked))
    recipe.write_text(write_recipe(plan))
    again = {"epochs": 2, "init": f"{tmp_path}/./{begun.name}"}
    check_same(recipe, command_of("moved", "it", again), "it")
    other = command_of("photos", "run", {**asked, "init": None})
    said = rf"init was {begun} and is not given\. Repeat its own to go on"
    with pytest.raises(UserError, match=said):
        check_same(recipe, other, "run")


def test_begins_with_given_weights_and_says_so_ever_after(
    first, photos, tmp_path, monkeypatch, capsys
):
    """The backbone by the file, the rate lower; its origin is in the checkpoint."""
    start = tmp_path / "start.pth"
    held = torch.load(first[1], weights_only=True)
    held["meta"]["license"] = "CC0"
    torch.save(held, start)
    small = {name: x for name, x in SMALL.items() if name != "backbone"}
    out = tmp_path / "run"
    checkpoint = pretrain(photos, out, init=start, epochs=1, **small)
    text = (out / RECIPE).read_text()
    assert "base_channels = 32" in text and "from given weights" in text
    begun = load_config(out / RECIPE)
    model = MODELS.build(begun.model)
    model.init_weights()
    for name, value in model.backbone.state_dict().items():
        assert torch.equal(value, held["state_dict"][f"backbone.{name}"]), name
        assert torch.equal(value, model.target.backbone.state_dict()[name]), name
    lines = origin_lines(read_weights(checkpoint).origin)
    assert lines[0].startswith(f"Began with {start} (sha256 ")
    assert lines[0].endswith("licence CC0).")
    assert lines[1].startswith("Trained on 25 files (fingerprint ")
    layouts = ("--layouts", "torchvision", "safetensors")
    exported = call_tool(
        *("export_backbone", monkeypatch, capsys, checkpoint, *layouts)
    )
    assert all(line in exported[1] for line in lines)
    # A chain compares with what the pretraining began with.
    transfer = REPO / "configs/transfer/detection/faster_rcnn_r50_fpn_voc0712.py"
    chain = tmp_path / "chain.py"
    chain.write_text(
        f"pretrain = dict(config={str(out / RECIPE)!r})\n"
        "sources = dict(begun='start', random=None)\n"
        f"transfers = dict(voc=dict(config={str(transfer)!r}))\n"
    )
    assert read_chain(chain).sources == {"begun": start, "random": None}
    # Its own weights go on where the file is gone.
    start.unlink()
    train(out / RECIPE, {**QUIET, "max_epochs": 2}, work_dir=str(out), resume=True)
    assert origin_lines(read_weights(out / "epoch_2.pth").origin) == lines


def test_a_warm_up_is_shorter_than_any_run(photos):
    for epochs, warmup in ((1, 0), (5, 0), (20, 2), (200, 5)):
        asked = dict(method="ressl", backbone="resnet18", init=None, teacher=None)
        plan = _plan(photos, {**asked, "epochs": epochs, "seed": 0}, "")
        assert f"\nlr_warmup = {warmup}  # epochs" in write_recipe(plan)


def test_a_teacher_makes_it_distillation(first, photos, tmp_path):
    out = tmp_path / "run"
    both = [first[0], str(first[1])]  # of a run's folder the last checkpoint
    checkpoint = pretrain(photos, out, teacher=both, epochs=1, **SMALL)
    model = load_config(out / RECIPE).model
    assert model.backbone.out_indices == model.teacher[0].backbone.out_indices
    assert model.terms[0].levels == ((0, 0), (1, 1), (2, 2))
    state = state_of(checkpoint)
    taught = state_of(first[1])
    for part in ("target", "terms.distillation1.teacher"):
        for name, value in taught.items():
            if name.startswith("backbone."):
                assert torch.equal(state[f"{part}.{name}"], value), name
    origin = read_weights(checkpoint).origin
    assert [x["part"] for x in origin["teachers"]] == [
        *("target.backbone", "terms.distillation1.teacher.backbone")
    ]


@pytest.mark.parametrize("method", sorted(METHODS))
def test_every_method_has_a_recipe_that_can_be_built(method, photos, first, tmp_path):
    """At 96 px, the size for a CPU, and some at the 224 of the papers."""
    for size in (96, 224) if method in ("co2", "byol", "regionclm") else (96,):
        asked = dict(
            method=method,
            backbone="resnet18",
            init=None,
            teacher=first[1] if METHODS[method].teaches else None,
            image_size=size,
            seed=3,
        )
        path = tmp_path / f"{size}.py"
        path.write_text(write_recipe(_plan(photos, asked, "mmssl-ext pretrain")))
        cfg = load_config(path)
        prepare(cfg, work_dir="unused")
        assert cfg.model.backbone.depth == 18 and cfg.randomness.seed == 3
        assert cfg.train_dataloader.dataset.root == str(photos)
        assert "knn" not in cfg.default_hooks
        MODELS.build(cfg.model)


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("a.pth", b"PK\x03\x04" + bytes(9), "no list of images: it is a zip archive"),
        ("a.bin", bytes(range(256)) * 99, "no list of images: it is no text"),
        (
            "a.txt",
            "a.png\n".encode("utf-16"),
            "it is text in UTF-16: write it in UTF-8",
        ),
        ("a.csv", b"path,label\na.png,0\n", r"None of the 2 .* is 'path,label', seen"),
        ("a.json", b'["%s"]' % (b"x" * 999), r"of the 1 .* is '\[\"x{73} \.\.\., seen"),
        ("b.txt", b"gone/a.png\nb.png\n", r"None of the 2 images .* 'gone/a\.png', se"),
        ("c.txt", b"a.png 3\nb.png\nc\0.png 2", r"^Line 2 of the image list .* malf"),
    ],
)
def test_what_is_no_list_of_images_is_said(name, content, sentence, tmp_path):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(UserValueError, match=sentence) as caught:
        pretrain(path, tmp_path / "run", **SMALL)
    said = str(caught.value).replace(str(tmp_path), "")
    assert len(said) < 260 and not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (dict(data="nowhere"), r"nowhere' .* does not exist\. Give a folder of images"),
        (dict(method="coo2"), r"Did you mean co2"),
        (dict(backbone="resnet19"), r"Did you mean resnet18"),
        (dict(teacher="x.pth", method="byol"), r"^BYOL has no teacher; leave method"),
        (dict(method="byol", queue_len=64), r"^BYOL has no queue; leave queue_len=64"),
        (dict(method="simreg"), r"^SimReg needs a teacher: teacher='resnet50\.pth'"),
        (dict(init="nowhere.pth"), r"nowhere\.pth"),
        (dict(init="."), r"^The folder \S+ holds no run; give a checkpoint, or the"),
        (dict(epochs=1, steps=2), r"Give epochs or steps"),
        (dict(data=""), r"^data is empty: ''\. Name a file or folder\.$"),
        (dict(out=""), r"^out is empty: ''"),
        (dict(method=""), r"^method is empty"),
        (dict(backbone=""), r"^backbone is empty"),
        (dict(init=""), r"^init is empty: ''\. .*, or leave it out"),
        (dict(teacher=["a.pth", ""]), r"^teacher is empty: \['a\.pth', ''\]"),
        (dict(teacher=[]), r"^teacher is empty: \[\]\. .*, or leave it out"),
        (dict(teacher={}), r"^teacher is empty: \{\}\. .*, or leave it out"),
        (dict(teacher=3), r"^teacher is 3: it must be the path of a file or folder"),
        (dict(data=None), r"^data is None: it must be the path of a file or folder"),
        (dict(data=[["a"]]), r"^data is \[\['a'\]\]: it must be the path"),
        (dict(data="a\0b"), r"^data is 'a\\x00b': no path has a zero byte"),
        (dict(out=None), r"^out is None: it must be the path"),
        (dict(out=b"run"), r"^out is b'run': it must be the path"),
        (dict(init=7), r"^init is 7: .*For a name of digits write '\./7'\.$"),
        (dict(trackers=None), r"^trackers=None must be a list of some of tensorb"),
        (dict(trackers=[["wandb"]]), r"no tracker \['wandb'\]; trackers can hold"),
        (dict(lr=True), r"^lr=True must be a positive number"),
        (dict(image_size=7), r"^image_size=7 is less than 32"),
        (dict(options={3: 1}), r"^--cfg-options: 3 is no name of an option"),
        (dict(options=["a=1"]), r"options=\['a=1'\] must be a dict"),
        (dict(overwrite="no"), r"^overwrite='no' must be True or False\.$"),
        (dict(resume=1), r"^resume=1 must be True or False\.$"),
        (dict(epoch=1), r"pretrain has no 'epoch'\. Did you mean epochs"),
    ],
)
def test_what_cannot_be_used_is_said_in_a_sentence(changes, sentence, photos, tmp_path):
    asked = dict(data=photos, out=tmp_path / "run", **SMALL) | changes
    with pytest.raises(UserError, match=sentence) as caught:
        pretrain(**asked)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_a_run_is_kept_out_of_its_images(photos, tmp_path, monkeypatch):
    """Whatever way leads there; beside them, above or hidden is its place."""
    (tmp_path / "link").symlink_to(photos)
    monkeypatch.chdir(photos)
    for data, out in ((photos, photos), (".", "runs/x"), (tmp_path / "link", "runs")):
        said = rf"^The folder of the run, '{out}', is .*that of the images, '{data}': p"
        with pytest.raises(UserValueError, match=said):
            pretrain(data, out, **SMALL)
    assert sorted(x.name for x in photos.iterdir()) == ["class0", "class1", "notes.txt"]
    listed = {"type": "ImageList", "root": str(photos)}
    for out in (photos.parent, tmp_path, photos / ".runs/x", f"{photos}2"):
        check_apart({**listed, "type": "ImageFolder"}, out)
    check_apart(listed, photos / "runs")


def test_weights_of_another_backbone_are_refused_at_once(first, photos, tmp_path):
    asked = SMALL | dict(init=first[0], backbone="resnet50")
    sentence = r"holds the weights of resnet18-w32, not of resnet50; leave backbone"
    with pytest.raises(UserError, match=sentence):
        pretrain(photos, tmp_path / "run", **asked)
    assert not (tmp_path / "run").exists()


def test_weights_of_another_family_are_refused_at_once(first, photos, tmp_path):
    asked = SMALL | dict(init=first[1], backbone="convnext-atto")
    sentence = r"weights of resnet18-w32, not of convnext-atto; leave backbone out"
    with pytest.raises(UserError, match=sentence):
        pretrain(photos, tmp_path / "run", **asked)


def test_a_run_needs_a_folder(photos, tmp_path):
    (tmp_path / "run").write_text("a file")
    with pytest.raises(UserError, match=r"run cannot be written: .*by --out\.$"):
        pretrain(photos, tmp_path / "run", **SMALL)


def test_an_empty_folder_is_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"empty"):
        pretrain(tmp_path / "empty", tmp_path / "run", **SMALL)
    assert not (tmp_path / "run").exists()


def test_weights_of_another_network_are_refused(first, photos, tmp_path):
    """Before the first step, by the shapes; a session has its signals back."""
    before = [signal.getsignal(number) for number in SIGNALS]
    with pytest.raises(UserError, match=r"width of 64 .* width of 32|shape"):
        pretrain(
            *(photos, tmp_path / "run"),
            **{**SMALL, "init": first[1], "options": {"base_channels": 64}},
        )
    assert [signal.getsignal(number) for number in SIGNALS] == before
    assert current() is None
