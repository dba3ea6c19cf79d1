"""The best checkpoint by any score that a run logs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mmengine.hooks import CheckpointHook

from mmssl_ext.errors import ConfigError

from . import best_scores
from .best_scores import LoggedScores, is_better
from .files import LateRemoval, from_main_process
from .manifest import manifests


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
        self._logged = LoggedScores()
        self._validated = self._checked = False

    def _init_rule(self, rules: list[Any], key_indicators: list[str]) -> None:
        """Fill in the rules that are known."""
        if len(rules) == 1:
            rules = rules * len(key_indicators)
        if self._infers:
            pairs = zip(rules, key_indicators, strict=True)
            rules = [rule or best_scores.rule_of(key) for rule, key in pairs]
        super()._init_rule(rules, key_indicators)

    def before_train(self, runner: Any) -> None:
        """Go on from the best so far; refuse a kNN accuracy that nobody measures."""
        super().before_train(runner)
        if not self.save_best:
            return
        hub = runner.message_hub
        known = hub.get_info("best_keys", None)
        for key in self.key_indicators:
            if known is not None and key not in known:  # of another score
                hub.update_info(self._info("best_score", key), None)
                self._set_path(key, None)
        self._adopt(runner)
        self._logged.skip(runner)
        first = "auto" in self.key_indicators and best_scores.automatic(runner)
        best_scores.check_interval(runner, [*self.key_indicators, first or ""])
        keys = [x for x in self.key_indicators if x.startswith("knn/")]
        lost = best_scores.missing(runner, keys)
        if lost := [x for x in lost if not best_scores.may_come(runner, x, False)]:
            raise best_scores.refusal(lost, best_scores.names(runner))

    def _adopt(self, runner: Any) -> None:
        """Take up a best one that was saved after the checkpoint which is resumed."""
        run = getattr(self, "_run", None)
        if run is None or not isinstance(self.out_dir, (str, Path)):
            return
        hub = runner.message_hub
        for key, rule in zip(self.key_indicators, self.rules, strict=True):
            best = hub.get_info(self._info("best_score", key), None)
            for path, facts in manifests(Path(self.out_dir)):
                score = facts.get("score") or {}
                mine = facts.get("kind") == "best" and facts.get("run") == run.id
                if not (mine and score.get("name") == key and path.exists()):
                    continue
                if rule and is_better(score["value"], best, rule):
                    best = score["value"]
                    hub.update_info(self._info("best_score", key), best)
                    self._set_path(key, str(path))
                    hub.update_info(self._info("best_ckpt", key), str(path))

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
        place = runner.epoch, runner.iter
        scores = {x: metrics[x] for x in self.key_indicators if x in metrics}
        saved = self._save_best(runner, scores, *place)
        if saved and self.last_ckpt is not None:  # it is to know of the best one
            step = place[0] if self.by_epoch else place[1]
            meta = {"epoch": place[0], "iter": place[1]}
            self._save_checkpoint_with_step(runner, step, meta)
        self._check(runner, metrics)

    def _save_logged_best(self, runner: Any, epoch: int, iteration: int) -> None:
        """Save the best by what the hooks of the run have logged."""
        if not self.save_best:
            return
        if "auto" in self.key_indicators:
            self._resolve(from_main_process(lambda: best_scores.automatic(runner)))
        scores = from_main_process(
            lambda: self._logged.new(runner, self.key_indicators)
        )
        self._save_best(runner, scores, epoch, iteration)
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

    def _save_best(
        self, runner: Any, scores: dict[str, float], epoch: int, iteration: int
    ) -> bool:
        """Save a checkpoint for every score that is the best so far."""
        hub, saved = runner.message_hub, False
        step = epoch if self.by_epoch else iteration
        for key, rule in zip(self.key_indicators, self.rules, strict=True):
            score = scores.get(key)
            best = hub.get_info(self._info("best_score", key), None)
            if score is None or not is_better(score, best, rule):
                continue
            score, saved = float(score), True
            name = f"best_{key}_{self.filename_tmpl.format(step)}".replace("/", "_")
            path = self.file_backend.join_path(self.out_dir, name)
            self._remove_own(self._path(key))
            hub.update_info("best_keys", list(self.key_indicators))
            hub.update_info(self._info("best_score", key), score)
            hub.update_info(self._info("best_ckpt", key), path)
            self._set_path(key, path)
            runner.call_hook("before_write_checkpoint")
            self._write_best(runner, name, epoch, iteration, key, score)
            runner.logger.info(
                f"The best checkpoint by {key} ({score:.4f}) is {name}, of epoch "
                f"{epoch}, iteration {iteration}."
            )
        return saved

    def _write_best(
        self, runner: Any, name: str, epoch: int, done: int, key: str, score: float
    ) -> None:
        meta = {"epoch": epoch, "iter": done}
        if isinstance(self.file_backend, LateRemoval):
            path = self.file_backend.join_path(self.out_dir, name)
            facts = {"score": {"name": key, "value": score}}
            self._save(runner, path, meta, False, False, "best", **facts)
            return
        runner.save_checkpoint(
            self.out_dir,
            filename=name,
            file_client_args=self.file_client_args,
            save_optimizer=False,
            save_param_scheduler=False,
            meta=meta,
            by_epoch=False,
            backend_args=self.backend_args,
        )

    def _remove_own(self, path: str | None) -> None:
        """Remove the one that was the best, unless another run wrote it."""
        if path is None:
            return
        mine = self.file_backend.join_path(self.out_dir, Path(path).name)
        if self.file_backend.isfile(mine):
            self.file_backend.remove(mine)

    def _check(self, runner: Any, metrics: dict | None = None) -> None:
        """Refuse scores that cannot come any more; everything is saved."""
        if self._checked:
            return

        def find() -> tuple[bool, list[str]]:
            left = best_scores.missing(runner, self.key_indicators, metrics or {})
            seen = self._validated
            lost = [x for x in left if not best_scores.may_come(runner, x, seen)]
            return not left, lost

        self._checked, lost = from_main_process(find)
        if lost:
            saved = self.save_now(runner)
            known = best_scores.names(runner, metrics or {})
            raise best_scores.refusal(lost, known, saved)

    def _say_what_is_missing(self, runner: Any) -> None:
        """Tell at the end of scores that never came."""
        for key in self.key_indicators if self.save_best else ():
            if runner.message_hub.get_info(self._info("best_score", key), None) is None:
                runner.logger.error(
                    f"save_best: no {key} was logged in this run, so there is no best "
                    f"checkpoint by it. Its scores: "
                    f"{', '.join(best_scores.names(runner)) or 'none'}."
                )

    def _info(self, name: str, key: str) -> str:
        """Name of an entry of the message hub, as mmengine has it."""
        return name if len(self.key_indicators) == 1 else f"{name}_{key}"

    def _path(self, key: str) -> str | None:
        if len(self.key_indicators) == 1:
            return self.best_ckpt_path
        return self.best_ckpt_path_dict.get(key)

    def _set_path(self, key: str, path: str | None) -> None:
        if len(self.key_indicators) == 1:
            self.best_ckpt_path = path
        else:
            self.best_ckpt_path_dict[key] = path
