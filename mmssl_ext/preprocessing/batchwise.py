"""The augmentations of whole batches, on any device.

The operations are those of PIL and torchvision on 8-bit images. What one operation
returns in 8 bits the next one reads; colour operations truncate, hue and blur round to
the nearest, as PIL's do. Arithmetic is in float32. What remains of a difference to PIL,
in units of 1/255 (LSB) on smooth random images with noise:

* gray, solarize, flip, patches: none;
* brightness, contrast, saturation: at most 1, at 1 value in 4,000, where a product next
  to an integer is lifted over it;
* hue: mean 0.002, at most 6, at single pixels where PIL's quotient takes the other side
  of a step of its 8-bit hue;
* the four after each other: mean 0.003 (0.004 in the worst of the 24 orders, 0.06 for
  an image of few colours), bias 0.001, at most 11;
* blur: mean 0.3, bias below 0.001, at most 3, since PIL rounds between its six box
  blurs, and this at the end only.

Which images an operation concerns, in which order, and how long a kernel must be is
worked out on the host from the parameters, which therefore come as CPU tensors. The
device is never waited for.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from mmssl_ext.datasets.transforms.color import box_kernels

# Coefficients of the luma (ITU-R 601-2) in PIL's fixed point; exact in float32.
_LUMA = (19595 / 65536, 38470 / 65536, 7471 / 65536)

# Lifts products that are integers up to float32's rounding before they are truncated.
_LIFT = 2.0**-12


def _upload(values: Tensor, device: torch.device) -> Tensor:
    """Copy from the host without waiting for a GPU."""
    if device.type != "cuda":
        return values.to(device)
    return values.pin_memory().to(device, non_blocking=True)


def _rewrite(
    view: Tensor, chosen: Tensor, change: Callable[[Tensor], Tensor]
) -> Tensor:
    """Replace the images ``chosen``, a mask on the CPU, by ``change`` of them."""
    count = int(chosen.sum())
    if count == 0:
        return view
    if count == len(view):
        return change(view.contiguous())
    index = _upload(chosen.nonzero().flatten(), view.device)
    return view.index_copy(0, index, change(view.index_select(0, index)))


def _column(values: Tensor) -> Tensor:
    return values.view(-1, 1, 1, 1)


def _luma(images: Tensor) -> Tensor:
    """Return the luma, whole numbers in float32, N x 1 x H x W."""
    red, green, blue = images.split(1, dim=1)
    luma = red * _LUMA[0]
    luma.add_(green, alpha=_LUMA[1]).add_(blue, alpha=_LUMA[2])
    return luma.add_(0.5).floor_()


def grayscale(view: Tensor, params: Tensor) -> Tensor:
    """Set all channels to the luma where the parameter, N x 1, is positive."""

    def change(images: Tensor) -> Tensor:
        return _luma(images).to(torch.uint8).repeat(1, 3, 1, 1)

    return _rewrite(view, params[:, 0] > 0, change)


def solarize(view: Tensor, params: Tensor) -> Tensor:
    """Invert the values from the threshold on; 256 for images that stay."""
    chosen = params[:, 0] < 256
    threshold = _column(_upload(params[chosen, 0], view.device))
    return _rewrite(
        view, chosen, lambda x: torch.where(x.float() >= threshold, 255 - x, x)
    )


def flip(view: Tensor, params: Tensor) -> Tensor:
    """Mirror left to right where the parameter is positive."""
    return _rewrite(view, params[:, 0] > 0, lambda x: x.flip(3))


def jitter(view: Tensor, params: Tensor) -> Tensor:
    """Apply brightness, contrast, saturation and hue in the order of each image.

    The first three are blends, out = (1 - f) d + f x, with d = 0, the mean luma and the
    luma, so that one formula does them all: three blends for each image, of which
    ``before`` come before its hue. Sorted by that number, the images of every step lie
    side by side: up to three blends, the hue of all, the rest of the blends.
    """
    order, factors = params[:, :4].long(), params[:, 4:]
    neutral = torch.tensor([1.0, 1.0, 1.0, 0.0])
    active = factors != neutral  # N x 4
    before = (order == 3).long().argmax(dim=1)
    # An image without hue has all its blends before it.
    rank = torch.where(active[:, 3], before, 4)
    rows = active.any(dim=1).nonzero().flatten()
    if not len(rows):
        return view
    rows = rows[rank[rows].argsort(descending=True, stable=True)]
    rank, order, factors = rank[rows], order[rows], factors[rows]
    blends = order[order != 3].view(-1, 3)  # which blend, by step
    table = torch.cat(
        [
            factors.gather(1, blends),
            (blends == 1).float(),
            (blends == 2).float(),
            # As torchvision's: truncated to a whole number of steps.
            (factors[:, 3:].double() * 255).trunc().float(),
        ],
        dim=1,
    )  # n x 10
    table = _upload(table, view.device)
    index = _upload(rows, view.device)
    images = view.index_select(0, index)
    counts = [int((rank > step).sum()) for step in range(4)]
    still = counts[3]  # images without hue
    for step in range(3):
        _blend_rows(images[: counts[step]], table[: counts[step]], step)
    if still < len(rows):
        _shift_hue(images[still:], table[still:, 9])
    for step in range(3):
        _blend_rows(images[counts[step] :], table[counts[step] :], step)
    return view.index_copy(0, index, images)


def _blend_rows(images: Tensor, table: Tensor, step: int) -> None:
    if not len(images):
        return
    factor, to_mean, to_luma = (_column(table[:, step + 3 * i]) for i in range(3))
    luma = _luma(images)
    # In float64: the sum must be exact, PIL rounds the mean to a whole number.
    mean = luma.mean(dim=(1, 2, 3), keepdim=True, dtype=torch.float64)
    rest = 1 - factor
    start = rest * to_mean * mean.add_(0.5).floor_().float() + _LIFT
    degenerate = torch.addcmul(start, luma, rest * to_luma)  # N x 1 x H x W
    images.copy_(torch.addcmul(degenerate, images, factor).clamp_(0, 255))


def _shift_hue(images: Tensor, shift: Tensor) -> None:
    """Shift hues, in place, by so many steps of 1/256 of the circle."""
    red, green, blue = images.float().split(1, dim=1)
    value = torch.maximum(torch.maximum(red, green), blue)
    chroma = value - torch.minimum(torch.minimum(red, green), blue)
    hue = torch.where(
        red == value,
        green - blue,
        torch.where(
            green == value,
            (blue - red).add_(chroma, alpha=2),
            (red - green).add_(chroma, alpha=4),
        ),
    )
    # Gray pixels have neither hue nor chroma, and black ones no saturation.
    hue = hue.div_((chroma * 6).clamp_(min=1))  # in [-1/6, 5/6]
    hue = (hue - hue.floor()).mul_(255).floor_().add_(_column(shift))
    hue = hue.sub_((hue / 256).floor_(), alpha=256).mul_(6 / 255)  # in [0, 6]
    saturation = chroma.div_(value.clamp(min=1)).mul_(255).floor_()
    chroma = saturation.mul_(value).mul_(1 / 255)
    # With w = min(max(|hue - center|, 1), 2): red is min + chroma (w - 1), green and
    # blue are min + chroma (2 - w); and half a step, for PIL rounds here.
    low = (value - chroma).add_(0.5)
    bases = low - chroma, low.add_(chroma, alpha=2), low
    for channel, (center, sign) in enumerate(((3, 1), (2, -1), (4, -1))):
        width = (hue - center).abs_().clamp_(1, 2)
        plane = torch.addcmul(bases[channel], chroma, width, value=sign)
        images[:, channel : channel + 1].copy_(plane)


def blur(view: Tensor, params: Tensor) -> Tensor:
    """Filter three times by a box, repeating the edges each time, as PIL does."""
    chosen = params[:, 0] > 0
    if not chosen.any():
        return view
    kernels = torch.from_numpy(box_kernels(params[chosen, 0].numpy()))
    groups, size = 3 * len(kernels), kernels.size(1)
    weight = _upload(kernels.repeat_interleave(3, dim=0), view.device)

    def change(images: Tensor) -> Tensor:
        # As depthwise convolutions: one group per channel of each image.
        planes = images.reshape(1, groups, *images.shape[2:]).float()
        for _ in range(3):
            planes = F.pad(planes, (size // 2,) * 4, mode="replicate")
            planes = F.conv2d(planes, weight.view(-1, 1, 1, size), groups=groups)
            planes = F.conv2d(planes, weight.view(-1, 1, size, 1), groups=groups)
        return planes.add_(0.5).to(torch.uint8).view(images.shape)

    return _rewrite(view, chosen, change)


def cut_patches(view: Tensor, params: Tensor) -> Tensor:
    """Return the patches, N x P x 3 x s x s, of the side and corners, N x (1 + 2P)."""
    side = int(params[0, 0])
    corners = params[:, 1:].long().view(len(params), -1, 2)
    left, upper = _upload(corners, view.device).unbind(2)  # N x P
    image = torch.arange(len(view), device=view.device)[:, None]
    windows = view.unfold(2, side, 1).unfold(3, side, 1)
    return windows[image, :, upper, left]  # N x P x 3 x s x s
