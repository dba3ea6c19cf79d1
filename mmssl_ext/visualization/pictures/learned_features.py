"""Feature maps of a few images, and what is computed from them; nothing is drawn."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from mmengine.dataset import pseudo_collate
from torch import Tensor, nn

from mmssl_ext.errors import ConfigError
from mmssl_ext.evaluation.features import evaluating, preserved_rng
from mmssl_ext.models.layers.geometry import cell_centres, to_image, to_view

_STAGES = ("res2", "res3", "res4", "res5")  # the field's names of layer1 to layer4


class Components(NamedTuple):
    """Principal components of some rows.

    Attributes:
        scores: Coordinates of every row, n x k.
        shares: Of the variance, by component, k.
    """

    scores: np.ndarray
    shares: np.ndarray


class Matches(NamedTuple):
    """Cells of two maps that choose each other, the most similar pair first.

    Attributes:
        first: Cell of the first map, m, counted row by row.
        second: Cell of the second one, m.
        cosine: Of their features, m.
    """

    first: np.ndarray
    second: np.ndarray
    cosine: np.ndarray


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """Evaluate a model without gradients; leave modes and generators as they were."""
    with torch.no_grad(), preserved_rng(), evaluating(model):
        yield


def feature_maps(model: Any, image: Tensor) -> dict[str, np.ndarray]:
    """Feature maps of one image by the query backbone, h x w x C, by stage.

    A ResNet gives its last two stages, another backbone its last one.

    Args:
        model: In eval mode; called with ``mode="tensor"``.
        image: uint8 3 x H x W, as the pipelines give it.

    Raises:
        ConfigError: The backbone returns no maps.
    """
    names = list(getattr(model.backbone, "res_layers", ()))
    found: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[..., None]:
        return lambda module, args, output: found.update({name: output})

    earlier = {}
    if len(names) > 1:
        stage = _STAGES[len(names) - 2] if len(names) <= len(_STAGES) else names[-2]
        earlier = {stage: getattr(model.backbone, names[-2])}
    handles = [m.register_forward_hook(keep(n)) for n, m in earlier.items()]
    try:
        data = model.data_preprocessor({"inputs": image[None]}, False)
        last = model(data["inputs"], mode="tensor")
    finally:
        for handle in handles:
            handle.remove()
    if isinstance(last, (list, tuple)):
        last = last[-1]
    if last.ndim != 4:
        raise ConfigError(
            f"{type(model.backbone).__name__} returns {tuple(last.shape)}, no feature "
            "maps N x C x H x W; pictures of maps need a convolutional backbone."
        )
    whole = 0 < len(names) <= len(_STAGES)
    found[_STAGES[len(names) - 1] if whole else "last stage"] = last
    return {
        name: m[0].movedim(0, -1).float().cpu().numpy() for name, m in found.items()
    }


def pooled_features(model: Any, images: Sequence[Tensor], batch: int = 64) -> Tensor:
    """Unit rows of the globally pooled backbone features, n x C, on the host.

    Args:
        model: In eval mode; called with ``mode="embed"``.
        images: uint8 3 x H x W each; those of one size in a row go in one batch.
        batch: Images in it at most.
    """
    rows, start = [], 0
    while start < len(images):
        stop = start + 1
        while (
            stop < min(len(images), start + batch)
            and images[stop].shape == images[start].shape
        ):
            stop += 1
        inputs = torch.stack(list(images[start:stop]))
        data = model.data_preprocessor({"inputs": inputs}, False)
        rows.append(model(data["inputs"], mode="embed")["backbone"].float().cpu())
        start = stop
    return nn.functional.normalize(torch.cat(rows), dim=1)


def principal_components(rows: np.ndarray, count: int = 3) -> Components:
    """The first principal components of n rows; of each the sign is a convention.

    The entry of largest size in every direction is positive, so that equal rows give
    equal components.
    """
    centred = torch.from_numpy(np.asarray(rows, np.float64))
    centred = centred - centred.mean(0)
    wide = centred.shape[1] > len(centred)  # take the smaller of the two products
    gram = centred @ centred.T if wide else centred.T @ centred
    values, vectors = torch.linalg.eigh(gram)
    values = values.flip(0).clamp(min=0)[:count]
    vectors = vectors.flip(1)[:, :count]
    if wide:
        vectors = nn.functional.normalize(centred.T @ vectors, dim=0)
    largest = vectors.gather(0, vectors.abs().argmax(0, keepdim=True))
    vectors = vectors * torch.where(largest < 0, -1.0, 1.0)
    total = (centred**2).sum().clamp(min=torch.finfo(torch.float64).tiny)
    return Components((centred @ vectors).numpy(), (values / total).numpy())


def to_colors(scores: np.ndarray) -> np.ndarray:
    """Scale each of three components from its 1st to its 99th percentile: uint8."""
    low, high = np.percentile(scores, (1, 99), axis=0)
    scaled = (scores - low) / np.maximum(high - low, 1e-12)
    return np.rint(scaled.clip(0, 1) * 255).astype(np.uint8)


def unit(cells: np.ndarray) -> np.ndarray:
    """Divide the features in the last dimension by their length."""
    length = np.linalg.norm(cells, axis=-1, keepdims=True)
    return cells / np.maximum(length, 1e-12)


def cosines(feature: np.ndarray, cells: np.ndarray) -> np.ndarray:
    """Cosine of a feature (C) and every cell (h x w x C): h x w."""
    return unit(cells) @ unit(feature)


def mutual_matches(first: np.ndarray, second: np.ndarray) -> Matches:
    """Cells of two maps, h x w x C each, that are each other's most similar one."""
    a, b = (unit(cells).reshape(-1, cells.shape[-1]) for cells in (first, second))
    table = a @ b.T
    there, back = table.argmax(1), table.argmax(0)
    chosen = np.flatnonzero(back[there] == np.arange(len(a)))
    values = table[chosen, there[chosen]]
    order = np.argsort(-values, kind="stable")
    return Matches(chosen[order], there[chosen][order], values[order])


