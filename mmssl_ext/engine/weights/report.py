"""What two sets of named tensors have in common, said in one line or in full."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor

_LISTED = 8  # names shown per kind
_COUNTER = "num_batches_tracked"


@dataclass(frozen=True)
class LoadReport:
    """How the tensors of a source cover those of a model.

    Attributes:
        matched: Names with the same shape on both sides.
        missing: Names that the model has and the source lacks.
        unexpected: Names that the source has and the model lacks, in parts that both
            have: a sign of another architecture.
        mismatched: Names of both sides with different shapes.
        unused: Names in parts that only the source has, such as its head.
        shapes: ``name: shape in the source, shape in the model`` of the mismatched.
    """

    matched: tuple[str, ...]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    mismatched: tuple[str, ...]
    unused: tuple[str, ...]
    shapes: tuple[str, ...]

    @property
    def total(self) -> int:
        """Number of tensors of the model."""
        return len(self.matched) + len(self.missing) + len(self.mismatched)

    @property
    def misfits(self) -> tuple[str, ...]:
        """The mismatched that nothing adapts, as networks do position embeddings."""
        fixed = ("weight", "bias", "running_mean", "running_var")
        return tuple(n for n in self.mismatched if n.rpartition(".")[2] in fixed)

    @property
    def coverage(self) -> float:
        """Share of the model's tensors that matched, 0 to 1."""
        return len(self.matched) / self.total if self.total else 0.0

    @property
    def complete(self) -> bool:
        """Every tensor matched and the source has nothing more in the same parts."""
        return not (self.missing or self.unexpected or self.mismatched)

    def summary(self) -> str:
        """Return one line of counts."""
        return (
            f"{len(self.matched)} of {self.total} tensors matched "
            f"({100 * self.coverage:.1f} %), {len(self.missing)} missing, "
            f"{len(self.unexpected)} unexpected, {len(self.mismatched)} of another "
            f"shape, {len(self.unused)} unused"
        )

    def details(self) -> str:
        """Return the names of all that did not match, a line per kind."""
        kinds = {
            "missing in the file": self.missing,
            "unexpected in the file": self.unexpected,
            "of another shape": self.shapes,
        }
        return "".join(
            f"\n  {len(names)} {kind}: {', '.join(names[:_LISTED])}"
            f"{', ...' if len(names) > _LISTED else ''}"
            for kind, names in kinds.items()
            if names
        )

    def as_dict(self) -> dict[str, Any]:
        """Return the counts and the coverage as plain data."""
        counts = {name: len(names) for name, names in asdict(self).items()}
        counts.pop("shapes")
        return {**counts, "coverage": self.coverage}


def compare(
    model: Mapping[str, Tensor],
    source: Mapping[str, Tensor],
    whole: bool = False,
    absent: Collection[str] = (),
) -> LoadReport:
    """Compare names and shapes.

    Args:
        model: State that is to be filled.
        source: State that fills it.
        whole: Every name must match: all that only the source has is unexpected, and
            no BatchNorm counter may be absent.
        absent: Children of the model that the source cannot have; they are left out.
    """
    wanted = {
        name: value for name, value in model.items() if name.split(".")[0] not in absent
    }
    # Backbones from before torch 0.4.1 have no counters; nothing reads them unless
    # BatchNorm averages without momentum.
    if source and not whole and not any(name.endswith(_COUNTER) for name in source):
        wanted = {n: v for n, v in wanted.items() if not n.endswith(_COUNTER)}
    parts = {name.split(".")[0] for name in wanted}
    differing = [
        name
        for name, value in wanted.items()
        if name in source and source[name].shape != value.shape
    ]
    extra = [name for name in source if name not in wanted]
    unexpected = [name for name in extra if whole or name.split(".")[0] in parts]
    return LoadReport(
        matched=tuple(n for n in wanted if n in source and n not in differing),
        missing=tuple(n for n in wanted if n not in source),
        unexpected=tuple(unexpected),
        mismatched=tuple(differing),
        unused=tuple(n for n in extra if n not in unexpected),
        shapes=tuple(
            f"{n} ({tuple(source[n].shape)} in the file, {tuple(wanted[n].shape)} here)"
            for n in differing
        ),
    )


