"""A chain: pretrain, then carry the checkpoint to every transfer, and compare.

A chain file is a config file, for instance::

    pretrain = dict(                       # optional: sources alone will do
        config="configs/co2/co2_r50_imagenet.py",
        options=dict(max_epochs=100),
    )
    sources = {                            # what every transfer starts from
        "random": None,                    # random initialisation
        "pretrained": "pretrain",          # last checkpoint of the pretraining above
        "start": "start",                  # what that pretraining itself began with
        "supervised": "resnet50-11ad3fa6.pth",
    }
    transfers = dict(
        voc=dict(
            config="configs/transfer/detection/faster_rcnn_r50_c4_voc0712.py",
            title="VOC07+12 detection",    # for the reader; else the name
            options=dict(max_iters=12000),
        ),
    )
    seeds = (0,)
    options = dict(num_workers=4)          # of every transfer; its own options win
    note = "What a reader of the page should know of these data."

``options`` are those of ``tools/train.py --cfg-options``: variables or dotted keys of
the config, here with any plain Python values. The chain itself sets ``checkpoint``, the
variable by which the transfer configs take their source, and ``randomness.seed``. Paths
are relative to the current folder or else to that of the chain file; a config that is
in neither is one of the package's, as on the command line. Variables of your own,
``_base_``, ``{{$VARIABLE:default}}`` and all else of config files work as usual.

Every combination is a stage ``<transfer>-<source>-seed<seed>``, beside ``pretrain``.
"""

from __future__ import annotations

import ast
import contextlib
import copy
import difflib
import io
import pprint
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmengine.config import Config

from mmssl_ext.engine.config.checks import closest
from mmssl_ext.errors import ConfigError
from mmssl_ext.files import write_text
from mmssl_ext.packaged import find_config, packaged_config
from mmssl_ext.run.launch import load_config, prepare
from mmssl_ext.transfer.data_check.own import check_own_data
from mmssl_ext.transfer.handover import check_source

from .sources import NAME, PRETRAIN, find, read_sources

# Stands for every source's path where the stages' inputs are compared: a checkpoint
# counts by its content.
_ANY_CHECKPOINT = "checkpoint.pth"
_KEYS = {PRETRAIN, "sources", "transfers", "seeds", "options", "note"}


@dataclass(frozen=True)
class Stage:
    """One run of a chain.

    Attributes:
        name: Also the name of its folder.
        config: Config file.
        options: Of ``load_config``, without the checkpoint.
        transfer: Name of the transfer, or ``pretrain``.
        title: What a reader calls it.
        source: Name of the source, None for pretraining.
        checkpoint: Path of the source, ``pretrain`` for the last checkpoint of that
            stage, None for random initialisation.
        seed: Seed, None where the config decides.
    """

    name: str
    config: Path
    options: dict[str, Any]
    transfer: str
    title: str
    source: str | None = None
    checkpoint: Path | str | None = None
    seed: int | None = None

    @property
    def needs(self) -> str | None:
        """Name of the stage that must have finished before."""
        return PRETRAIN if self.checkpoint == PRETRAIN else None

    def load(self, checkpoint: str | None = _ANY_CHECKPOINT) -> Config:
        """Load the config with its options and this checkpoint.

        Raises:
            ConfigError: The message names the stage.
        """
        options = dict(self.options)
        if self.transfer != PRETRAIN:
            options["checkpoint"] = None if self.checkpoint is None else checkpoint
        try:
            # The toolboxes that a config imports print what nobody asked for.
            with contextlib.redirect_stdout(io.StringIO()):
                cfg = load_config(self.config, options)
        except ConfigError as error:
            raise ConfigError(f"Stage {self.name}: {error}") from error
        hooks = cfg.get("default_hooks") or {}
        types = [(hook or {}).get("type", "") for hook in hooks.values()]
        if not any(str(kind).endswith("ResultHook") for kind in types):
            cfg.merge_from_dict(
                {"default_hooks": {"result": {"type": "mmssl_ext.ResultHook"}}}
            )
        return cfg

    def write(self, path: Path, checkpoint: str | None) -> None:
        """Write the config with all options applied, which the stage then runs.

        ``Config.dump`` would sort the keys, and with them the metrics, of which the
        first is the headline.
        """
        settings = self.load(checkpoint).to_dict()
        origin = f"# {self.config} as stage {self.name} of a chain runs it.\n"
        lines = [
            f"{name} = {pprint.pformat(value, width=88, sort_dicts=False)}\n"
            for name, value in settings.items()
        ]
        try:
            ast.literal_eval(repr(settings))
        except (ValueError, SyntaxError) as error:
            raise ConfigError(
                f"Stage {self.name}: {self.config} holds a value that is no plain "
                f"Python literal, which a chain cannot hand on ({error})."
            ) from error
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, origin + "".join(lines))


