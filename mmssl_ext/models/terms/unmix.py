"""Un-Mix: mixed images, and a target that follows the mixing ratio.

Paper: arXiv 2003.05438 (AAAI 2022). A term on any base, at the cost of one more pass of
the online network.

A mixture shows two images. It must be near the targets of both, by the share that each
has in it, so that the space between images is filled rather than torn.

    lam ~ Beta(1, 1), once for a batch;  rev: the batch in reversed order
    xm = lam x + (1 - lam) rev(x)                    with probability P (mixup)
    xm = x, with a box of rev(x) in it               otherwise (CutMix); lam then is the
                                                     share of pixels that are left of x
    qm = f(xm)                                       N x D, gradient
    L  = l(q, k) + w [ lam l(qm, k) + (1 - lam) l(rev(qm), k) ],  w = 1

l is the base's loss of queries and their targets k (N x D): InfoNCE in MoCo, the
regression in BYOL and SimSiam. x is the query view of the first pair; its one mixture
meets the targets of all views, whose losses are added or averaged as the base does with
its pairs. rev(qm) are the embeddings of the mixture rev(xm), which needs no pass. Keys
are of whole images, and only these are remembered.

Differs from the official code:
* a step draws by its number and rank, so that a resumed run goes on exactly;
* height and width of the box follow those of the image, there the height gives both;
* a symmetric MoCo encodes its one mixture once, there twice.
Of the paper the code was read, not the body. BYOL and SimCLR are in its curves, but not
in its code: here they are reconstructions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from mmssl_ext.registry import MODELS

from ..layers import unit
from ..layers.mixing import Mixture, MixtureSampler
from ..part import Features
from ..targets.base import View
from .base import Term

if TYPE_CHECKING:
    from ..algorithms.method import Method, Step


@MODELS.register_module()
class UnMix(Term):
    """A mixture of two images must find the targets of both, by their shares.

    Args:
        mixup_prob: P, the chance of mixup; 0 is CutMix in every step.
        alpha: lam is drawn from Beta(alpha, alpha).
        weight: w; see :class:`Term`.
        init_cfg: As for every mmengine module.

    Raises:
        ValueError: An option is out of its range.
    """

    name = "mixture"

    def __init__(
        self,
        mixup_prob: float = 0.5,
        alpha: float = 1.0,
        weight: Any = None,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(weight, init_cfg)
        self.sampler = MixtureSampler(mixup_prob, alpha)
        self.mixture = Mixture(1.0)  # of the step under way

    def attach(self, method: Method) -> None:
        """Refuse methods whose views or comparison do not suit the term."""
        self.check_views(method)
        self.check_pair(method)

    def look(self, method: Method, number: int, view: View) -> Features:
        """Mix the first pair's query view and encode it: ``mixture``, N x D."""
        if number != method.pairs[0][0]:
            return {}
        self.mixture = self.sampler.draw(*view.shape[-2:])
        maps = method.backbone(self.mixture.of(view))
        return {"mixture": method.neck(maps[-1:])[0]}

    def forward(self, method: Method, step: Step) -> Tensor:
        """Mean loss of the mixtures, a scalar."""
        lam, compare = self.mixture.share, method.compare
        z = step.online[method.pairs[0][0]]["mixture"]
        q = unit(compare.predict(z))  # N x D
        losses = []
        for b in method.target_views:
            k = step.target[b]["embedding"]  # N x D
            own, other = compare.pair(q, k), compare.pair(q.flip(0), k)
            losses.append(lam * own + (1 - lam) * other)
        return method.over_pairs(losses)

    @torch.no_grad()
    def inspect(self, method: Method, inputs: list[Tensor]) -> dict[str, Any]:
        """Mixed images.

        Returns:
            ``mixture`` (N x 3 x H x W), ``share`` (lam) and ``box`` (top, left, height
            and width in pixels, None for mixup).
        """
        view = inputs[method.pairs[0][0]]
        drawn = self.sampler.draw(*view.shape[-2:])
        mixed = drawn.of(view)
        return {"mixture": mixed, "share": drawn.share, "box": drawn.box}
