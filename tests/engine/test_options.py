"""Options of the command line: blanks, quotes, brackets; variables of child configs."""

import re
from argparse import ArgumentParser

import pytest
from mmengine.config import DictAction

from mmssl_ext.datasets import ImageFolder, LabelledFolder
from mmssl_ext.engine.config.options import parse_value
from mmssl_ext.engine.config.values import check_values
from mmssl_ext.errors import ConfigError
from mmssl_ext.run.launch import load_config
from tests.harness import REPO

CONFIGS = REPO / "configs/transfer"
VOC = CONFIGS / "detection/faster_rcnn_r50_fpn_voc0712.py"
FCN = CONFIGS / "segmentation/fcn_r50_cityscapes_40k.py"


def given(*options):
    parser = ArgumentParser()
    parser.add_argument("--cfg-options", nargs="+", action=DictAction)
    return parser.parse_args(["--cfg-options", *options]).cfg_options


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("(red disk, 'square', \"a\")", ("red disk", "square", "a")),
        ("['a,b',3]", ["a,b", 3]),
        ("(driver's licence, car)", ("driver's licence", "car")),
        ("(object,)", ("object",)),
        ("(object)", ("object",)),
        ("/data/my photos", "/data/my photos"),
        ("'/data/a,b'", "/data/a,b"),
        ("/data/photos(1)", "/data/photos(1)"),
        ("(a)b", "(a)b"),
        # as mmengine reads them
        ("1,2.5,true,None", [1, 2.5, True, None]),
        ("[(VOC2007,trainval),(A,b)]", [("VOC2007", "trainval"), ("A", "b")]),
        ("(a,b),(c,d)", [("a", "b"), ("c", "d")]),
        ("((1,2),)", ((1, 2),)),
        ("'[1,2]'", [1, 2]),
        ("5", 5),
        ("", ""),
        ("()", ()),
        ("a=b", "a=b"),
        # as configs write them
        ("dict(a = 1, b='x, y=z', c=[2,None])", dict(a=1, b="x, y=z", c=[2, None])),
        ("[dict(a=dict(b=0.5),c=(1,2))]", [dict(a=dict(b=0.5), c=(1, 2))]),
        ("dict(a=dict(b=1)),dict()", [dict(a=dict(b=1)), dict()]),
        ("'dict(a=1)'", "dict(a=1)"),
        ("dictionary(a)", "dictionary(a)"),
        ("dict(a)b", "dict(a)b"),
    ],
)
def test_values(text, value):
    found = given(f"key={text}")["key"]
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["classes=(red", "disk,square)"], r"in \(red are not closed.* into quotes"),
        (["classes=['red,disk]"], "not closed"),
        (["a=dict(kind=1"], "not closed"),
        (["a=1", "disk,square)"], r"--cfg-options disk,square\): write KEY=VALUE"),
        (["a=dict(b=1,c)"], r"'c' in dict\(b=1,c\): write dict\(NAME=VALUE,...\)"),
        (["a=dict(b=1,b=2)"], r"'b=2' in .* each name once"),
        (["a=[dict(b=(1)]"], "not closed"),
    ],
)
def test_what_the_shell_has_split_is_a_sentence(options, message):
    with pytest.raises(ConfigError, match=message):
        given(*options)


def test_options_of_several_uses_add_up():
    assert given("a=1", "b=x", "--cfg-options", "a=2") == {"a": 2, "b": "x"}


def test_dicts_replace_what_stood_there(tmp_path):
    file = tmp_path / "c.py"
    file.write_text(
        "model = dict(weight=0.3, momentum=dict(start=0.9, end=1), "
        "terms=[dict(a=1, b=2), dict(a=3)])"
    )
    options = given(
        "model.weight=dict(kind=linear,start=0)",
        "model.weight.until=5",
        "model.momentum=dict(end=0.5)",
        "model.terms.0=dict(c=4)",
        "model.weights.dense=dict(end=2)",
    )
    assert load_config(file, options).model.to_dict() == {
        "weight": {"kind": "linear", "start": 0, "until": 5},
        "momentum": {"end": 0.5},
        "terms": [{"c": 4}, {"a": 3}],
        "weights": {"dense": {"end": 2}},
    }
    options = given("model.weight.kind=linear")
    with pytest.raises(ConfigError, match=r"model.weight is 0.3, not a dict; give all"):
        load_config(file, options)


def test_a_hook_that_is_not_there_is_not_switched_off(tmp_path):
    file = tmp_path / "c.py"
    file.write_text('default_hooks = dict(knn=dict(type="KNNHook"), learned=None)')
    with pytest.raises(ConfigError, match=r"no 'learnt'\. Did you mean learned\?"):
        load_config(file, {"default_hooks.learnt": None})
    with pytest.raises(ConfigError, match=r"no 'kn'\. Did you mean knn\?"):
        load_config(file, {"default_hooks.kn": None})
    for name in ("knn", "timer", "visualization"):  # the last: there is none like it
        assert load_config(file, {f"default_hooks.{name}": None})


