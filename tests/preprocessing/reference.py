"""What PIL and torchvision make of an image and encoded parameters."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image, ImageFilter, ImageOps
from torchvision.transforms import functional as F

NEUTRAL = (0, 1, 2, 3, 1, 1, 1, 0)  # of the colour jitter

_JITTER = (F.adjust_brightness, F.adjust_contrast, F.adjust_saturation, F.adjust_hue)


def photographs(count: int, size: tuple[int, int], seed: int = 0) -> np.ndarray:
    """Smooth random images with noise, N x H x W x 3, for a size (width, height)."""
    rng = np.random.default_rng(seed)
    images = []
    for _ in range(count):
        grid = rng.integers(0, 256, (4, 5, 3), dtype=np.uint8)
        smooth = Image.fromarray(grid).resize(size, Image.Resampling.BICUBIC)
        noisy = np.asarray(smooth) * rng.uniform(0.5, 1.3)
        noisy = noisy + rng.normal(0, 6, noisy.shape)
        images.append(np.clip(noisy, 0, 255).astype(np.uint8))
    return np.stack(images)


def to_view(images: np.ndarray) -> torch.Tensor:
    """Return N x 3 x H x W, contiguous."""
    return torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()


def to_arrays(view: torch.Tensor) -> np.ndarray:
    """Return N x H x W x 3 in int."""
    return view.permute(0, 2, 3, 1).numpy().astype(int)


def jitter(img: Image.Image, params: np.ndarray) -> Image.Image:
    for number in map(int, params[:4]):
        if params[4 + number] != NEUTRAL[4 + number]:
            img = _JITTER[number](img, float(params[4 + number]))
    return img


def blur(img: Image.Image, params: np.ndarray) -> Image.Image:
    return img.filter(ImageFilter.GaussianBlur(float(params[0])))


FUNCTIONS = {
    "ColorJitter": jitter,
    "RandomGrayscale": lambda x, p: x.convert("L").convert("RGB") if p[0] else x,
    "RandomSolarize": lambda x, p: ImageOps.solarize(x, int(p[0])),
    "GaussianBlur": blur,
    "RandomFlip": lambda x, p: (
        x.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if p[0] else x
    ),
}


def by_pil(images: np.ndarray, operations: dict[str, np.ndarray]) -> np.ndarray:
    """Apply the operations to each image, N x H x W x 3; in int."""
    results = []
    for number, array in enumerate(images):
        img = Image.fromarray(array)
        for name, params in operations.items():
            img = FUNCTIONS[name](img, params[number])
        results.append(np.asarray(img))
    return np.stack(results).astype(int)
