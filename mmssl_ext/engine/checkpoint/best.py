"""The best checkpoint by any score that a run logs."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from mmengine.hooks import CheckpointHook

from mmssl_ext.compat import val_loop
from mmssl_ext.errors import ConfigError

from .manifest import manifests
from .saver import Saver, from_first_rank

# Parts of names of scores whose rule mmengine does not know, or takes for the other.
_LESS = ("loss", "alignment", "uniformity", "error")
_GREATER = ("rank", "std_ratio", "gap", "ap50", "ap75", "recall", "f1", "nmi", "_ari")
# What a run logs besides scores.
_NO_SCORES = ("time", "lr", "memory", "eta", "img_per_s", "data_wait", "momentum")
_LOGGED_BY = {
    "knn/": "KNNHook",
    "clustering/": "KNNHook",
    "health/": "CollapseMonitorHook",
    "probe/": "OnlineProbeHook",
}
_BY_KNN = ("knn/", "clustering/")
_TOOLBOXES = {"mmssl_ext", "mmengine", "mmcv", "mmdet", "mmseg", "mmpretrain"}


class BestCheckpoints(CheckpointHook):
    """The part of the checkpoint hook that ``save_best`` asks for.

    mmengine looks at the metrics of a validation only. Here a score may be any that the
    run logs: ``knn/backbone_top1``, ``health/effective_rank``, a loss (its mean over
    the window of the log), ``coco/bbox_mAP``, ``mIoU``. ``auto`` is the first metric of
    the validation; without one the first kNN accuracy, or without labels the effective
    rank. ``rule`` is known for all of these.

    A score that is new when an epoch ends (or, by iterations, when a checkpoint is due)
    is compared with the best so far, which a resumed run goes on from. What was logged
    before the first step counts for nothing. A run that will never log the score is
    refused after its first epoch or validation, with everything saved.
    """

    _saver: Saver
    save_now: Callable[[Any], str]
    key_indicators: list[str]
    rules: list[str | None]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        given = ("greater_keys", "less_keys")
        self._infers = not any(kwargs.get(name) for name in given)
        try:
            super().__init__(*args, **kwargs)
        except (AssertionError, KeyError, ValueError) as error:
            text = str(error.args[0]) if error.args else str(error)
            raise ConfigError(
                f"default_hooks.checkpoint: {text.rstrip('.')}. The rule is greater or "
                "less."
            ) from error
        if not self.save_best:
            self.key_indicators, self.rules = [], []
        self._seen: dict[str, Any] = {}  # histories of scores, as last looked at
        self._validated = self._checked = False

    def _init_rule(self, rules: list[Any], key_indicators: list[str]) -> None:
        """Fill in the rules that mmengine does not know."""
        if len(rules) == 1:
            rules = rules * len(key_indicators)
        if self._infers:
            pairs = zip(rules, key_indicators, strict=True)
            rules = [rule or _rule_of(key.lower()) for rule, key in pairs]
        super()._init_rule(rules, key_indicators)

    # Before and after the training

    def _begin_best(self, runner: Any, run: str) -> None:
        """Go on from the best so far; refuse a score that nobody will measure.

        Also from one that was saved after the checkpoint which is resumed: the
        manifests of the files of this run tell.
        """
        hub = runner.message_hub
        for key, rule in zip(self.key_indicators, self.rules, strict=True):
            for path, facts in manifests(Path(self.out_dir)):
                score = facts.get("score") or {}
                mine = facts.get("kind") == "best" and facts.get("run") == run
                if not (mine and score.get("name") == key and path.exists()):
                    continue
                if _is_better(score["value"], self._best(runner, key), rule):
                    for name, value in self._notes(key, score["value"], path).items():
                        hub.update_info(name, value)
        # Of untrained weights, or from before a resume.
        self._seen = {name: x.data[0] for name, x in hub.log_scalars.items()}
        self._check_interval(runner)
        self._refuse(runner, [x for x in self._lost(runner) if x.startswith(_BY_KNN)])

    def _best_files(self, runner: Any) -> list[str | None]:
        return [self._best(runner, key, "ckpt") for key in self.key_indicators]

    def _say_what_is_missing(self, runner: Any) -> None:
        """Tell at the end of scores that never came."""
        for key in self.key_indicators:
            if self._best(runner, key) is None:
                runner.logger.error(
                    f"save_best: no {key} was logged in this run, so there is no best "
                    f"checkpoint by it. Its scores: {_listed(runner)}."
                )

    # Whenever scores may be new

    def after_val_epoch(
        self, runner: Any, metrics: dict[str, float] | None = None
    ) -> None:
        """Save the best by the metrics of a validation."""
        super().after_val_epoch(runner, metrics or {})

    def _save_best_checkpoint(self, runner: Any, metrics: dict) -> None:
        if not self.save_best:
            return
        self._validated = True
        self._resolve(next(iter(metrics)))
        scores = {x: metrics[x] for x in self.key_indicators if x in metrics}
        meta = {"epoch": runner.epoch, "iter": runner.iter}
        saved = self._save_best(runner, scores, meta)
        if saved and self.last_ckpt is not None:  # it is to know of the best one
            step = meta["epoch" if self.by_epoch else "iter"]
            self._save_checkpoint_with_step(runner, step, meta)
        self._check(runner, metrics)

    def _save_logged_best(self, runner: Any, meta: dict[str, int]) -> None:
        """Save the best by what the hooks of the run have logged."""
        if not self.save_best:
            return
        if "auto" in self.key_indicators:
            self._resolve(from_first_rank(lambda: _automatic(runner)))
        self._save_best(runner, from_first_rank(lambda: self._new(runner)), meta)
        self._check(runner)

    def _resolve(self, name: str | None) -> None:
        """Put a name in the place of ``auto``."""
        if name is None or "auto" not in self.key_indicators:
            return
        try:
            self._init_rule(self.rules, [name])
        except ValueError as error:
            raise ConfigError(
                f"default_hooks.checkpoint.save_best: auto is {name} here, of which it "
                "is not known what is better: set rule to greater or less."
            ) from error

    def _new(self, runner: Any) -> dict[str, float]:
        """Scores that were logged since the last call; losses as in the log."""
        scalars, found = runner.message_hub.log_scalars, {}
        for key in self.key_indicators:
            name = key if key in scalars else f"train/{key}"
            if name not in scalars:
                continue
            history = scalars[name].data[0]  # every update makes another array
            if len(history) == 0 or self._seen.get(name) is history:
                continue
            self._seen[name] = history
            window = getattr(runner.log_processor, "window_size", 10)
            smooth = "loss" in key and isinstance(window, int)
            buffer = scalars[name]
            found[key] = float(buffer.mean(window) if smooth else buffer.current())
        return found

    def _save_best(
        self, runner: Any, scores: dict[str, float], meta: dict[str, int]
    ) -> bool:
        """Save a checkpoint for every score that is the best so far."""
        saved, step = False, meta["epoch" if self.by_epoch else "iter"]
        for key, rule in zip(self.key_indicators, self.rules, strict=True):
            score = scores.get(key, math.nan)
            if not _is_better(score, self._best(runner, key), rule):
                continue
            score, saved = float(score), True
            name = f"best_{key}_{self.filename_tmpl.format(step)}".replace("/", "_")
            path, last = Path(self.out_dir, name), self._best(runner, key, "ckpt")
            self._saver.save(
                path,
                meta,
                "best",
                optimizer=False,
                schedulers=False,
                notes=self._notes(key, score, path),
                # in this folder: in another one it may be another run's
                outdated=[Path(self.out_dir, Path(last).name)] if last else [],
                score={"name": key, "value": score},
            )
            runner.logger.info(
                f"The best checkpoint by {key} ({score:.4f}) is {name}, of epoch "
                f"{meta['epoch']}, iteration {meta['iter']}."
            )
        return saved

    def _best(self, runner: Any, key: str, what: str = "score") -> Any:
        """The best ``score`` so far, or its file (``ckpt``), if there is one."""
        hub = runner.message_hub
        if key not in (hub.get_info("best_keys", None) or [key]):
            return None  # the entries are those of another score
        return hub.get_info(self._entry(what, key), None)

    def _notes(self, key: str, score: float, path: Path) -> dict[str, Any]:
        """Entries of the message hub, as mmengine has them; whose they are is new."""
        return {
            "best_keys": list(self.key_indicators),
            self._entry("score", key): score,
            self._entry("ckpt", key): str(path),
        }

    def _entry(self, what: str, key: str) -> str:
        return f"best_{what}" + (f"_{key}" if len(self.key_indicators) > 1 else "")

    # Scores that never come

    def _check_interval(self, runner: Any) -> None:
        """Refuse a figure of the monitor that is due only after the end of the run."""
        monitors = _hooks(runner, "CollapseMonitorHook")
        every = min((getattr(x, "interval", 1) for x in monitors), default=0)
        late = every > 0 and (runner.iter // every + 1) * every > runner.max_iters
        keys = [(x == "auto" and _automatic(runner)) or x for x in self.key_indicators]
        wanted = [x for x in self._missing(runner, keys=keys) if "health/" in x]
        if wanted and late and runner.iter < runner.max_iters:
            raise ConfigError(
                f"default_hooks.checkpoint.save_best: {wanted[0]} is measured every "
                f"{every} iterations, but the run has {runner.max_iters}. Set "
                "default_hooks.collapse.interval to the iterations of an epoch or less."
            )

    def _check(self, runner: Any, metrics: Iterable[str] = ()) -> None:
        """Refuse scores that cannot come any more, with everything saved."""
        if self._checked:
            return
        missing, lost = from_first_rank(
            lambda: (self._missing(runner, metrics), self._lost(runner, metrics))
        )
        self._checked = not missing
        self._refuse(runner, lost, metrics, save=True)

    def _missing(
        self, runner: Any, metrics: Iterable[str] = (), keys: list[str] | None = None
    ) -> list[str]:
        """Scores that were not logged yet."""
        known = {*_names(runner, metrics), *runner.message_hub.log_scalars, "auto"}
        return [key for key in keys or self.key_indicators if key not in known]

    def _lost(self, runner: Any, metrics: Iterable[str] = ()) -> list[str]:
        """Those of them that will not be."""
        missing = self._missing(runner, metrics)
        return [x for x in missing if not self._may_come(runner, x)]

    def _may_come(self, runner: Any, key: str) -> bool:
        key, logged = key.removeprefix("train/"), _names(runner)
        for prefix, hook in _LOGGED_BY.items():
            if key.startswith(prefix):
                prefixes = tuple(p for p, by in _LOGGED_BY.items() if by == hook)
                spoken = any(name.startswith(prefixes) for name in logged)
                return bool(_hooks(runner, hook)) and not spoken
        if val_loop(runner) is not None and not self._validated:
            return True
        modules = {type(hook).__module__.split(".")[0] for hook in runner.hooks}
        return not modules <= _TOOLBOXES  # a hook of the user's may log it

    def _refuse(
        self,
        runner: Any,
        keys: list[str],
        metrics: Iterable[str] = (),
        save: bool = False,
    ) -> None:
        if not keys:
            return
        saved = self.save_now(runner) if save else ""
        done = f" All is saved in {saved}; then go on with --resume." if saved else ""
        raise ConfigError(
            f"default_hooks.checkpoint.save_best: this run logs no {', '.join(keys)}. "
            f"Name one of its scores ({_listed(runner, metrics)}), or remove "
            f"save_best.{done}"
        )


def _rule_of(name: str) -> str | None:
    if any(part in name for part in _LESS):
        return "less"
    return "greater" if any(part in name for part in _GREATER) else None


def _is_better(score: Any, best: Any, rule: str | None) -> bool:
    """Whether a score is a number and better than the best so far, if there is one."""
    if score is None or not math.isfinite(score):
        return False
    if best is None:
        return True
    return bool(score > best if rule == "greater" else score < best)


def _automatic(runner: Any) -> str | None:
    """What ``save_best="auto"`` means where nothing is validated, once this is known.

    It is the first kNN accuracy, and without a labelled set the effective rank.
    """
    if val_loop(runner) is not None:
        return None
    if _hooks(runner, "KNNHook"):
        scalars = runner.message_hub.log_scalars
        return next((x for x in scalars if x.startswith("knn/")), None)
    return "health/effective_rank"


def _names(runner: Any, metrics: Iterable[str] = ()) -> list[str]:
    """The scores that a run has logged so far, and these metrics."""
    logged = (x.removeprefix("train/") for x in runner.message_hub.log_scalars)
    scores = [x for x in logged if not x.split("/")[-1].endswith(_NO_SCORES)]
    return sorted({*metrics, *scores})


def _listed(runner: Any, metrics: Iterable[str] = ()) -> str:
    return ", ".join(_names(runner, metrics)) or "none"


def _hooks(runner: Any, kind: str) -> list[Any]:
    return [hook for hook in runner.hooks if type(hook).__name__ == kind]
