"""Unit vectors, never in less than single precision."""

import torch
from torch import Tensor
from torch.nn.functional import normalize


def unit(x: Tensor, dim: int = -1) -> Tensor:
    """Scale to length one along ``dim``, in fp32 or wider (fp64 of fp64)."""
    return normalize(x.to(torch.promote_types(x.dtype, torch.float)), dim=dim)