def describe_resnet(state: Mapping[str, Tensor]) -> str | None:
    """Name the ResNet that a state belongs to, by its tensors' names and shapes.

    Returns:
        Such as ``ResNet-50 (blocks 3-4-6-3, 7x7 stem)``, or None for other networks.
    """
    blocks: dict[int, int] = {}
    for name in state:
        if found := re.match(r"layer(\d)\.(\d+)\.conv1\.weight$", name):
            stage, block = int(found[1]), int(found[2])
            blocks[stage] = max(blocks.get(stage, 0), block + 1)
    if not blocks:
        return None
    bottleneck = any(re.match(r"layer\d\.0\.conv3\.weight$", name) for name in state)
    counts = tuple(blocks[stage] for stage in sorted(blocks))
    depth = _DEPTHS.get((bottleneck, counts))
    facts = [f"blocks {'-'.join(map(str, counts))}"]
    if "conv1.weight" in state:
        facts.append("{2}x{3} stem".format(*state["conv1.weight"].shape))
    elif any(name.startswith(("stem.", "conv1.")) for name in state):
        facts.append("deep stem")
    kind = "bottleneck" if bottleneck else "basic"
    facts += [] if depth else [f"{kind} blocks"]
    return f"ResNet{f'-{depth}' if depth else ''} ({', '.join(facts)})"


_DEPTHS: dict[tuple[bool, tuple[int, ...]], int] = {
    (False, (2, 2, 2, 2)): 18,
    (False, (3, 4, 6, 3)): 34,
    (True, (3, 4, 6, 3)): 50,
    (True, (3, 4, 23, 3)): 101,
    (True, (3, 8, 36, 3)): 152,
}


def explain(model: Mapping[str, Tensor], source: Mapping[str, Tensor]) -> list[str]:
    """Why a source cannot fit, as far as the names tell."""
    causes = []
    stems = [any(n.startswith("stem.") for n in s) for s in (model, source)]
    if stems[0] and "conv1.weight" in source:
        causes.append(
            "The model has a deep stem of three 3x3 convolutions (ResNetV1c, "
            "ResNetV1d), the file one 7x7 convolution: use type='ResNet' without "
            "deep_stem."
        )
    elif stems[1] and "conv1.weight" in model:
        causes.append(
            "The file has a deep stem (ResNetV1c, ResNetV1d), the model a plain one."
        )
    pooled = [_pools(s) for s in (model, source)]
    if pooled[0] != pooled[1]:
        causes.append(
            f"The {'model' if pooled[0] else 'file'} averages before it down-samples "
            "(avg_down, ResNetV1d), the other side does not."
        )
    found = [describe_resnet(s) for s in (model, source)]
    if found[0] and found[1] and found[0] != found[1]:
        causes.append(f"The model is a {found[0]}, the file holds a {found[1]}.")
    elif found[0] and found[1]:
        first = "layer1.0.conv1.weight"  # has the base width, whatever its block
        widths = [len(s[first]) for s in (model, source) if first in s]
        norms = [len(s["bn1.weight"]) for s in (model, source) if "bn1.weight" in s]
        if len({*widths}) > 1 and len({*norms}) == 1 and len(norms) == 2:
            causes.append(
                f"The bottlenecks of the model's first stage are {widths[0]} channels "
                f"wide inside, the file's {widths[1]}, while the stems are alike: one "
                "is a ResNet, the other a ResNeXt or a wide ResNet. Use a backbone "
                "of the file's type."
            )
        elif len({*widths}) > 1:
            causes.append(
                f"The model's first stage is {widths[0]} channels wide, the file's "
                f"{widths[1]}: set base_channels={widths[1]} (and stem_channels)."
            )
    return causes


def _pools(state: Mapping[str, Tensor]) -> bool:
    return any(".downsample.1.weight" in n and v.dim() == 4 for n, v in state.items())
