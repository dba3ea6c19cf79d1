"""Turn the logs of runs into a result: one row per kNN measurement.

Run: python benchmarks/collect_run.py WORK_DIR... NAME, which writes results/NAME.csv.
"""

import sys
from pathlib import Path

import common

from mmssl_ext.visualization import logs


def main(*work_dirs: str, name: str) -> None:
    """Read the logs and write the rows."""
    common.write_rows(name, [row for folder in work_dirs for row in rows(folder)])


def rows(work_dir: str) -> list[dict]:
    """The measurements of one run."""
    log, facts = logs.read_run(work_dir), logs.read_facts(work_dir)
    epochs = log.train[-1]["epoch"]
    return [
        {
            "run": Path(work_dir).name,
            "config": facts["config"],
            "method": facts["method"],
            "seed": facts["seed"],
            "epoch": row["epoch"],
            "backbone_top1": round(row["knn/backbone_top1"], 2),
            "embedding_top1": round(row["knn/embedding_top1"], 2),
            "train_minutes": round(log.seconds() / 60 * row["epoch"] / epochs, 1),
            "device": facts["device"],
        }
        for row in log.knn
    ]


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    main(*sys.argv[1:-1], name=sys.argv[-1])