@pytest.mark.parametrize("option", ["rate=nan", "rate=-inf", "deep.x=1,nan"])
def test_numbers_that_no_config_can_hold_are_refused(tmp_path, option):
    file = tmp_path / "c.py"
    file.write_text("rate = 1\nmodel = dict(rate=rate)")
    with pytest.raises(ConfigError, match=f"--cfg-options {option[:4]}.* must be fin"):
        load_config(file, given(option))
    with pytest.raises(ConfigError, match=r"model\.x=nan must be finite"):
        load_config(file, {"model": {"x": float("nan")}})


@pytest.mark.parametrize(
    ("option", "sentence"),
    [
        ("model=", "model='': this is a section of the config"),
        ("model.head=3", "model.head=3: this is a section of the config"),
        ("model=dict(rate=2)", "replaces all of model, and has no type. Give type=A"),
        ("custom_hooks.0=dict(rate=2)", "by custom_hooks.0.rate=..."),
    ],
)
def test_what_has_a_type_is_not_replaced_by_what_has_none(tmp_path, option, sentence):
    file = tmp_path / "c.py"
    file.write_text(
        'model = dict(type="A", head=dict(type="B"), weight=dict(kind="linear"))\n'
        'custom_hooks = [dict(type="C")]'
    )
    with pytest.raises(ConfigError, match=re.escape(sentence)):
        load_config(file, given(option))
    found = load_config(file, given("model.head=None", "model.weight=0.5"))
    assert found.model == dict(type="A", head=None, weight=0.5)
    found = load_config(file, given("model=dict(type=D)"))
    assert found.model == dict(type="D")


# Variables that a file of the user's assigns anew


def child(folder, text, base=VOC):
    path = folder / "own.py"
    path.write_text(f'_base_ = "{base}"\n{text}\n')
    return path


def test_classes_of_a_child_config_move_what_follows_from_them(tmp_path):
    own = child(tmp_path, 'classes = ("red disk", "square")\nnum_workers = 0')
    expected = load_config(VOC, {"classes": ("red disk", "square"), "num_workers": 0})
    cfg = load_config(own)
    assert cfg.num_classes == cfg.model.roi_head.bbox_head.num_classes == 2
    assert cfg.to_dict() == expected.to_dict()
    data = cfg.train_dataloader.dataset.datasets[0]
    assert data.metainfo.classes == ("red disk", "square")
    assert cfg.filename == str(own)
    # the outermost value counts: an option, then a child of the child
    assert load_config(own, {"classes": ("a",)}).num_classes == 1
    inner = tmp_path / "inner.py"
    inner.write_text('_base_ = "own.py"\nclasses = ("a", "b", "c")\n')
    assert load_config(inner).model.roi_head.bbox_head.num_classes == 3


@pytest.mark.parametrize(
    ("text", "iters", "end"),
    [
        ("max_iters = 30 * 3", 90, 90),
        ("max_iters = 40\nhalf = max_iters // 2\nmax_iters = 90", 90, 90),
        ("max_iters = 80\nmax_iters += 10", 90, 90),
        ("max_iters = _base_.max_iters // 1000", 40, 40),
        ("max_iters = 90\ntrain_cfg = dict(max_iters=70)", 70, 90),
    ],
)
def test_any_variable_moves_by_its_own_value(tmp_path, text, iters, end):
    cfg = load_config(child(tmp_path, text, FCN))
    assert cfg.train_cfg.max_iters == iters
    assert cfg.param_scheduler[0].end == end
    if "half" in text:
        assert cfg.half == 20


def test_parts_and_placeholders_stay_what_they_are(tmp_path):
    (tmp_path / "base.py").write_text(
        "a = 1\nb = a\nmodel = dict(x=a)\nview = [dict(p=1)]\n"
        'here = "{{ fileDirname }}"'
    )
    own = tmp_path / "own.py"
    own.write_text(
        '_base_ = "base.py"\na = 2\nmodel = dict(y=3)\nview = [dict(p=2)]\n'
        'there = "{{ fileDirname }}"'
    )
    cfg = load_config(own)
    assert (cfg.a, cfg.b, cfg.model) == (2, 2, {"x": 2, "y": 3})
    assert cfg.view == [{"p": 2}]
    assert cfg.here == cfg.there == str(tmp_path)


# One string where a list of names belongs


def test_a_string_in_classes_is_refused(tmp_path):
    expected = r'classes=disk is one string.* "classes=\(disk\)" .* \("disk",\) in'
    with pytest.raises(ConfigError, match=expected):
        check_values(load_config(VOC, {"classes": "disk"}))
    check_values(load_config(VOC, {"classes": ("disk",)}))
    names = tmp_path / "names.txt"
    names.write_text("disk\n")
    check_values({"dataset": {"metainfo": {"classes": str(names)}}})
    with pytest.raises(ConfigError, match=r"dataset\.metainfo\.classes=disk is"):
        check_values({"dataset": {"metainfo": {"classes": "disk"}}})


