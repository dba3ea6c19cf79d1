"""Strict configs: every shipped one passes, no malicious one runs."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from mmengine.config import Config

from mmssl_ext.engine.config.strict import SCOPES, check_names, check_strict
from mmssl_ext.errors import ConfigError
from mmssl_ext.run.launch import load_config

ROOT = Path(__file__).parents[2]
CONFIGS = sorted((ROOT / "configs").rglob("*.py"))
CANARY = "canary"

# Each would write the file `canary` beside the config if it were run, or leads to it.
TOUCH = "open('canary', 'w')"
READ_BASE = "from mmengine.config import read_base\nwith read_base():\n    "
OWN = "custom_imports = dict(imports=['mmssl_ext'])\n"
MALICIOUS = {
    "open": TOUCH,
    "import": "import os; os.system('touch canary')",
    "import from": "from os import system; system('touch canary')",
    "import in a block": "if 1:\n    import os\n    os.system('touch canary')",
    "__import__": "x = __import__('os').system('touch canary')",
    "builtins": "x = __builtins__['open']",
    "alias of a builtin": "f = open",
    "builtin as key": f'max(["{TOUCH}", "1"], key=eval)',
    "lambda": f"x = (lambda: {TOUCH})()",
    "def": f"def f(x={TOUCH}):\n    pass",
    "decorator": f'@eval\nclass A:\n    pass\nx = "{TOUCH}"',
    "walrus": f"x = (y := {TOUCH})",
    "try": f"try:\n    1/0\nexcept Exception:\n    {TOUCH}",
    "while": f"while True:\n    {TOUCH}\n    break",
    "with": f"with {TOUCH}:\n    pass",
    "subclasses": (
        "x = [c for c in ().__class__.__base__.__subclasses__() "
        "if c.__name__ == '_wrap_close'][0].__init__.__globals__['system']\n"
        "x('touch canary')"
    ),
    "method of a module": "x = _base_.__class__.__init__.__globals__",
    "format": "x = '{0.__class__.__init__}'.format(1)",
    "format as key": "x = sorted([1], key='{0.__class__}'.format)",
    "f-string": 'x = f"{' + TOUCH.replace("'", "chr(99)") + '}"',
    "nested f-string": 'x = f"{1:{open}}"',
    "subscript call": f'x = [eval][0]("{TOUCH}")',
    "call of a call": f'x = dict(f=eval).get("f")("{TOUCH}")',
    "annotation": f"x: {TOUCH} = 1",
    "match": f"match {TOUCH}:\n    case _: pass",
    "_base_ as expression": f"_base_ = [{TOUCH}.name]",
    "_base_ twice": f"_base_ = []\nx = _base_ = {TOUCH}.name",
    "_base_ chained": "_base_ = x = 'evil.py'",
    "_base_ annotated": "_base_: str = 'evil.py'",
    "custom_imports": "custom_imports = dict(imports=['evil'])",
    "custom_imports beside ours": (
        "custom_imports = dict(imports=['mmssl_ext.models', 'evil'])"
    ),
    "custom_imports like ours": "custom_imports = dict(imports=['mmssl_extra'])",
    "custom_imports computed": "m = 'evil'\ncustom_imports = dict(imports=[m])",
    "custom_imports changed": OWN + "custom_imports['imports'].append('evil')",
    "custom_imports as a key": OWN + "x = dict(custom_imports=1)['custom_imports']",
    "custom_imports in a loop": "for custom_imports in [dict(imports=['evil'])]: pass",
    "custom_imports in a block": "if 1:\n    custom_imports = dict(imports=['evil'])",
    "custom_imports augmented": OWN + "custom_imports |= dict(imports=['evil'])",
    "environment default": "x = '''{{$NO_SUCH:'''+str(exec(" + repr(TOUCH) + "))#}}'''",
    "environment as regex": "x = '{{$NO_SUCH:(a+)+$}}'",
    "read_base of a package": READ_BASE + "from mmpretrain.configs.x import *",
    "read_base under another name": (
        "from mmengine.config import read_base as f, Config as read_base\n"
    ),
    "read_base and code": READ_BASE + f"{TOUCH}\n    from .evil import *",
    "with that is not read_base": (
        f"from mmengine.config import read_base\nwith {TOUCH} as read_base: pass"
    ),
    "read_base renames": READ_BASE + "from .plain import x as custom_imports",
    "network under another name": (
        "_base_ = []\nfrom mmssl_ext.backbones import network as f\nx = f('resnet18')"
    ),
    "more than network": (
        "_base_ = []\nfrom mmssl_ext.backbones import network, FAMILIES\nx = 1"
    ),
    "network of elsewhere": "_base_ = []\nfrom evil import network\nx = network('a')",
    "network without its import": "x = network('resnet18')",
    "import beside network": (
        "_base_ = []\nfrom mmssl_ext.backbones import network\nimport evil"
    ),
    "LazyObject": "x = dict(type=LazyObject)",
    "await": "x = [y async for y in z]",
    "print": "print('hello')",
    "zero byte": "x = 1\0" + TOUCH,
    "nesting": "x = " + "(" * 5000 + ")" * 5000,
}


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty folder with a base that is malicious, as module and as config."""
    (tmp_path / "evil.py").write_text(TOUCH)
    (tmp_path / "plain.py").write_text("x = dict(imports=['evil'])")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("every", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_every_shipped_config_is_data(monkeypatch, every):
    """All files that mmengine runs for a config are checked, and pass."""
    run: list[str] = []
    read = Config._file2dict

    def record(filename, *args, **kwargs):
        run.append(os.path.abspath(filename))
        return read(filename, *args, **kwargs)

    monkeypatch.setattr(Config, "_file2dict", record)
    assert len(CONFIGS) > 70
    passed: set[Path] = set()
    whole = [path for path in CONFIGS if "_base_" not in path.parts]
    first = {path.parent: path for path in reversed(whole)}  # of each folder
    for path in whole if every else first.values():
        files = check_strict(path)
        assert files[-1] == path
        run.clear()
        check_names(Config.fromfile(path, import_custom_modules=False))
        # Besides copies of them, with other values for variables
        read_files = {file for file in run if ROOT in Path(file).parents}
        assert {*map(str, files)} == read_files
        passed.update(files)
    for path in {*CONFIGS} - passed:  # a base alone need not be complete
        check_strict(path)


@pytest.mark.fault("R20")
@pytest.mark.parametrize("text", MALICIOUS.values(), ids=MALICIOUS)
def test_malicious_configs_are_refused_and_nothing_runs(here, text):
    (here / "config.py").write_text(text)
    with pytest.raises(ConfigError, match=r"config\.py"):
        check_strict("config.py")
    (here / "child.py").write_text("_base_ = ['config.py']\nx = 1")
    with pytest.raises(ConfigError, match=r"config\.py"):
        check_strict("child.py")
    assert not (here / CANARY).exists()


def test_the_message_names_file_line_and_construct(here):
    (here / "config.py").write_text("x = 1\n\ny = [\n    2,\n    eval('3'),\n]\n")
    with pytest.raises(ConfigError) as caught:
        check_strict("config.py")
    for part in (f"{here}/config.py", "line 5", "eval('3')", "--strict-config"):
        assert part in str(caught.value)


@pytest.mark.fault("R20")
@pytest.mark.parametrize("name", ["'''.py", '";import os;os.mkdir("canary");".py'])
def test_the_name_of_a_file_cannot_become_code(here, name):
    text = f'x = "{{{{ fileBasename }}}}"\n{TOUCH if "import" not in name else ""}'
    if name.startswith("'"):  # code in a string, once the name has closed another
        text = f"x = {{{{ fileBasename }}}}\n{TOUCH}\ny = '''1'''\n"
    (here / name).write_text(text)
    if name.startswith("'"):
        with pytest.raises(ConfigError):
            check_strict(name)
    else:  # its quotation mark does not end the string
        check_strict(name)
        assert load_config(name).x == name
    assert not (here / CANARY).exists()


def test_the_environment_cannot_become_code(here, monkeypatch):
    (here / "config.py").write_text("root = '{{$ROOT:data}}'")
    monkeypatch.setenv("ROOT", f"' + str({TOUCH}) + '")
    check_strict("config.py")  # quotation marks do not end the string
    (here / "config.py").write_text("root = {{'$ROOT:1'}}")
    monkeypatch.setenv("ROOT", f"str({TOUCH})")
    with pytest.raises(ConfigError, match="open"):
        check_strict("config.py")
    assert not (here / CANARY).exists()


def test_what_computes_values_is_allowed(here):
    (here / "base.py").write_text("a = dict(b=[1, 2], c='{{$NONE:none}}')\nn = 3\n")
    (here / "config.py").write_text(
        '''"""A docstring."""
_base_ = "base.py"
custom_imports = dict(imports=["mmssl_ext.engine"], allow_failed_imports=False)
width: int = 64
widths = [width * 2**i for i in range(4) if i != 1]
names = {f"s{i}": (i, -i)[::-1] for i in range(2)}
names.update(z=sorted({3, 1}))
steps = _base_.n // 2 or max(1, 2)
copied = {{_base_.a}}
here = "{{ fileBasenameNoExtension }}"
for name in list(names):
    names[name] = str(name).upper()
if width > 3:
    del names["z"]
width += 1
both = dict(**names, first=widths[0] if widths else None)
'''
    )
    assert [f.name for f in check_strict("config.py")] == ["base.py", "config.py"]
    cfg = Config.fromfile("config.py", import_custom_modules=False)
    assert cfg.widths == [64, 256, 512]
    assert cfg.copied.b == [1, 2]
    assert (cfg.steps, cfg.here, cfg.width) == (1, "config", 65)
    assert cfg.both == {"s0": "S0", "s1": "S1", "first": 64}


def test_a_backbone_is_data(here):
    (here / "config.py").write_text(
        "_base_ = []\nfrom mmssl_ext.backbones import network\n"
        "net = network('resnet18-w32')\nmodel = dict(backbone=net['backbone'])\n"
    )
    assert [f.name for f in check_strict("config.py")] == ["config.py"]
    cfg = Config.fromfile("config.py")
    assert cfg.model.backbone.base_channels == 32 and "network" not in cfg


def test_read_base_is_followed(here):
    (here / "child.py").write_text(
        "from mmengine.config import read_base\n"
        "with read_base():\n    from .base import *\nmodel.depth = 18\n"
    )
    (here / "base.py").write_text("model = dict(type='ResNet', depth=50)")
    assert [f.name for f in check_strict("child.py")] == ["base.py", "child.py"]
    assert Config.fromfile("child.py").model.depth == 18
    (here / "base.py").write_text(TOUCH)
    with pytest.raises(ConfigError, match=r"base\.py, line 1"):
        check_strict("child.py")


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("a.yaml", "x: !!python/object/apply:os.mkdir [canary]", "YAML"),
        ("a.json", '{"custom_imports": {"imports": ["evil"]}}', "custom_imports"),
        ("a.json", '{"_base_": "evil.py"}', r"evil\.py"),
        ("a.json", '{"_base_": 3}', "path or a list of paths"),
        ("a.json", "[" * 100_000, "not valid JSON"),
        ("a.json", "[]", "no JSON object"),
        ("a.py", "_base_ = 'a.py'", "a base of itself"),
        ("a.py", "_base_ = 'missing.py'", "does not exist"),
        ("a.py", "_base_ = 'http://x.y/evil.py'", "no local file"),
        ("a.py", "_base_ = 'mmdet::nowhere/x.py'", "the base"),
        ("a.py", "\udcff", "cannot be read"),
    ],
)
def test_bases_and_other_formats(here, name, text, reason):
    (here / name).write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(ConfigError, match=reason):
        check_strict(name)
    assert not (here / CANARY).exists()
    (here / "good.json").write_text('{"_base_": [], "x": {"type": "ResNet"}}')
    assert [f.name for f in check_strict("good.json")] == ["good.json"]


NAMES = {
    "os.system": "scope 'os'",
    "mmengine.model.BaseModel": "registered class",
    "evil.Model": "scope 'evil'",
    "eval": "registered class",
    "__import__('os').system('touch canary')": "registered class",
    "RFSearchHook": "registered class",
}


@pytest.mark.fault("R20")
@pytest.mark.parametrize("name", NAMES)
def test_names_that_import_are_refused(name):
    cfg = {"hooks": [{"type": "ResNet"}, {"a": ({"type": name},)}]}
    with pytest.raises(ConfigError, match=NAMES[name]) as caught:
        check_names(cfg)
    assert "hooks[1].a[0].type" in str(caught.value)


def test_scopes_and_evaluated_options():
    for scope in SCOPES:
        check_names({"type": f"{scope}.X", "_scope_": scope, "default_scope": None})
    for bad in ({"_scope_": "evil"}, {"default_scope": "evil"}, {"dtype": "f()"}):
        with pytest.raises(ConfigError):
            check_names({"model": bad})
