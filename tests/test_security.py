"""No file's code runs without leave: what the package calls, and what upstream."""

from __future__ import annotations

import ast
import codecs
import os
import pickle
import resource
import subprocess
import sys
from collections import OrderedDict
from pathlib import Path

import mmengine
import numpy as np
import pytest
import torch

from mmssl_ext.datasets import CIFAR10
from mmssl_ext.errors import CheckpointFileError
from mmssl_ext.pickles import load_plain
from mmssl_ext.transfer.export import export_backbone
from mmssl_ext.transfer.handover import PretrainedBackbone
from tests.datasets.helpers import write_cifar
from tests.transfer.support import source_checkpoint

ROOT = Path(__file__).parents[1]

# What can run code that stands in data -> the only files that may call it, and why.
ALLOWED = {
    "torch.load": {
        "mmssl_ext/engine/checkpoint/read.py"
    },  # weights_only, but for trust
    "torch.jit.load": {"mmssl_ext/api/graphs.py"},  # what it has just written itself
    "np.load": {  # allow_pickle=False
        "mmssl_ext/datasets/shards.py",
        "mmssl_ext/datasets/transforms/masks.py",
    },
    "yaml.load": {"mmssl_ext/pickles.py"},  # SafeLoader
}
FORBIDDEN = """
    pickle.load pickle.loads pickle.Unpickler torch.hub.load
    torch.package.PackageImporter joblib.load marshal.loads shelve.open np.loadtxt
    yaml.unsafe_load yaml.full_load eval exec __import__ builtins.compile os.system
    os.popen importlib.reload runpy.run_path
"""
DANGEROUS = ALLOWED | {name: set() for name in FORBIDDEN.split()}


class Payload:
    """Makes a folder where it is unpickled with full rights."""

    def __init__(self, sign: Path) -> None:
        self.sign = sign

    def __reduce__(self):
        return os.mkdir, (str(self.sign),)


