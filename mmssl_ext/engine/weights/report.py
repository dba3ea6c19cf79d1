"""What two sets of named tensors have in common, said in one line or in full."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

_LISTED = 8  # names shown per kind
_COUNTER = "num_batches_tracked"
_FIXED = ("weight", "bias", "running_mean", "running_var")


@dataclass(frozen=True)
class LoadReport:
    """How the tensors of a source cover those of a model.

    Attributes:
        matched: Names with the same shape on both sides.
        missing: Names that the model has and the source lacks.
        unexpected: Names that the source has and the model lacks, in parts that both
            have: a sign of another architecture.
        mismatched: Names of both sides with different shapes, and what these are.
        unused: Names in parts that only the source has, such as its head.
    """

    matched: tuple[str, ...]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    mismatched: dict[str, str]
    unused: tuple[str, ...]

    @property
    def total(self) -> int:
        """Number of tensors of the model."""
        return len(self.matched) + len(self.missing) + len(self.mismatched)

    @property
    def coverage(self) -> float:
        """Share of the model's tensors that matched, 0 to 1."""
        return len(self.matched) / self.total if self.total else 0.0

    @property
    def complete(self) -> bool:
        """Every tensor matched and the source has nothing more in the same parts."""
        return not (self.missing or self.unexpected or self.mismatched)

    @property
    def fitting(self) -> bool:
        """No shape contradicts, but for those that networks adapt, as ViTs do."""
        return not [n for n in self.mismatched if n.rpartition(".")[2] in _FIXED]

    @property
    def filled(self) -> bool:
        """Every tensor of the model gets a value; the source may have more."""
        return bool(self.matched) and self.fitting and not self.missing

    @property
    def likely(self) -> bool:
        """Most tensors match, and none of the rest contradicts them."""
        return self.fitting and 2 * len(self.matched) > self.total

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
        shapes = [f"{n} ({shapes})" for n, shapes in self.mismatched.items()]
        kinds = {
            "missing in the file": self.missing,
            "unexpected in the file": self.unexpected,
            "of another shape": shapes,
        }
        return "".join(
            f"\n  {len(names)} {kind}: {', '.join(names[:_LISTED])}"
            f"{', ...' if len(names) > _LISTED else ''}"
            for kind, names in kinds.items()
            if names
        )

    def as_dict(self) -> dict[str, Any]:
        """Return the counts and the coverage as plain data."""
        counts = {name: len(names) for name, names in vars(self).items()}
        return {**counts, "coverage": self.coverage}


def compare(
    model: Mapping[str, Tensor], source: Mapping[str, Tensor], whole: bool = False
) -> LoadReport:
    """Compare names and shapes.

    Args:
        model: State that is to be filled.
        source: State that fills it.
        whole: Every name must match: all that only the source has is unexpected, and
            no BatchNorm counter may be absent.
    """
    wanted = dict(model)
    # Backbones from before torch 0.4.1 have no counters; nothing reads them unless
    # BatchNorm averages without momentum.
    if source and not whole and not any(name.endswith(_COUNTER) for name in source):
        wanted = {n: v for n, v in wanted.items() if not n.endswith(_COUNTER)}
    parts = {name.split(".")[0] for name in wanted}
    mismatched = {
        n: f"{tuple(source[n].shape)} in the file, {tuple(value.shape)} here"
        for n, value in wanted.items()
        if n in source and source[n].shape != value.shape
    }
    extra = [name for name in source if name not in wanted]
    unexpected = [name for name in extra if whole or name.split(".")[0] in parts]
    return LoadReport(
        matched=tuple(n for n in wanted if n in source and n not in mismatched),
        missing=tuple(n for n in wanted if n not in source),
        unexpected=tuple(unexpected),
        mismatched=mismatched,
        unused=tuple(n for n in extra if n not in unexpected),
    )


_DEPTHS = {
    "2-2-2-2": "-18",
    "3-4-6-3": "-34",
    "3-4-6-3 bottlenecks": "-50",
    "3-4-23-3 bottlenecks": "-101",
    "3-8-36-3 bottlenecks": "-152",
}


def describe_resnet(state: Mapping[str, Tensor]) -> dict[str, str]:
    """What sets one ResNet apart from others, by the names and shapes of its tensors.

    Returns:
        Phrases by the options of a ResNet that they say, such as ``ResNet-50 (blocks
        3-4-6-3)`` for ``depth``. Nothing for other networks.
    """
    counts, bottlenecks = block_counts(state)
    if not counts:
        return {}
    blocks = "-".join(map(str, counts))
    kind = " bottlenecks" if bottlenecks else ""
    depth = _DEPTHS.get(blocks + kind, kind and f" of{kind}")
    facts = {"depth": f"ResNet{depth} (blocks {blocks})"}
    if "conv1.weight" in state:
        facts["deep_stem"] = "stem of {2}x{3}".format(*state["conv1.weight"].shape)
    elif any(name.startswith("stem.") for name in state):
        deep = "deep stem of three 3x3 convolutions (ResNetV1c, ResNetV1d)"
        facts["deep_stem"] = deep
    average = averages_down(state)
    facts["avg_down"] = "mean (ResNetV1d)" if average else "stride"
    facts["avg_down"] += " that down-samples"
    widths = {"base_channels": "bn1.weight", "groups": "layer1.0.conv1.weight"}
    for option, name in widths.items():
        if name in state:
            facts[option] = f"width of {len(state[name])} in {name}"
    return facts


def block_counts(state: Mapping[str, Tensor]) -> tuple[tuple[int, ...], bool]:
    """The blocks in each stage of a ResNet, and whether they are bottlenecks.

    No stages for other networks.
    """
    found = [re.match(r"layer(\d)\.(\d+)\.conv(\d)\.weight$", name) for name in state]
    stages = [stage for stage, _ in {(m[1], m[2]) for m in found if m}]
    counts = tuple(stages.count(stage) for stage in sorted({*stages}))
    return counts, any(m and m[3] == "3" for m in found)


def averages_down(state: Mapping[str, Tensor]) -> bool:
    """Whether a ResNet averages before it down-samples: a convolution comes second."""
    convs = (v for n, v in state.items() if n.endswith("downsample.1.weight"))
    return any(value.dim() > 1 for value in convs)


def explain(model: Mapping[str, Tensor], source: Mapping[str, Tensor]) -> list[str]:
    """The first difference of two networks that names and shapes tell, if any."""
    ours, its = describe_resnet(model), describe_resnet(source)
    for option, fact in ours.items():
        if its.get(option, fact) != fact:
            verb = "is" if option == "depth" else "has"
            also = " (or the type: one is a ResNeXt)" if option == "groups" else ""
            return [
                f"The model {verb} a {fact}, the file holds a {its[option]}: set "
                f"{option}{also}."
            ]
    return []
