"""The backbone of a checkpoint as a graph that runs without this package."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import mmssl_ext
from mmssl_ext import compat
from mmssl_ext.errors import UserError
from mmssl_ext.files import drafted, path_named
from mmssl_ext.fit import pooled

from .backbone import Preprocess, check_size, load_backbone

__all__ = ["Graph", "export_graphs"]

#: Kind of graph -> end of the file's name.
GRAPHS = {"onnx": ".onnx", "torchscript": "_torchscript.pt"}
_PACKAGES = {"onnx": ("onnx", "onnxruntime"), "torchscript": ()}
# What is tried in turn: any number of images, any height and width.
_FREEDOMS = ((True, True), (True, False), (False, False))
_DIFFERENCE = 1e-4  # of the largest value: what another order of additions makes


@dataclass(frozen=True)
class Graph:
    """A file that was written.

    Attributes:
        path: Of the file.
        outputs: Names in their order: ``features``, N x C, the mean over the last map;
            ``map``, N x C x h x w, or ``map0``, ``map1`` ... where there are several.
        any_batch: It takes any number of images, else two.
        any_size: It takes any height and width, else ``size`` x ``size``.
        size: Side of the images that it was written with, pixels.
        difference: Of its outputs from torch's, relative to their largest value.
    """

    path: Path
    outputs: tuple[str, ...]
    any_batch: bool
    any_size: bool
    size: int
    difference: float

    def line(self) -> str:
        """What it takes, for people."""
        count = "any number of" if self.any_batch else "2"
        size = "of any size" if self.any_size else f"of {self.size} x {self.size} px"
        return (
            f"{', '.join(self.outputs)} of {count} images {size}; differs from torch "
            f"by {self.difference:.0e} at most"
        )


def export_graphs(
    checkpoint: str | Path,
    out: str | Path,
    kinds: Sequence[str] = ("onnx",),
    encoder: str = "query",
    size: int = 224,
) -> dict[str, Graph]:
    """Write the backbone of a checkpoint as a graph; each is run and compared.

    The input ``images`` is N x C x H x W in float32, normalised as the file's metadata
    say: under ``mmssl_ext`` stand ``mean``, ``std``, ``channel_order`` (RGB or BGR; of
    other images ``bands`` and ``value_range``, as ``DecodeBands`` takes them), the
    source and its SHA-256 as JSON. A graph that fails, or differs, with another
    number of images or another size is written for the fixed one, which is then the
    only one that it takes.

    Args:
        checkpoint: What :func:`~mmssl_ext.api.backbone.load_backbone` takes.
        out: Beginning of the paths: ``weights/co2`` gives ``weights/co2.onnx``.
        kinds: Keys of :data:`GRAPHS`.
        encoder: ``query`` or ``key``.
        size: Side of the images that the graph is traced with, pixels.

    Returns:
        What was written, by kind.

    Raises:
        UserError: A kind is unknown, a package missing, the checkpoint gives no
            backbone, or its network makes no graph that computes the same.
    """
    path_named("out", out)
    for kind in kinds:
        if kind not in GRAPHS:
            raise UserError(f"There is no graph {kind}; there are {', '.join(GRAPHS)}.")
        if missing := [name for name in _PACKAGES[kind] if find_spec(name) is None]:
            raise UserError(
                f"--to {kind} needs the package {' and '.join(missing)}: pip install "
                "'mmssl_ext[onnx]'."
            )
    backbone: Any = load_backbone(checkpoint, encoder)
    check_size(backbone, size)
    input_ = backbone.preprocess
    about = {
        "mean": list(input_.mean),
        "std": list(input_.std),
        **_colours(input_),
        "source": Path(backbone.handover.checkpoint).name,
        "source_sha256": backbone.handover.sha256,
        "encoder": encoder,
        "backbone": type(backbone).__name__,
        "mmssl_ext": mmssl_ext.__version__,
    }
    Path(out).parent.mkdir(parents=True, exist_ok=True)
    return {
        kind: _export(
            _Outputs(backbone), Path(f"{out}{GRAPHS[kind]}"), kind, size, about
        )
        for kind in kinds
    }


def _colours(preprocess: Preprocess) -> dict[str, Any]:
    """What the channels of the images are."""
    if preprocess.bands is None:
        return {"channel_order": "BGR" if preprocess.bgr else "RGB"}
    return {"bands": preprocess.bands, "value_range": preprocess.value_range}


class _Outputs(nn.Module):
    """Pooled features, N x C, and the maps of a backbone."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.eval().requires_grad_(False)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        found = self.backbone(images)
        maps = found if isinstance(found, (tuple, list)) else (found,)
        return pooled(maps), *(one for one in maps if one.ndim == 4)