@pytest.mark.parametrize(
    ("given", "fault", "advice"),
    [
        ((1, 2), "name 1 is no text", "('1','2')"),
        (("a", "", "b"), "name '' is empty", "('a','b')"),
        ((7,), "name 7 is no text", "('7')"),
    ],
)
def test_names_of_classes_are_text(given, fault, advice):
    """mmdet compares names: with the number 1 no category '1' was found."""
    with pytest.raises(ConfigError) as error:
        check_values(load_config(VOC, {"classes": given}))
    assert fault in str(error.value)
    assert f'"classes={advice}"' in str(error.value)
    check_values(load_config(VOC, {"classes": parse_value(advice)}))


def test_a_string_in_classes_of_a_dataset_is_refused(images):
    with pytest.raises(ValueError, match=r"class as \('class0',\)"):
        LabelledFolder(images, classes="class0")
    assert len(ImageFolder(images)) == 16


def test_another_number_of_anchor_sizes_than_levels_is_named():
    cfg = load_config(VOC, {"anchor_sizes": (16, 32, 64)})
    expected = r"There are 3 anchor sizes, \[16, 32, 64\], but 5 levels .*anchor_sizes"
    with pytest.raises(ConfigError, match=expected):
        check_values(cfg)
    check_values(load_config(VOC))


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({3: 1}, "--cfg-options: 3 is no name of an option"),
        ({"model..x": 1}, "--cfg-options: 'model..x' is no name of an option"),
        (
            {"epochs": ""},
            "--cfg-options epochs='': .* of the kind of its own, epochs=3",
        ),
        ({"epochs": None, "rate": 2}, "--cfg-options epochs=None: the config computes"),
        (
            {"model.terms.2.a": 1},
            r"model\.terms\.2\.a: model\.terms is a list of 2 entries \(A, B\); give a "
            r"number of 0 to 1 in place .*, or all of it: model\.terms=\[\.{3}\]\.$",
        ),
        ({"model.terms.x": {"type": "C"}}, "in place of 'x', or all of it"),
        ({"model.terms.-1.a": 1}, "in place of '-1', or all of it"),
        ({"model.terms.\u00b2": 1}, "in place of '\u00b2', or all of it"),
        ({"model.one.1": 1}, r"list of 1 entry \(\[5\]\); give 0 in place of '1'"),
        ({"model.none.0": 1}, r"is a list of 0 entries; give model\.none=\[\.\.\.\]"),
        ({"model.n.a": 1, "model.n": 2}, "together: model.n.a goes below model.n=2"),
    ],
)
def test_an_option_that_leads_nowhere_is_named(tmp_path, options, sentence):
    """What stands there is named as well, not by the interpreter's words."""
    file = tmp_path / "c.py"
    file.write_text(
        "epochs = 3\nrate = 1\ntrain_cfg = dict(max_epochs=epochs // 1)\n"
        "model = dict(terms=[dict(type='A'), dict(type='B')], one=[5], none=[])"
    )
    with pytest.raises(ConfigError, match=sentence) as caught:
        load_config(file, options)
    assert "\n" not in str(caught.value)


def test_entries_of_lists_are_changed_by_their_numbers(tmp_path):
    file = tmp_path / "c.py"
    file.write_text("epochs = 3\nmodel = dict(terms=[dict(a=1), dict(a=2)], n=epochs)")
    found = load_config(file, {"model.terms.1.a": 5, "epochs": 4}).model
    assert found.to_dict() == {"terms": [{"a": 1}, {"a": 5}], "n": 4}


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ("foo", "'foo' is no dict"),
        (["foo"], r"\['foo'\] is no dict"),
        (3, "3 is no dict"),
        (
            {"import": ["os"]},
            "it has no option 'import', only imports and allow_failed",
        ),
        ({"imports": 3}, "imports=3 must be a list"),
        ({"imports": [""]}, "'' in imports is no name of a module"),
        ({"imports": ["my parts.py"]}, "'my parts.py' in imports is no name of a mod"),
        (
            {"imports": [], "allow_failed_imports": "no"},
            "allow_failed_imports='no' must",
        ),
    ],
)
def test_custom_imports_that_are_none_are_a_sentence(tmp_path, given, sentence):
    file = tmp_path / "c.py"
    file.write_text("model = dict()")
    said = rf"^custom_imports of config .*: {sentence}.*\. Give a list of names of modu"
    with pytest.raises(ConfigError, match=said):
        load_config(file, {"custom_imports": given})
    assert load_config(file, {"custom_imports": {"imports": ["os.path"]}})
