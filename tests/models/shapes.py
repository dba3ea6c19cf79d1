"""How large the tensors of a computation become."""

from collections.abc import Callable
from typing import Any

from torch import Tensor, dtype
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class _Largest(TorchDispatchMode):
    def __init__(self, kind: dtype | None) -> None:
        super().__init__()
        self.elements, self.kind = 0, kind

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor) and self.kind in (None, leaf.dtype):
                self.elements = max(self.elements, leaf.numel())
        return result


def largest(call: Callable[[], object], kind: dtype | None = None) -> int:
    """Elements of the largest tensor, of a dtype, that any operation returned."""
    with _Largest(kind) as mode:
        call()
    return mode.elements