@dataclass
class Chain:
    """What a chain file says.

    Attributes:
        file: The chain file.
        stages: In the order in which they run.
        sources: Name to path, ``pretrain`` or None.
        titles: Of the transfers, by name.
        note: What the page says of the data, or nothing.
    """

    file: Path
    stages: list[Stage] = field(default_factory=list)
    sources: dict[str, Path | str | None] = field(default_factory=dict)
    titles: dict[str, str] = field(default_factory=dict)
    note: str = ""

    def stage(self, name: str) -> Stage:
        """Return a stage by its name.

        Raises:
            ConfigError: There is none.
        """
        for stage in self.stages:
            if stage.name == name:
                return stage
        names = [stage.name for stage in self.stages]
        raise ConfigError(
            f"{self.file} has no stage '{name}'.{closest(name, names)} "
            "--list shows all."
        )

    def select(self, names: list[str]) -> list[Stage]:
        """Stages by name, or by the name of their transfer or source.

        Raises:
            ConfigError: A name fits nothing.
        """
        for name in names:
            if not any(name in (s.name, s.transfer, s.source) for s in self.stages):
                self.stage(name)
        return [
            stage
            for stage in self.stages
            if not names or {stage.name, stage.transfer, stage.source} & set(names)
        ]


def read_chain(path: str | Path) -> Chain:
    """Read a chain file and everything that it names, except the data.

    Raises:
        ConfigError: Something in it cannot be used; the message names the place.
    """
    with contextlib.suppress(FileNotFoundError):  # of which load_config says more
        path = find_config(path)
    path = Path(path)
    cfg = load_config(path).to_dict()
    cfg.pop("default_scope", None)
    for key in cfg.keys() - _KEYS:  # variables of the file's own, or slips of the pen
        if meant := difflib.get_close_matches(key, _KEYS, 1, cutoff=0.8):
            raise ConfigError(
                f"{path}: a chain has no '{key}'. Did you mean {meant[0]}?"
            )
    common = _options(cfg.get("options"), f"{path}: options")
    note = cfg.get("note") or ""
    if not isinstance(note, str):
        raise ConfigError(f"{path}: note must be a text, not {note!r}.")
    chain = Chain(path, note=note)
    if cfg.get(PRETRAIN):
        chain.stages.append(_stage(path, cfg[PRETRAIN], PRETRAIN, "Pretraining"))
    chain.sources = read_sources(path, cfg, lambda: chain.stages[0].load())
    seeds = cfg.get("seeds", (0,))
    whole = isinstance(seeds, list | tuple) and all(type(x) is int for x in seeds)
    if not whole or not seeds or len({*seeds}) < len(seeds):
        raise ConfigError(f"{path}: seeds must be different integers, like (0, 1, 2).")
    transfers = cfg.get("transfers") or {}
    if not isinstance(transfers, dict) or not transfers:
        raise ConfigError(
            f"{path}: transfers = dict(NAME=dict(config=...)) is missing."
        )
    for name, entry in transfers.items():
        if entry is None:  # of a base chain, switched off
            continue
        first = _stage(path, entry, name, name, common)
        chain.titles[name] = first.title
        for source, checkpoint in chain.sources.items():
            for seed in seeds:
                stage = Stage(
                    f"{name}-{source}-seed{int(seed)}",
                    first.config,
                    {"randomness.seed": int(seed), **first.options},
                    name,
                    first.title,
                    source,
                    checkpoint,
                    int(seed),
                )
                chain.stages.append(stage)
    names = [stage.name for stage in chain.stages]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ConfigError(f"{path}: two stages would be called {', '.join(twice)}.")
    return chain


def check_stages(stages: list[Stage]) -> None:
    """Check configs, options, data and sources before the first stage starts.

    Raises:
        UserError: What cannot be used; the message names the stage.
    """
    seen: set[object] = set()
    for stage in stages:
        takes_weights = "PretrainedBackbone" in repr(stage.load().to_dict())
        source = stage.checkpoint, stage.options.get("encoder", "query")
        if takes_weights and isinstance(source[0], Path) and source not in seen:
            seen.add(source)
            check_source(source[0], source[1])
        if stage.transfer not in seen:  # the sources and seeds share their data
            seen.add(stage.transfer)
            cfg = stage.load(None)
            try:
                with contextlib.redirect_stdout(io.StringIO()):
                    prepare(copy.deepcopy(cfg), work_dir="unused")
                if stage.source:  # the pretraining comes first
                    check_own_data(cfg.to_dict(), seen)
            except ConfigError as error:
                raise ConfigError(f"Stage {stage.name}: {error}") from error


def _stage(
    path: Path, entry: Any, name: str, title: str, common: Mapping = {}
) -> Stage:
    place = f"{path}: {'transfers.' if name != PRETRAIN else ''}{name}"
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise ConfigError(f"{place}: use letters, digits, '_', '.' and '-' in names.")
    if not isinstance(entry, dict) or not isinstance(entry.get("config"), str):
        raise ConfigError(f"{place} must be dict(config=PATH, options=..., title=...).")
    if unknown := entry.keys() - {"config", "options", "title"}:
        raise ConfigError(
            f"{place}: '{min(unknown)}' is none of config, options and title."
        )
    options = {**common, **_options(entry.get("options"), f"{place}.options")}
    if name != PRETRAIN and "checkpoint" in options:
        raise ConfigError(
            f"{place}: the chain sets the option checkpoint; name it in sources."
        )
    config = find(path, entry["config"], f"{place}.config", packaged_config)
    return Stage(name, config, options, name, str(entry.get("title", title)))


def _options(given: Any, place: str) -> dict[str, Any]:
    given = given or {}
    if not isinstance(given, dict):
        raise ConfigError(f"{place} must be a dict of options.")
    for name, value in given.items():
        try:
            plain = ast.literal_eval(repr(value)) == value
        except (ValueError, SyntaxError):
            plain = False
        if not plain:
            raise ConfigError(
                f"{place}: '{name}' must be a plain Python value, not {value!r}."
            )
    return given