def nearest(features: Tensor, queries: Sequence[int], count: int) -> tuple[Any, Any]:
    """Most similar other rows of some rows.

    Args:
        features: Unit rows, n x C.
        queries: Rows to find neighbours of, q.
        count: How many; at most n - 1 are found.

    Returns:
        Their numbers and cosines, q x count, the most similar first.
    """
    table = features[list(queries)] @ features.T
    table[range(len(queries)), list(queries)] = -torch.inf
    values, found = table.topk(min(count, len(features) - 1), dim=1)
    return found.numpy(), values.numpy()


def true_places(grid: tuple[int, int], boxes: Tensor) -> np.ndarray:
    """Where the cells of a view are in another view of the image.

    Args:
        grid: Cells (h, w) of the first view.
        boxes: Where the two views were cut, 2 x 4, as a batch has it.

    Returns:
        Their centres (u, v), h*w x 2, in units of the second view; outside of [0, 1]
        that does not show the place.
    """
    first, second = boxes.double()[:, None]
    return to_view(to_image(cell_centres(*grid), first), second)[0].numpy()


def distances(
    matches: Matches, grids: tuple[tuple[int, int], tuple[int, int]], boxes: Tensor
) -> np.ndarray:
    """How far each match is from the true place, in cells of the second view, m.

    The larger of the distances along x and y.
    """
    every = _to_every_cell(matches.first, grids, boxes)
    return every[np.arange(len(every)), matches.second]


def chance_of(
    matches: Matches, grids: tuple[tuple[int, int], tuple[int, int]], boxes: Tensor
) -> float:
    """Share of matches within one cell of the true place if any cell were chosen."""
    every = _to_every_cell(matches.first, grids, boxes)
    return float((every <= 1).mean()) if len(every) else 0.0


def _to_every_cell(cells: np.ndarray, grids: Any, boxes: Tensor) -> np.ndarray:
    """From the true places of some cells to all cells of the other view, m x h*w."""
    true = true_places(grids[0], boxes)[cells]
    found = cell_centres(*grids[1]).numpy()
    return np.abs((found - true[:, None]) * grids[1][::-1]).max(axis=2)


def flat_embedding(
    features: Tensor, method: str, seed: int, perplexity: float | None = None
) -> tuple[np.ndarray, str]:
    """Two coordinates for each row such that neighbours stay neighbours.

    Args:
        features: Unit rows, n x C; distances are those of cosines.
        method: ``tsne`` (scikit-learn) or ``umap`` (umap-learn).
        seed: Of the optimisation.
        perplexity: Of t-SNE; for UMAP the number of neighbours. None: 30, or a third
            of the rows.

    Returns:
        Points, n x 2, and the method with its setting, to be shown.

    Raises:
        ConfigError: The package is missing, or the method unknown.
    """
    rows = features.double().numpy()
    size = perplexity or min(30.0, max(2.0, (len(rows) - 1) / 3))
    with preserved_rng():
        if method == "tsne":
            try:
                from sklearn.manifold import TSNE
            except ImportError as error:
                raise ConfigError(
                    "t-SNE needs scikit-learn: pip install scikit-learn"
                ) from error
            places = TSNE(
                perplexity=size, init="pca", random_state=seed, learning_rate="auto"
            ).fit_transform(rows)
            return places, f"t-SNE, perplexity {size:g}"
        if method == "umap":
            try:
                from umap import UMAP  # type: ignore[import-not-found,unused-ignore]
            except ImportError as error:
                raise ConfigError(
                    "--method umap needs umap-learn: pip install umap-learn; or take "
                    "--method tsne."
                ) from error
            count = max(2, round(size / 2))
            places = UMAP(n_neighbors=count, random_state=seed, n_jobs=1).fit_transform(
                rows
            )
            return np.asarray(places), f"UMAP, {count} neighbours"
    raise ConfigError(f"--method {method}: take tsne or umap.")


def first_filters(backbone: nn.Module) -> np.ndarray | None:
    """Filters of the first convolution, n x h x w x 3, or None: it takes no RGB."""
    for module in backbone.modules():
        if isinstance(module, nn.Conv2d):
            weight = module.weight.detach().float().cpu()
            return weight.movedim(1, -1).numpy() if weight.shape[1] == 3 else None
    return None


def collate(items: Sequence[Any]) -> dict[str, Any]:
    """A batch of items of one size, views stacked, as a training loader gives it."""
    batch = pseudo_collate(list(items))
    single = not isinstance(batch["inputs"][0], (list, tuple))
    views = [batch["inputs"]] if single else batch["inputs"]
    # Views of differing sizes stay lists: the preprocessor says what to do about them.
    views = [
        torch.stack(list(view)) if len({image.shape for image in view}) == 1 else view
        for view in views
    ]
    batch["inputs"] = views[0] if single else views
    if "boxes" in batch:
        batch["boxes"] = torch.stack(list(batch["boxes"]))
    if "index" in batch:
        batch["index"] = torch.tensor(batch["index"])
    if "augment" in batch:
        batch["augment"] = [
            {name: torch.stack(list(params)) for name, params in operations.items()}
            for operations in batch["augment"]
        ]
    return batch
