"""How the codes of a method use its prototypes, summed up for a monitor."""

import math

import torch
from mmengine.dist import all_reduce
from torch import Tensor, nn


class CodeUsage(nn.Module):
    """Sums over the codes of all ranks since the last reading; in the checkpoint.

    Args:
        number: Prototypes M.

    Attributes:
        sums: Images that chose each prototype, M; sum of the codes, M; sum of the
            entropies of the codes; number of codes.
    """

    sums: Tensor

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number
        self.register_buffer("sums", torch.zeros(2 * number + 2))

    def add(self, codes: Tensor) -> None:
        """Count codes, ... x M, whose entries sum to 1; waits for no device."""
        codes = codes.detach().reshape(-1, self.number)
        entropy = torch.special.entr(codes).sum(1)
        self.add_sums(codes.argmax(1), codes.sum(0), entropy)

    @torch.no_grad()
    def add_sums(self, first: Tensor, mass: Tensor, entropy: Tensor) -> None:
        """Count N codes that are not there as a whole.

        Args:
            first: Place of the largest entry of each, N.
            mass: Their sum, M.
            entropy: Of each, N.
        """
        counts = self.sums.new_zeros(self.number, dtype=torch.long)
        counts.index_add_(0, first, torch.ones_like(first))
        ends = entropy.sum().view(1), entropy.new_full((1,), len(first))
        found = (counts, mass.detach(), *ends)
        sums = torch.cat([x.to(self.sums) for x in found])
        all_reduce(sums)
        self.sums += sums

    def read(self) -> dict[str, Tensor]:
        """Figures of the codes since the last reading, scalars; begin anew.

        * ``prototypes_used``: how many prototypes at least one code has its largest
          entry for, as a share of all, or of the codes where these are fewer;
        * ``code_entropy``: mean entropy of a code over ln M: 1 where all prototypes
          are alike to every image, 0 where each image has one prototype;
        * ``mean_code_entropy``: entropy of the mean code over ln M: 1 where the
          prototypes are used alike, 0 where all images have the same one.
        """
        counts, mass = self.sums[: self.number], self.sums[self.number : -2]
        codes, most = self.sums[-1].clamp(min=1), math.log(self.number)
        found = {
            "prototypes_used": (counts > 0).sum() / codes.clamp(max=self.number),
            "code_entropy": self.sums[-2] / codes / most,
            "mean_code_entropy": torch.special.entr(mass / codes).sum() / most,
        }
        self.sums.zero_()
        return found

    def extra_repr(self) -> str:
        """Prototypes for ``print(model)``."""
        return f"number={self.number}"