def _export(
    network: _Outputs, path: Path, kind: str, size: int, about: dict[str, Any]
) -> Graph:
    """Write a graph with the most freedom in which it computes what torch does."""
    reason = ""
    for any_batch, any_size in _FREEDOMS:
        try:
            return _tried(network, path, kind, size, about, any_batch, any_size)
        except UserError:  # such as a full disk
            raise
        except Exception as error:  # of exporters and runtimes: any
            reason = " ".join(str(error).split())[:300] or type(error).__name__
    raise UserError(
        f"{type(network.backbone).__name__} cannot be written to {path} as {kind} "
        f"({reason}); take the weights themselves, by --to mm or safetensors."
    )


def _tried(
    network: _Outputs,
    path: Path,
    kind: str,
    size: int,
    about: dict[str, Any],
    any_batch: bool,
    any_size: bool,
) -> Graph:
    """Write a graph, read it back and run it; the file stays only if all is well."""
    shapes = [(2, size, size)]
    if any_batch:
        shapes.append((3, size, size))
    if any_size:  # odd sides, so that what rounds them is tried as well
        shapes.append((2, size + 17, size + 38))
    inputs = [_images(network, *shape) for shape in shapes]
    with torch.no_grad():
        wanted = [network(images) for images in inputs]
    maps = range(len(wanted[0]) - 1)
    names = ("features", *("map" if len(maps) == 1 else f"map{i}" for i in maps))
    free = {0: "n"} if any_batch else {}
    free |= {2: "height", 3: "width"} if any_size else {}
    about = about | {"any_batch": any_batch, "any_size": any_size, "size": size}
    with drafted(path) as draft, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that what is traced may not hold elsewhere
        _WRITERS[kind](network, draft, inputs[0], names, free, json.dumps(about))
        run = _READERS[kind](draft)
        found = [
            _difference(*pair)
            for images, expected in zip(inputs, wanted, strict=True)
            for pair in zip(run(images), expected, strict=True)
        ]
        if not max(found) <= _DIFFERENCE:  # NaN is no agreement
            raise _Differs(f"its outputs differ from torch's by {max(found):.0e}")
    return Graph(path, names, any_batch, any_size, size, max(found))


class _Differs(ValueError):
    """A graph computes something else."""


def _images(network: nn.Module, count: int, height: int, width: int) -> Tensor:
    """Noise with as many channels as the first convolution takes."""
    convolutions = (m for m in network.modules() if isinstance(m, nn.Conv2d))
    channels = next(convolutions).in_channels
    generator = torch.Generator().manual_seed(0)
    return torch.randn(count, channels, height, width, generator=generator)


def _difference(found: Tensor, expected: Tensor) -> float:
    if found.shape != expected.shape:
        raise _Differs(f"it returns {tuple(found.shape)}, not {tuple(expected.shape)}")
    largest = expected.abs().max().clamp(min=1e-12)
    return float((found - expected).abs().max() / largest)


def _write_onnx(
    network: nn.Module,
    path: Path,
    images: Tensor,
    names: Sequence[str],
    free: dict[int, str],
    about: str,
) -> None:
    import onnx

    axes = {"images": free, **{name: {0: "n"} for name in names if 0 in free}}
    for name in names[1:] if 2 in free else ():
        axes[name] = {**axes[name], 2: f"{name}_height", 3: f"{name}_width"}
    compat.export_onnx(network, images, path, names, axes)
    model = onnx.load(str(path))
    onnx.helper.set_model_props(model, {"mmssl_ext": about})
    onnx.save(model, str(path))


def _read_onnx(path: Path) -> Callable[[Tensor], list[Tensor]]:
    import onnxruntime

    session = onnxruntime.InferenceSession(
        path.read_bytes(), _quiet(onnxruntime), providers=["CPUExecutionProvider"]
    )

    def run(images: Tensor) -> list[Tensor]:
        found = session.run(None, {"images": images.numpy()})
        return [torch.from_numpy(value) for value in found]

    return run


def _quiet(onnxruntime: Any) -> Any:
    """Options without the lines that onnxruntime prints where a size does not fit."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    return options


def _write_torchscript(
    network: nn.Module,
    path: Path,
    images: Tensor,
    names: Sequence[str],
    free: dict[int, str],
    about: str,
) -> None:
    with torch.no_grad():
        traced = torch.jit.trace(network, images, check_trace=False)
    torch.jit.save(traced, str(path), _extra_files={"mmssl_ext": about})


def _read_torchscript(path: Path) -> Callable[[Tensor], tuple[Tensor, ...]]:
    module = torch.jit.load(str(path))

    def run(images: Tensor) -> tuple[Tensor, ...]:
        with torch.no_grad():
            return module(images)

    return run


_WRITERS = {"onnx": _write_onnx, "torchscript": _write_torchscript}
_READERS: dict[str, Callable[[Path], Callable[[Tensor], Sequence[Tensor]]]] = {
    "onnx": _read_onnx,
    "torchscript": _read_torchscript,
}
