"""What makes embeddings of one network those of another (after TKC, 2108.10668)."""

from torch import Tensor, nn

from .unit import unit


class KnowledgeTransformer(nn.Module):
    """A residual MLP between unit vectors that begins as the identity.

    ``t = normalise(z + W2 relu(BN(W1 z)))`` with ``W2 = 0`` at first.

    Args:
        dim: D, features of z and t.
        hidden: Width of the hidden layer; D or more, so that it can turn all of z.
    """

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.inner = nn.Sequential(
            nn.Linear(dim, hidden, bias=False),
            nn.BatchNorm1d(hidden),
            nn.ReLU(inplace=True),
        )
        self.outer = nn.Linear(hidden, dim)
        self.reset()

    def reset(self) -> None:
        """Be the identity again."""
        nn.init.zeros_(self.outer.weight)
        nn.init.zeros_(self.outer.bias)

    def forward(self, z: Tensor) -> Tensor:
        """N x D unit rows to such."""
        return unit(z + self.outer(self.inner(z)))
