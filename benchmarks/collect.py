"""Turn runs into a result: a row per kNN measurement, or per finished stage of a chain.

Paths stay out of it. Settings are named by the hash of their recipe, taken from the
configs that the runs left in their folders, checkpoints by the hash of the file.
"""

import argparse
import csv
from pathlib import Path

import common
from mmengine.config import Config
from recipe import recipe
from rows import NOT_RECORDED

from mmssl_ext.chain.spec import PRETRAIN
from mmssl_ext.visualization import logs

CHAIN_TABLE = "results.csv"
STAGE = ("transfer", "source", "seed", "metric", "value")
MEASURED = ("seconds", "memory_mb", "device")


def rows(work_dir: str | Path) -> list[dict]:
    """What a run or a chain left in its folder."""
    chain = Path(work_dir, CHAIN_TABLE).is_file()
    return chain_rows(Path(work_dir)) if chain else run_rows(Path(work_dir))


def run_rows(work_dir: Path) -> list[dict]:
    """The kNN measurements of one run."""
    log, facts = logs.read_run(work_dir), logs.read_facts(work_dir)
    epochs = log.train[-1]["epoch"]
    settings = recipe(Config.fromfile(work_dir / facts["config"]))
    return [
        {
            "run": work_dir.name,
            "config": facts["config"],
            "method": facts["method"],
            "seed": facts["seed"],
            "recipe": settings,
            "epoch": row["epoch"],
            "backbone_top1": round(row["knn/backbone_top1"], 2),
            "embedding_top1": round(row["knn/embedding_top1"], 2),
            "train_minutes": round(log.seconds() / 60 * row["epoch"] / epochs, 1),
            "device": facts["device"],
            **unsaid(work_dir),
        }
        for row in log.knn
    ]


def settings(work_dir: Path, stage: str) -> str:
    """Recipe of a stage of a chain."""
    return recipe(Config.fromfile(work_dir / "configs" / f"{stage}.py"))


def chain_rows(work_dir: Path) -> list[dict]:
    """The finished stages of a chain, with the metrics in columns at the right."""
    with (work_dir / CHAIN_TABLE).open(encoding="utf-8") as file:
        table = csv.DictReader(file)
        names = list(table.fieldnames or ())
        stages = [row for row in table if row["status"] == "finished"]
    metrics = names[names.index("reason") + 1 :]

    return [
        {key: row[key] for key in STAGE}
        | {
            "recipe": settings(work_dir, row["stage"]),
            "source_recipe": settings(work_dir, PRETRAIN) if pretrained(row) else "",
            "source_sha256": row["source_sha256"][:12],
        }
        | {key: row[key] for key in (*MEASURED, *metrics)}
        | {"torch": row["torch_version"], "onedl-mmengine": row["mmengine_version"]}
        | unsaid(work_dir, row.get("threads"))
        for row in stages
    ]


def unsaid(work_dir: Path, threads: str | None = None) -> dict[str, str]:
    """What a run does not say itself, else those of who collects would be taken."""
    said = {"threads": threads, "commit": commits(work_dir)}
    return {name: value or NOT_RECORDED for name, value in said.items()}


def commits(place: Path) -> str:
    """Those that a run was trained with, the first first."""
    file = place.with_name(f"{place.name}.commit")
    found = file.read_text().split() if file.is_file() else []
    return " ".join(dict.fromkeys(found))


def pretrained(row: dict[str, str]) -> bool:
    """Whether a stage starts from the pretraining of its own chain."""
    return Path(row["source_checkpoint"]).parent.name == PRETRAIN


def main(*work_dirs: str, name: str) -> None:
    """Read the folders and write the rows."""
    common.write_rows(name, [row for folder in work_dirs for row in rows(folder)])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("work_dirs", nargs="+", help="of tools/train.py or chain.py")
    parser.add_argument("name", help="of the result, results/NAME.csv")
    args = parser.parse_args()
    main(*args.work_dirs, name=args.name)
