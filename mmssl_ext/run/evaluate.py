"""Evaluate a checkpoint: kNN accuracy, clustering scores and features on disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.registry import init_default_scope

from mmssl_ext.datasets.look import warn_of_unread
from mmssl_ext.engine.config.checks import check_config
from mmssl_ext.engine.config.read import import_modules
from mmssl_ext.engine.weights.strict import load_strictly
from mmssl_ext.errors import ConfigError
from mmssl_ext.evaluation.classes import class_names, in_numbers_of
from mmssl_ext.evaluation.clustering import clustering_of
from mmssl_ext.evaluation.copies import say_copies
from mmssl_ext.evaluation.features import Features, extract_features
from mmssl_ext.evaluation.knn import knn_accuracy
from mmssl_ext.files import drafted
from mmssl_ext.registry import MODELS

from .runner import SSLRunner


def evaluate_checkpoint(
    cfg: Config,
    checkpoint: str | Path,
    encoder: str | None = None,
    k: int | None = None,
    temperature: float | None = None,
    features: str | Path | None = None,
) -> dict[str, float]:
    """Classify and cluster with a checkpoint, by the settings of the config's kNN hook.

    Args:
        cfg: Config with ``default_hooks.knn``, which names both sets of images.
        checkpoint: Its weights; they must fit the model exactly.
        encoder: ``query``, ``key`` or ``both``; else the hook's.
        k: Number of voters; else the hook's.
        temperature: Of the vote; else the hook's.
        features: Write the features of the query set to this .npz: one n x C array per
            feature, ``labels`` (-1 where there is none) and ``paths``. Images without
            labels are then allowed and give no accuracy.

    Returns:
        Accuracies and clustering scores in percent, empty without labels.

    Raises:
        UserError: Config, checkpoint or data cannot be used.
    """
    import_modules(cfg)
    hook = _knn_of(cfg)
    init_default_scope(cfg.default_scope)
    model = MODELS.build(cfg.model).to(get_device())
    load_strictly(model, checkpoint)

    def extract(loader: Any) -> Features:
        warn_of_unread(loader.dataset)
        mode = encoder or hook.get("encoder", "query")
        return extract_features(model, loader, mode, digests=True)

    query = extract(SSLRunner.build_dataloader(hook["query_dataloader"]))
    if features is not None:
        _write(features, query)
    if query.labels is None:
        if features is not None:
            return {}
        raise ConfigError(
            "kNN needs labelled images in default_hooks.knn; without labels only "
            "--features can be written."
        )
    loader = SSLRunner.build_dataloader(hook["bank_dataloader"])
    known = class_names(loader.dataset)
    in_numbers_of(query.labels.numpy(), query.classes, known)  # before the long work
    bank = extract(loader)
    if bank.labels is None:
        message = "default_hooks.knn.bank_dataloader has images without labels."
        raise ConfigError(message)
    say_copies(query, bank, ("query", "bank"))
    k = k or hook.get("k", 200)
    temperature = temperature or hook.get("temperature", 0.1)
    scores = knn_accuracy(query, bank, k, temperature, device=get_device())
    clusters = hook.get("num_clusters")
    return scores | clustering_of(query, num_clusters=clusters, device=get_device())


def _knn_of(cfg: Config) -> dict[str, Any]:
    """The config of the kNN hook, checked together with the model."""
    hook = (cfg.get("default_hooks") or {}).get("knn")
    if hook is None:
        raise ConfigError(
            "The config has no default_hooks.knn, which names the images to "
            "evaluate on (bank_dataloader and query_dataloader)."
        )
    check_config({"model": cfg.model, "default_hooks": {"knn": hook}})
    return hook


def _write(path: str | Path, found: Features) -> None:
    path = Path(path)
    if path.suffix != ".npz":
        path = path.with_name(f"{path.name}.npz")
    path.parent.mkdir(parents=True, exist_ok=True)
    none = np.full(len(found.paths), -1)
    labels = none if found.labels is None else found.labels.numpy()
    arrays: dict[str, Any] = {n: x.numpy() for n, x in found.features.items()}
    with drafted(path) as draft, draft.open("wb") as file:
        np.savez(file, paths=np.array(found.paths), labels=labels, **arrays)