def calls(path: Path):
    """Names that a file calls or hands on, as they would be after its imports."""
    tree = ast.parse(path.read_text())
    known = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            known |= {a.asname or a.name: a.name for a in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            known |= {a.asname or a.name: f"{node.module}.{a.name}" for a in node.names}
    for node in ast.walk(tree):
        if isinstance(node, (ast.Name, ast.Attribute)):
            name = ast.unparse(node)
            head, dot, rest = name.partition(".")
            yield node, f"{known.get(head, head)}{dot}{rest}".replace("numpy.", "np.")


@pytest.mark.fault("R19")
def test_only_documented_places_load_what_could_run():
    found: dict[str, set[str]] = {name: set() for name in DANGEROUS}
    files = [*(ROOT / "mmssl_ext").rglob("*.py"), *(ROOT / "tools").glob("*.py")]
    for path in files:
        for _, name in calls(path):
            if name in found:
                found[name].add(str(path.relative_to(ROOT)))
    assert found == DANGEROUS


def test_the_search_sees_other_spellings(tmp_path):
    (tmp_path / "x.py").write_text(
        "import torch as t\nfrom pickle import loads as f\nimport numpy\n"
        "t.load(1)\nf(2)\nnumpy.load(3)\nmap(eval, [])\n"
    )
    names = {name for _, name in calls(tmp_path / "x.py")}
    assert {"torch.load", "pickle.loads", "np.load", "eval"} <= names


def test_the_documented_calls_are_restricted():
    """``np.load`` without pickles, YAML without tags."""
    for file in ALLOWED["np.load"]:
        code = (ROOT / file).read_text()
        assert code.count("np.load(") == code.count("allow_pickle=False") == 1
    pickles = (ROOT / "mmssl_ext/pickles.py").read_text()
    assert pickles.count("yaml.load(") == pickles.count("Loader=yaml.SafeLoader)") == 1


@pytest.mark.fault("R19")
def test_a_backbone_is_unpickled_with_full_rights_only_by_trust(tmp_path):
    path, sign = tmp_path / "a.pth", tmp_path / "ran"
    state = source_checkpoint(path)
    content = torch.load(path, weights_only=True) | {"extra": Payload(sign)}
    torch.save(content, path)
    from mmpretrain.models import ResNet

    for trust in (False, True):
        model = ResNet(18, stem_channels=16, base_channels=16)
        if not trust:
            with pytest.raises(CheckpointFileError, match="could run code"):
                PretrainedBackbone(str(path))(model)
            with pytest.raises(CheckpointFileError, match="could run code"):
                export_backbone(path, tmp_path / "out", ["mm"])
            assert not sign.exists()
        else:
            PretrainedBackbone(str(path), trust=True)(model)
            assert sign.is_dir()
            sign.rmdir()
            files = export_backbone(path, tmp_path / "out", ["mm"], trust=True)
            assert sign.is_dir()
            plain = torch.load(files["mm"], weights_only=True)["state_dict"]
            for found in (model.state_dict(), plain):
                assert all(torch.equal(found[name], state[name]) for name in plain)


@pytest.mark.fault("R19")
@pytest.mark.slow
def test_the_tool_needs_the_option(tmp_path):
    sign = tmp_path / "ran"
    source_checkpoint(tmp_path / "a.pth")
    content = torch.load(tmp_path / "a.pth", weights_only=True)
    torch.save(content | {"extra": Payload(sign)}, tmp_path / "a.pth")
    command = [sys.executable, ROOT / "tools/export_backbone.py", tmp_path / "a.pth"]
    for options, code in (([], 2), (["--trust"], 0)):
        done = subprocess.run([*command, *options], capture_output=True, text=True)
        assert done.returncode == code, done.stderr
        assert sign.exists() == bool(options)


def arrays():
    return {
        "data": np.arange(12, dtype=np.uint8).reshape(3, 4),
        "order": np.arange(6.0).reshape(2, 3).T,
        "empty": np.zeros((0, 3)),
        "single": np.array(3),
        "number": np.float32(2.5),
        "flags": np.array([True]),
        "text": "\u00e4",
        "bytes": b"\xff\x00",
        "nested": OrderedDict(a=(1, [2.5, None])),
    }


@pytest.mark.parametrize("protocol", range(6))
def test_plain_pickles_are_read_as_pickle_reads_them(protocol):
    data = pickle.dumps(arrays(), protocol)
    expected, found = pickle.loads(data), load_plain(data)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        if isinstance(value, (np.ndarray, np.generic)):
            assert found[name].dtype == value.dtype
            assert np.array_equal(found[name], value)
        else:
            assert found[name] == value


@pytest.mark.fault("R19")
@pytest.mark.parametrize("protocol", range(6))
def test_no_pickle_of_data_runs_code(tmp_path, protocol):
    sign = tmp_path / "ran"
    for content in (Payload(sign), {"data": [np.array([Payload(sign)], object)]}):
        with pytest.raises(pickle.UnpicklingError):
            load_plain(pickle.dumps(content, protocol))
    (tmp_path / "x.pkl").write_bytes(pickle.dumps(Payload(sign), protocol))
    with pytest.raises(ValueError, match="could run code here"):
        mmengine.load(tmp_path / "x.pkl")
    write_cifar(tmp_path)
    batch = tmp_path / "cifar-10-batches-py" / "test_batch"
    batch.write_bytes(pickle.dumps({"data": Payload(sign), "labels": []}, protocol))
    with pytest.raises(ValueError, match=r"test_batch' cannot be read"):
        CIFAR10(str(tmp_path), split="test", verify_md5=False)
    assert not sign.exists()


def array_of(dtype, content, shape=(1,)):
    """An array as it pickles, of any dtype, content and shape."""
    array = np.zeros(1, np.uint8).__reduce__()
    state = (1, shape, dtype, False, content)
    return Reduced(*array[:2], state)


class Reduced:
    def __init__(self, *reduced):
        self.reduced = reduced

    def __reduce__(self):
        return self.reduced


BIG, TEXT, ITEMS = bytes(1 << 20), "x" * (1 << 20), [(i, i) for i in range(9999)]
BOMBS = {
    "shape": array_of(np.dtype("u1"), b"12", (1 << 40,)),
    "negative": array_of(np.dtype("u1"), b"12", (-1, -2)),
    "shared bytes": [array_of(np.dtype("u1"), BIG, (1 << 20,)) for _ in range(99)],
    "shared text": [Reduced(codecs.encode, (TEXT, "latin1")) for _ in range(99)],
    "shared items": [Reduced(OrderedDict, (ITEMS,)) for _ in range(9999)],
    "attributes": Reduced(OrderedDict, (), {"items": 1}),
    "objects": array_of(np.dtype(object), [print]),
    "new empty array": Reduced(np.ndarray, ((1 << 40,),)),
    "zeros": Reduced(bytes, (1 << 40,)),
    "bytearray": pickle.PROTO + b"\x05" + pickle.BYTEARRAY8 + b"\0\0\0\0\0\1\0\0.",
    "subarrays": array_of(Reduced(np.dtype, ("V4",), (3, "|", ("u1", (9,)))), b"1234"),
    "codec": Reduced(codecs.encode, ("eA==", "base64")),
    "nested": b"(" * 10**6 + b"t" * 10**6,
    "cut": pickle.dumps(arrays())[:-9],
}


@pytest.mark.fault("R19")
@pytest.mark.parametrize("kind", BOMBS)
def test_a_bomb_is_refused_in_one_sentence(kind):
    data = BOMBS[kind]
    data = data if isinstance(data, bytes) else pickle.dumps(data, 2)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(pickle.UnpicklingError) as caught:
        load_plain(data)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 200
    # An object with the number 2^31 - 1, on which the unpickler in C spends 32 GB.
    numbered = b"\x80\x02N" + pickle.LONG_BINPUT + b"\xff\xff\xff\x7f."
    assert load_plain(numbered) is None
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 300_000  # KiB


def test_an_allowed_name_cannot_be_changed():
    """BUILD sets attributes of whatever stands on the stack."""
    name = pickle.GLOBAL + b"collections\nOrderedDict\n"
    for state in (b"}(S'call'\nNu", b"(N}(S'call'\nNut"):
        with pytest.raises(pickle.UnpicklingError, match="it is damaged"):
            load_plain(name + state + pickle.BUILD + pickle.STOP)


def test_upstream_reads_and_writes_plain_annotations(tmp_path):
    content = {"boxes": np.ones((2, 4), np.float32), "name": "a"}
    mmengine.dump(content, tmp_path / "x.pkl")
    found = mmengine.load(tmp_path / "x.pkl")
    assert np.array_equal(found["boxes"], content["boxes"])
    (tmp_path / "x.yaml").write_text("a: [1, 2]")
    assert mmengine.load(tmp_path / "x.yaml") == {"a": [1, 2]}
    sign = tmp_path / "ran"
    (tmp_path / "x.yaml").write_text(f"!!python/object/apply:os.mkdir ['{sign}']")
    with pytest.raises(Exception, match="could not determine a constructor"):
        mmengine.load(tmp_path / "x.yaml")
    assert not sign.exists()


ENFORCED = """
import sys
from mmengine.registry import HOOKS, MODELS
import mmssl_ext.registry
if sys.argv[1] == "strict":
    from mmssl_ext.engine.config.strict import enforce
    enforce()
    assert MODELS.get("mmssl_ext.CO2").__name__ == "CO2"
for registry, cfg in (
    (HOOKS, dict(type="os.mkdir", path=sys.argv[2])),
    (MODELS, dict(type="evil.Model")),
):
    try:
        registry.build(cfg)
    except Exception as error:
        print(type(error).__name__, error)
"""


@pytest.mark.fault("R20")
@pytest.mark.slow
def test_registries_import_nothing_once_enforced(tmp_path):
    """Without it mmengine calls any function that a config names."""
    (tmp_path / "evil").mkdir()
    (tmp_path / "evil/__init__.py").touch()
    (tmp_path / "evil/registry.py").write_text("open('imported', 'w')")
    for mode in ("strict", "plain"):
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", ENFORCED, mode, tmp_path / "ran"],
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": f"{ROOT}:{tmp_path}"},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        happened = mode == "plain"
        assert (tmp_path / "ran").exists() == happened, done.stdout
        assert (tmp_path / "imported").exists() == happened, done.stdout
